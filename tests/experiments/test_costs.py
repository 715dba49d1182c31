"""The experiments on cost, small: encoders, shares of a step, all pairs, small batches."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments import all_pairs, small_batches, speed
from experiments.baselines import MINE
from experiments.baselines.neural import Schedule
from experiments.encoders import ENCODERS, IMAGE, make_resnet18
from flashmi_reg import FlashMI


@pytest.mark.parametrize("make", ENCODERS.values(), ids=ENCODERS)
def test_encoders_classify_images(make: speed.Callable[..., torch.nn.Module]) -> None:
    encoder = make(5)
    assert encoder(torch.randn(2, *IMAGE)).shape == (2, 10)
    assert encoder[-1].in_features == 5


def test_resnet_has_the_published_size() -> None:
    """11.17 M parameters for 10 classes, less its last layer, and with two narrow ones."""
    count = sum(p.numel() for p in make_resnet18(10).parameters())
    assert count == 11_173_962 + 10 * 10 + 10


def test_shares_are_of_the_steps_that_were_timed(
    monkeypatch: pytest.MonkeyPatch, tiny_path: Path
) -> None:
    monkeypatch.setattr(speed, "BATCH", 64)
    monkeypatch.setattr(speed, "WIDTHS", (2,))
    monkeypatch.setattr(speed, "ENCODERS", {speed.CNN: ENCODERS[speed.CNN]})
    found = speed.time_losses([str(tiny_path)], 1)
    assert [row["gradient"] for row in found["loss"]] == ["critic", "full"]
    assert {row["weights"] for row in found["loss"]} == {tiny_path.name}
    for row in found["loss"]:
        step = found["encoders"][speed.CNN]["seconds"]
        assert row["share"] == row["shares"][speed.CNN] == row["seconds"] / step


def test_methods_and_networks_are_timed_in_one_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_path: Path, capsys: Any
) -> None:
    """Each method at each n, its seconds as multiples of those of either network."""
    monkeypatch.setattr(speed, "BATCH", 64)
    monkeypatch.setattr(speed, "WIDTHS", (2,))
    monkeypatch.setattr(speed, "ENCODERS", {speed.CNN: ENCODERS[speed.CNN]})
    monkeypatch.setattr(speed, "MINE", lambda: MINE(Schedule(hidden=(8,), max_steps=100)))
    other = tmp_path / "other.safetensors"
    other.write_bytes(tiny_path.read_bytes())
    out = tmp_path / "speed.json"
    few = ["--repeats", "1", "--mine-repeats", "1", "--n", "60", "80", "--out", str(out)]
    speed.main([*few, "--weights", str(tiny_path), str(other)])
    content = json.loads(out.read_text())
    assert [found["n"] for found in content["estimates"]] == [60, 80]
    for found in content["estimates"]:
        methods, networks = found["methods"], [tiny_path.name, other.name]
        assert list(methods) == [*networks, "control", "ksg", "mine"]
        for name in networks:
            expected = methods["mine"]["seconds"] / methods[name]["seconds"]
            assert methods["mine"]["times"][name] == pytest.approx(expected, rel=1e-2)
            assert methods[name]["times"][name] == 1
    text = speed.markdown(out)
    assert text.count("| mine | ") == 2
    assert "100, not converged |" in text
    assert capsys.readouterr().out.count(other.name) >= 2


def test_columns_have_the_information_that_is_said() -> None:
    """Cubes have that of what was cubed: ranks are the same."""
    x, truth = all_pairs.draw(8, 200_000, torch.Generator().manual_seed(0))
    ranks = torch.special.ndtri((x.argsort(0).argsort(0) + 0.5) / len(x))
    correlation = ranks.T.corrcoef()
    expected = -0.5 * torch.log1p(-correlation.square())
    off = ~torch.eye(8, dtype=torch.bool)
    torch.testing.assert_close(expected[off], truth.float()[off], atol=0.02, rtol=0.02)
    assert truth[off].max() > 0.2


def test_all_pairs_are_timed_and_compared(tiny: FlashMI) -> None:
    pytest.importorskip("sklearn")
    for whole in (True, False):
        found = all_pairs.measure(tiny, 5, 60, 4, whole=whole)
        assert found["pairs"] == 10
        assert [row["timed_pairs"] for row in found["methods"]] == [10 if whole else 4, 4, 4]
        assert all(row["wall_seconds"] > 0 for row in found["methods"])
        assert found["methods"][0]["times_ours"] == 1
        assert found["methods"][1]["mean_absolute_error"] < 0.3


def test_page_shows_the_result_of_small_batches() -> None:
    """`python -m experiments.summary` writes what stands between the marks."""
    text = small_batches.markdown()
    assert text in (small_batches.RESULTS.parent / "docs" / "add_a_term.md").read_text("utf-8")
    assert text.count("\n| ") == 2 + len(small_batches.SIZES) + 2 + 2 * len(
        small_batches.SIZES[:-1]
    )


def test_exact_informations_of_small_batches() -> None:
    gaussian, quadratic, independent = small_batches.FAMILIES.values()
    # Each pair of columns shares half of its variance: y = a + noise, z = (a + b)/√2.
    r2 = 0.5 / (1 + small_batches.NOISE**2)
    assert float(gaussian.information(gaussian.start)) == pytest.approx(-math.log(1 - r2))
    assert float(independent.information(independent.start)) == 0
    for family in (gaussian, quadratic):
        turned = family.start.roll(family.width, 0)  # half-way between what y does not tell of
        assert float(family.information(turned.double() + 1e-9)) == pytest.approx(0, abs=1e-3)
    sources = torch.randn(1, 400_000, 8, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(1, 400_000, 1, generator=torch.Generator().manual_seed(1))
    z = (sources @ quadratic.start)[0, :, 0]
    y = quadratic.respond(sources, noise)[0, :, 0]
    cells = [(v.argsort().argsort() * 40) // len(v) for v in (z, y)]
    from flashmi_reg.contingency import class_information

    binned = class_information(*cells).value
    exact = float(quadratic.information(quadratic.start.double()))
    assert float(binned) == pytest.approx(exact, abs=0.01)


def test_gradient_of_a_large_batch_points_the_right_way(trained: FlashMI) -> None:
    family = small_batches.FAMILIES["Gaussian, 2 + 2"]
    row = small_batches.measure(trained, family, 512, 1, 0.0, 2)
    assert row["cosine"] > 0.9
    assert 0.5 < row["length"] < 1.5
    assert abs(row["bias"]) < 0.3
