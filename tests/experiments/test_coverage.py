"""The coverage experiment: a tiny run end to end, and the data that are built to lie outside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from experiments import coverage
from experiments.outside import OUTSIDE
from flashmi_reg import FlashMI
from flashmi_reg.pretrained.calibrate import Case, calibrate, draw_cases, folds


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("n", [50, 101])
def test_outside_data_are_finite_pairs_of_their_seed(name: str, n: int) -> None:
    build = OUTSIDE[name]
    x, y = build(n, torch.Generator().manual_seed(0))
    again, _ = build(n, torch.Generator().manual_seed(0))
    other, _ = build(n, torch.Generator().manual_seed(1))
    assert x.ndim == y.ndim == 2
    assert len(x) == len(y) == n
    assert x.isfinite().all()
    assert y.isfinite().all()
    assert torch.equal(x, again)
    assert not torch.equal(x, other)


def test_folds_leave_each_case_out_once(tiny: FlashMI) -> None:
    cases = list(draw_cases(tiny, 15, 0))
    seen: list[Case] = []
    for kept, left_out in folds(cases):
        assert len(kept) + len(left_out) == len(cases)
        assert not {id(case) for case in kept} & {id(case) for case in left_out}
        seen += left_out
    assert {id(case) for case in seen} == {id(case) for case in cases}


def test_wide_intervals_cover_and_empty_ones_do_not(tiny: FlashMI) -> None:
    cases = list(draw_cases(tiny, 40, 0))
    numbers = calibrate(cases)
    fields = numbers.__dict__
    wide = type(numbers)(**fields | {"below": (100.0,) * 4, "above": (100.0,) * 5})
    # A reach of a billionth above and below.
    thin = type(numbers)(**fields | {"below": (1e-9,) * 4, "above": (1e-9,) * 5})
    for told, share in ((wide, 1.0), (thin, 0.0)):
        rows = coverage._coverage("all", [(c, told) for c in cases if c.truth > 0.1])
        assert rows[-1].n is None
        assert rows[-1].covered == share


@pytest.mark.slow
def test_tiny_run_writes_tables_and_figure(
    tiny_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "coverage.json"
    size = ["--sets", "75", "--bmi-seeds", "1", "--outside-seeds", "1", "--sizes", "100"]
    coverage.main(["--weights", str(tiny_path), "--out", str(out), *size])
    content = json.loads(out.read_text())
    assert out.with_suffix(".png").stat().st_size > 10_000
    groups = {row["group"] for row in content["coverage"]}
    assert {"BMI, narrow", "all families", "independence"} <= groups
    for row in content["coverage"]:
        assert 0 <= row["covered"] <= 1
        assert row["width"] > 0
    assert {row["data"] for row in content["support"]} >= set(OUTSIDE)
    printed = capsys.readouterr().out
    assert "random walks" in printed
    assert "null level" in printed
