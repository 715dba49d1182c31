from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import independence_tests, invariance, paper_table, truths
from experiments.bmi import __main__ as bmi
from experiments.bmi import curves, proximity
from experiments.bmi.tasks import TASKS
from experiments.clusters import ClusterPair, draw_clusters
from experiments.independence_tests import STRUCTURES, auc, distance_correlation, draw
from experiments.report import circumstances, markdown_table, write_json
from flashmi_reg import FlashMI
from flashmi_reg.pretrained.prior import PROXIMITY


def record(**settings: Any) -> dict[str, Any]:
    weights = {"name": "base", "sha256": "0" * 64, "header": {"steps": 7}}
    return {"settings": settings, **circumstances(), "weights": weights}


class TestPaperTable:
    def test_every_column_is_a_task_with_the_published_truth(self) -> None:
        printed = (0.59, 1.02, 1.02, 0.45, 0.18, 1.02, 1.02, 1.71, 0.41)
        found = [round(TASKS[name].mi, 2) for name in paper_table.COLUMNS.values()]
        assert found == list(printed)
        assert all(len(means) == len(printed) for means, _ in paper_table.PUBLISHED.values())

    def test_accuracies_of_perfect_estimates_are_one_and_the_table_says_so(
        self, tmp_path: Path
    ) -> None:
        perfect = {column: [TASKS[name].mi] * 2 for column, name in paper_table.COLUMNS.items()}
        content = record(n=5_000, seeds=2)
        content |= {
            "weights": {"base": content["weights"]},
            "ours": {"base": {"values": perfect, "seconds": 0.1}},
        }
        path = write_json(tmp_path / "table.json", content)
        text = paper_table.markdown(path)
        assert "ours, base" in text
        assert "| 1.000 | 1.000 | 0.1 |" in text
        assert paper_table.draw_accuracies(tmp_path / "table.png", content).is_file()

    def test_accuracy_falls_with_the_error_on_either_side(self) -> None:
        assert paper_table.accuracy(0.9, 1.0) == pytest.approx(paper_table.accuracy(1.1, 1.0))
        assert paper_table.accuracy(2.5, 1.0) == pytest.approx(-0.5)


class TestInvariance:
    def test_maps_are_invertible_and_of_the_told_condition(self) -> None:
        matrix = invariance.random_map(4, torch.Generator().manual_seed(0))
        assert torch.linalg.cond(matrix).item() == pytest.approx(invariance.CONDITION, rel=1e-4)

    def test_the_table_tells_root_mean_square_and_greatest(self, tmp_path: Path) -> None:
        content = record(n=[1000], sets=1)
        cell = {"estimator": "base", "mi": 0.5, "d": 2, "n": 1000, "changes": [0.003, -0.004]}
        content |= {"weights": {"base": content["weights"]}, "cells": [cell]}
        text = invariance.markdown(write_json(tmp_path / "invariance.json", content))
        assert "| base | 2 + 2 | 0.5 | 0.0035, 0.0040 |" in text
        assert "greatest of 2" in text

    def test_changes_are_of_both_sides_in_every_set(self, tiny_path: Path) -> None:
        model = FlashMI.from_pretrained(tiny_path)
        found = invariance.changes(model.mutual_information, 0.5, 2, 200, 2)
        assert len(found) == 4
        assert 0 < max(map(abs, found)) < 0.5


