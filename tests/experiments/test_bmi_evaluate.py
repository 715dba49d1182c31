from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from experiments.baselines import Estimate, GaussianCopula
from experiments.bmi import __main__ as program
from experiments.bmi.evaluate import Cell, broken, draw, run_baseline, run_ours, summarise
from experiments.bmi.tasks import TASKS
from experiments.report import hardware, number, table, write_json
from flashmi_reg.errors import InputError

NORMAL = TASKS["1v1-normal-0.75"]
WIDE = TASKS["multinormal-dense-25-25-0.5"]


class Oracle:
    """Stands in for the model: the exact critic of a normal pair with correlation 0.75."""

    def mutual_information(
        self, x: Tensor, y: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor:
        if x.shape[-1] > 10:
            raise InputError("`x` is too wide")
        return self.critic(x, y)(x, y).mean(-1)

    def critic(
        self, x: Tensor, y: Tensor, *, generator: torch.Generator | None = None
    ) -> Callable[[Tensor, Tensor], Tensor]:
        law = torch.distributions.MultivariateNormal(
            torch.zeros(2).double(), torch.tensor([[1.0, 0.75], [0.75, 1.0]]).double()
        )
        one = torch.distributions.Normal(0.0, 1.0)

        def pmi(a: Tensor, b: Tensor) -> Tensor:
            apart = one.log_prob(a).sum(-1) + one.log_prob(b).sum(-1)
            return law.log_prob(torch.cat([a, b], -1)) - apart

        return pmi


def cell(method: str, error: float, *, narrow: bool, n: int = 100) -> Cell:
    return Cell(method, "t", n, 1.0, narrow, (1 + error, 1 - error), 0.5, None, (0.1, 0.3), (0.8,))


def test_draws_of_a_seed_do_not_depend_on_their_number() -> None:
    few, many = draw(NORMAL, 50, 2), draw(NORMAL, 50, 3)
    assert torch.equal(few[0], many[0][:2])
    assert torch.equal(few[1], many[1][:2])


def test_broken_pairs_are_nowhere_whole() -> None:
    y = torch.arange(10.0)[:, None]
    assert not (broken(y) == y).any()
    assert torch.equal(broken(y).sort(0).values, y)


def test_an_exact_critic_has_no_error_at_fresh_pairs() -> None:
    found = run_ours(Oracle(), NORMAL, 2_000, 3)  # type: ignore[arg-type]
    assert len(found.values) == len(found.nulls) == len(found.fresh) == 3
    assert found.mean == pytest.approx(NORMAL.mi, abs=0.05)
    assert found.fresh[0] == pytest.approx(NORMAL.mi, abs=0.08)


def test_too_wide_a_task_is_left_out_and_other_errors_are_raised() -> None:
    assert run_ours(Oracle(), WIDE, 100, 2).values == ()  # type: ignore[arg-type]

    class Broken(Oracle):
        def mutual_information(self, x: Tensor, y: Tensor, **_: object) -> Tensor:
            raise InputError("`x` is wrong")

    with pytest.raises(InputError):
        run_ours(Broken(), NORMAL, 100, 2)  # type: ignore[arg-type]


def test_the_control_is_unbiased_on_gaussian_data_and_under_broken_pairs() -> None:
    found = run_baseline("control", GaussianCopula(), NORMAL, 1_000, 5)
    assert found.mean == pytest.approx(NORMAL.mi, abs=0.05)
    assert sum(found.nulls) / 5 == pytest.approx(0.0, abs=0.01)
    assert found.fresh == ()


def test_steps_are_averaged_over_seeds() -> None:
    def trained(x: Tensor, y: Tensor, seed: int) -> Estimate:
        return Estimate(float(seed), 2.0, steps=100 * seed)

    found = run_baseline("mine", trained, NORMAL, 50, 3)
    assert (found.steps, found.seconds, found.values) == (100, 2.0, (0.0, 1.0, 2.0))


def test_summary_keeps_narrow_and_wide_apart() -> None:
    cells = [
        cell("ours", 0.1, narrow=True),
        cell("ours", 0.3, narrow=True),
        Cell("ours", "w", 100, 1.0, False, (), 0.0),
        cell("control", 0.2, narrow=True),
        cell("control", 0.4, narrow=False),
    ]
    found = {(s.method, s.group): s for s in summarise(cells)}
    assert set(found) == {
        ("ours", "narrow"),
        ("control", "narrow"),
        ("control", "wide"),
        ("control", "all"),
    }
    ours = found["ours", "narrow"]
    assert ours.mae == pytest.approx(0.2)
    assert ours.bias == pytest.approx(0.0)
    assert ours.null == pytest.approx(0.2)
    assert ours.fresh == pytest.approx(-0.2)
    assert found["control", "all"].mae == pytest.approx(0.3)


def test_program_writes_its_results_and_reuses_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "TASKS", {t.name: t for t in (NORMAL, WIDE)})
    out = tmp_path / "bmi.json"
    arguments = ["--no-ours", "--n", "200", "--seeds", "2", "--out", str(out)]
    program.main(arguments)
    first = json.loads(out.read_text())
    assert out.with_suffix(".png").stat().st_size > 10_000
    assert first["settings"] == {"n": [200], "seeds": [0, 1], "subset": "all"}
    assert first["weights"] is None
    assert {"processor", "cores", "torch_threads"} <= first["hardware"].keys()
    assert {"python", "torch", "flashmi_reg"} <= first["versions"].keys()
    assert len(first["cells"]) == 2
    assert "1v1-normal-0.75" in capsys.readouterr().out

    monkeypatch.setattr(program, "run_baseline", None)  # must not be called again
    program.main([*arguments, "--reuse"])
    assert json.loads(out.read_text())["cells"] == first["cells"]


def test_report_helpers(tmp_path: Path) -> None:
    path = write_json(tmp_path / "new" / "a.json", {"a": float("nan"), "b": (1.23456789, True)})
    assert json.loads(path.read_text()) == {"a": None, "b": [1.234568, True]}
    assert number(None) == number(float("nan")) == "–"
    assert number(0.5, 2, sign=True) == "+0.50"
    assert table(["a", "b"], [["long", "1"]]).splitlines() == ["a     b", "────  ─", "long  1"]
    assert hardware()["cores"] >= 1