class TestIndependenceTests:
    def test_auc_of_known_orders(self) -> None:
        dependent = torch.tensor([True, True, False, False])
        assert auc(torch.tensor([3.0, 4.0, 1.0, 2.0]), dependent) == 1.0
        assert auc(torch.tensor([1.0, 4.0, 2.0, 3.0]), dependent) == 0.5
        assert auc(torch.ones(4), dependent) == 0.5

    @pytest.mark.parametrize("structure", list(STRUCTURES))
    def test_independent_sets_have_the_margins_of_the_dependent_ones(self, structure: str) -> None:
        x, y, dependent = draw(structure, 8, 2_000, 4)
        of_dependent, of_others = (
            torch.cov(y[part].flatten(0, 1).T) for part in (dependent, ~dependent)
        )
        torch.testing.assert_close(of_dependent, of_others, atol=0.1, rtol=0)
        cross = (x.mT @ y / x.shape[1]).square().sum((1, 2))
        assert cross[dependent].min() > 2 * cross[~dependent].max()

    def test_independent_coordinates_have_their_correlations(self) -> None:
        x, y, dependent = draw("independent coordinates", 4, 20_000, 1)
        both = torch.cat([x, y], -1)[dependent][0]
        found = torch.corrcoef(both.T)[:4, 4:]
        torch.testing.assert_close(found, math.sqrt(0.5) * torch.eye(4), atol=0.03, rtol=0)

    def test_distance_correlation_of_equal_sides_is_one(self) -> None:
        x = torch.randn(1, 50, 3, generator=torch.Generator().manual_seed(0))
        assert distance_correlation(x, 2 * x).item() == pytest.approx(1.0, abs=1e-5)

    def test_an_interrupted_run_goes_on(
        self, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one = {"distance correlation": distance_correlation}
        monkeypatch.setattr(independence_tests, "statistics_of", lambda *_: one)
        out = tmp_path / "tests.json"
        few = ["--sets", "3", "--d", "12", "--structures", "one feature", "--out", str(out)]
        independence_tests.main([*few, "--n", "50"])
        first = json.loads(out.read_text())
        first["cells"][0]["auc"] = 0.123
        write_json(out, first)
        independence_tests.main([*few, "--n", "50"])
        assert json.loads(out.read_text())["cells"][0]["auc"] == 0.123
        assert "0.12" in independence_tests.markdown(out)
        assert "the run was stopped" not in independence_tests.markdown(out)
        capsys.readouterr()

    def test_where_plain_statistics_are_better_is_said(self, tmp_path: Path) -> None:
        content = json.loads(independence_tests.OUT.read_text())
        auc = {"sliced, small": 0.7, "joint, small": 0.95, "distance correlation": 0.95}
        content["cells"] = [
            {"structure": "one feature", "d": 16, "n": 50, "statistic": name, "auc": value}
            for name, value in auc.items()
        ]
        told = independence_tests.markdown(write_json(tmp_path / "tests.json", content))
        case = "one feature, d = 16: 0.70 of 0.95 at n = 50"
        assert f"*sliced, small* loses to the better of them in {case}." in told
        assert "*joint, small* loses to the better of them in no case." in told


class TestTruths:
    def test_truths_have_the_levels_of_their_names(self) -> None:
        for task in truths.closed_forms():
            if "nats" in task.family:
                assert f"{task.mi:.0f} nats" in task.name
                assert task.mi == pytest.approx(round(task.mi), abs=1e-6)

    def test_one_cluster_is_a_gaussian(self) -> None:
        rho = 0.6
        law = ClusterPair(
            1,
            torch.ones(1).double(),
            torch.zeros(1, 2).double(),
            torch.tensor([[[1.0, rho], [rho, 1.0]]]).double(),
        )
        expected = -0.5 * math.log(1 - rho**2)
        assert law.truth(torch.Generator().manual_seed(0)) == pytest.approx(expected, abs=0.006)

    def test_far_clusters_carry_their_entropy(self) -> None:
        law = ClusterPair(
            1,
            torch.full((4,), 0.25).double(),
            100 * torch.arange(4.0).double()[:, None].expand(4, 2),
            torch.eye(2).double().expand(4, 2, 2),
        )
        x, y = law.sample(2_000, torch.Generator().manual_seed(0))
        assert law.pointwise(x, y).mean().item() == pytest.approx(math.log(4), abs=0.05)

    def test_drawn_clusters_are_as_wide_as_asked(self) -> None:
        x, y = draw_clusters(3, 2, torch.Generator().manual_seed(0)).sample(10, torch.Generator())
        assert x.shape == y.shape == (10, 2)

    def test_table_and_figure_leave_out_what_was_not_estimated(self, tmp_path: Path) -> None:
        cells = [
            {"family": "a", "task": task, "n": n, "truth": 1.0, "values": values}
            for n in (100, 200)
            for task, values in (("1", [1.1, 0.9]), ("2", [] if n == 100 else [1.5]))
        ]
        content = record(n=[100, 200], seeds=2, sets=1, weights="base") | {"cells": cells}
        text = truths.markdown(write_json(tmp_path / "truths.json", content))
        assert "0.100 (+0.000, 1 tasks)" in text
        assert "0.233 (+0.250)" in text
        assert truths.draw_bias(tmp_path / "truths.png", content).is_file()


@pytest.mark.usefixtures("without_picture")
class TestBenchmark:
    @pytest.fixture
    def without_picture(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bmi, "draw_results", lambda path, *_: path)

    def run(self, folder: Path, *arguments: str) -> dict[str, Any]:
        out = folder / "bmi.json"
        bmi.main([*arguments, "--no-ours", "--subset", "wide", "--seeds", "1", "--out", str(out)])
        content: dict[str, Any] = json.loads(out.read_text())
        return content

    def test_results_are_kept_and_drawn(self, tmp_path: Path, capsys: Any) -> None:
        first = self.run(tmp_path, "--n", "200", "--baselines", "control")
        both = self.run(tmp_path, "--n", "400", "--baselines", "control", "--keep")
        assert both["settings"]["n"] == [200, 400]
        assert [c for c in both["cells"] if c["n"] == 200] == first["cells"]
        again = self.run(tmp_path, "--n", "200", "--baselines", "control", "--keep", "--reuse")
        assert again["cells"] == both["cells"]
        text = curves.markdown(tmp_path)
        assert "| Gaussian copula |" in text
        curves.main(["--group", "wide", "--results", str(tmp_path)])
        assert (tmp_path / "bmi_curves.png").is_file()
        capsys.readouterr()

    def test_results_of_several_files_are_joined(self, tmp_path: Path, capsys: Any) -> None:
        one, other = tmp_path / "one", tmp_path / "other"
        first = self.run(one, "--n", "200", "--baselines", "control")
        second = self.run(other, "--n", "300", "--baselines", "control")
        none = ("--n", "200", "--baselines", "--keep", "--add", str(other / "bmi.json"))
        joined = self.run(one, *none)
        assert joined["cells"] == first["cells"] + second["cells"]
        assert joined["settings"]["n"] == [200, 300]
        capsys.readouterr()

    def test_estimates_of_other_weights_do_not_stay(self) -> None:
        def results(checksum: str | None, *cells: tuple[str, int]) -> dict[str, Any]:
            return {
                "settings": {"n": [100], "seeds": [0], "subset": "all"},
                "weights": None if checksum is None else {"sha256": checksum},
                "baselines": {},
                "cells": [{"method": m, "task": "t", "n": n} for m, n in cells],
            }

        old = results("a", ("ours", 100), ("ours", 200), ("ksg", 100))
        changed = bmi._merged(old, results("b", ("ours", 100)))
        assert [(c["method"], c["n"]) for c in changed["cells"]] == [("ksg", 100), ("ours", 100)]
        assert len(bmi._merged(old, results("a", ("ours", 100)))["cells"]) == 3
        kept = bmi._merged(old, results(None, ("mine", 100)))
        assert len(kept["cells"]) == 4
        assert kept["weights"] == {"sha256": "a"}

    def test_methods_of_the_second_file_go_by_its_name(self, tmp_path: Path) -> None:
        row = {"method": "ours", "n": 100, "group": "narrow"}
        for name in ("bmi.json", "bmi_small.json"):
            write_json(tmp_path / name, {"summary": [row, row | {"method": "ksg"}]})
        assert [r["method"] for r in curves.rows_of(tmp_path)] == ["ours", "ksg", "small"]


def test_markdown_tables_have_a_rule_under_the_head() -> None:
    assert markdown_table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_every_task_of_the_benchmark_has_a_family_whose_proximity_is_told(tmp_path: Path) -> None:
    assert {proximity.family_of(task) for task in TASKS} == set(PROXIMITY)
    cells = [
        {"method": "ours", "task": task, "n": 1_000, "truth": 1.0, "values": [1.25]}
        for task in TASKS
    ]
    path = write_json(tmp_path / "bmi.json", {"settings": {"n": [1_000]}, "cells": cells})
    text = proximity.markdown(path)
    assert text.count("| 0.250 |") == len(PROXIMITY)
