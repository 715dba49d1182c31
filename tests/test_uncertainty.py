"""Interval, null level and support: known answers, the file they travel in, and what they say."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from flashmi_reg import FlashMI, MIEstimate
from flashmi_reg.calibration import Calibration, Calm
from flashmi_reg.canonical import canonicalise
from flashmi_reg.checkpoint import from_bytes, load_weights, to_bytes
from flashmi_reg.copula import normal_scores
from flashmi_reg.errors import CheckpointError, FlashMIError
from flashmi_reg.pretrained.calibrate import (
    Case,
    _nonnegative,
    _reach,
    calibrate,
    covered,
    draw_cases,
    main,
)
from flashmi_reg.support import in_support, look_around, serially_dependent
from flashmi_reg.uncertainty import null_level, observe, uncertainty


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def correlated(n: int, rho: float, seed: int, d: int = 1) -> tuple[Tensor, Tensor]:
    x, noise = torch.randn(2, n, d, generator=seeded(seed))
    return x, rho * x + math.sqrt(1 - rho**2) * noise


@pytest.fixture(scope="module")
def cases(tiny: FlashMI) -> list[Case]:
    return list(draw_cases(tiny, 40, 0))


@pytest.fixture(scope="module")
def calibration(cases: list[Case]) -> Calibration:
    return calibrate(cases)


@pytest.fixture(scope="module")
def calibrated(tiny: FlashMI, calibration: Calibration) -> FlashMI:
    return FlashMI(tiny._network, replace(tiny.header, calibration=calibration))


# --- known answers of the parts ---------------------------------------------------------------


@pytest.mark.parametrize("share", [0.9, 0.95])
def test_reach_recovers_the_quantile_of_a_scatter_of_known_size(share: float) -> None:
    generator = seeded(0)
    terms = torch.rand(4000, 3, generator=generator, dtype=torch.float64)
    size = terms @ torch.tensor([2.0, 0.0, 0.5], dtype=torch.float64)
    target = size * torch.empty_like(size).exponential_(generator=generator)
    weights = torch.tensor(_reach(terms, target, size, share), dtype=torch.float64)
    assert (weights >= 0).all()
    expected = -math.log(1 - share) * torch.tensor([2.0, 0.0, 0.5], dtype=torch.float64)
    assert torch.allclose(weights, expected, atol=0.25 * float(expected.max()))
    below = (target <= terms @ weights).double().mean()
    assert share <= below <= share + 0.002


def test_nonnegative_least_squares_meets_its_conditions() -> None:
    generator = seeded(1)
    left = torch.randn(50, 4, generator=generator, dtype=torch.float64)
    matrix, vector = left.T @ left, torch.randn(4, generator=generator, dtype=torch.float64) * 20
    weights = _nonnegative(matrix, vector, torch.ones(4, dtype=torch.float64))
    slope = vector - matrix @ weights
    assert (weights >= 0).all()
    assert (weights == 0).any()
    assert (slope[weights > 0].abs() < 1e-6).all()
    assert (slope[weights == 0] < 0).all()


def test_neighbours_find_the_information_and_the_dimension_of_gaussians() -> None:
    sets = [correlated(2000, 0.8, seed) for seed in range(4)]
    x, y = (torch.stack(side) for side in zip(*sets, strict=True))
    found = look_around(canonicalise(normal_scores(x), normal_scores(y), 10))
    assert float(found.mi.mean()) == pytest.approx(-0.5 * math.log(1 - 0.8**2), abs=0.05)
    assert float(found.dimension[:, 2].mean()) == pytest.approx(2, abs=0.2)


def test_neighbours_of_copies_are_crowded() -> None:
    x, y = correlated(100, 0.5, 0, d=2)
    around = look_around(canonicalise(normal_scores(x)[None], normal_scores(y)[None], 10))
    x, y = (side.repeat(2, 1) + 1e-3 * torch.randn(200, 2, generator=seeded(1)) for side in (x, y))
    copied = look_around(canonicalise(normal_scores(x)[None], normal_scores(y)[None], 10))
    assert (copied.crowding > 2 * around.crowding).all()


def test_support_is_one_at_the_centre_and_none_far_away() -> None:
    calm = Calm(((0.5,) + (0.0,) * 5,), ((2.0,),), (0.0, 1.0, 2.0, 3.0))
    found = torch.tensor([[0.5], [1.0], [-0.25], [9.0]], dtype=torch.float64)
    widths = torch.ones(4, 2)
    share = in_support(found, widths, 100, calm)
    assert share.tolist() == pytest.approx([1, 2 / 3, 0.5, 0])


def test_series_are_told_from_shuffled_and_from_sorted_rows() -> None:
    walks = torch.randn(2, 3, 300, 2, generator=seeded(0)).cumsum(2)
    assert serially_dependent(*walks).all()
    order = torch.randperm(300, generator=seeded(1))
    assert not serially_dependent(*walks[:, :, order]).any()
    x, y = correlated(300, 0.9, 0)
    order = x[:, 0].argsort()
    assert not serially_dependent(x[None, order], y[None, order]).any()
    assert not serially_dependent(walks[0], torch.randn(3, 300, 2, generator=seeded(2))).any()


# --- calibration ------------------------------------------------------------------------------


def test_draws_are_a_function_of_their_seed(tiny: FlashMI, cases: list[Case]) -> None:
    again, other = (list(draw_cases(tiny, 6, seed)) for seed in (0, 1))
    assert [case.truth for case in again] == [case.truth for case in cases[:6]]
    assert torch.equal(again[0].seen.statistics, cases[0].seen.statistics)
    assert [case.truth for case in again] != [case.truth for case in other]


def test_calibrated_intervals_cover_what_they_were_calibrated_on(
    cases: list[Case], calibration: Calibration
) -> None:
    inside = [covered(case, calibration)[0] for case in cases]
    assert sum(inside) >= 0.85 * len(cases)
    assert min(*calibration.below, *calibration.above, *calibration.null) >= 0


def test_too_few_data_sets_are_refused(cases: list[Case]) -> None:
    with pytest.raises(FlashMIError, match="`sets`"):
        calibrate(cases[:3])


def test_command_calibrates_a_file_and_leaves_its_tensors(
    tiny_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "calibrated.safetensors"
    main(["--weights", str(tiny_path), "--out", str(out), "--sets", "40", "--seed", "2"])
    assert "covered" in capsys.readouterr().out
    before, plain = load_weights(tiny_path)
    after, header = load_weights(out)
    assert header.calibration is not None
    assert (header.calibration.sets, header.calibration.seed) == (40, 2)
    assert replace(header, calibration=None) == plain
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


# --- the file ---------------------------------------------------------------------------------


def test_calibration_travels_with_the_weights_under_their_checksum(
    calibrated: FlashMI, tiny_path: Path, tmp_path: Path
) -> None:
    path = tmp_path / "calibrated.safetensors"
    calibrated.save_pretrained(path)
    assert FlashMI.from_pretrained(path).header == calibrated.header
    sums = []
    for file in (path, tiny_path):
        with safe_open(file, framework="pt") as content:
            sums.append((content.metadata() or {})["sha256"])
    assert sums[0] == sums[1]


def test_altered_calibration_is_refused(calibrated: FlashMI) -> None:
    content = to_bytes(calibrated._network.state_dict(), calibrated.header)
    start, refusals = content.index(b"calibration"), 0
    for place in range(start, start + 1200, 7):
        damaged = bytearray(content)
        damaged[place] ^= 1
        try:
            assert from_bytes(bytes(damaged))[1] == calibrated.header
        except CheckpointError:
            refusals += 1
    assert refusals > 150


def test_calibration_of_other_weights_is_refused(calibrated: FlashMI) -> None:
    state = {name: w.clone() for name, w in calibrated._network.state_dict().items()}
    content = to_bytes(state, calibrated.header)
    next(iter(state.values())).add_(1)
    other = to_bytes(state, calibrated.header)

    seals = [part.split(b'"calibration_sha256":"')[1][:64] for part in (content, other)]
    assert seals[0] != seals[1]
    with pytest.raises(CheckpointError, match="that of other weights"):
        from_bytes(other.replace(seals[1], seals[0]))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"below": [', '"below": ["a", '),
        ('"below": [', '"below": [NaN, '),
        ('"below": [', '"beyond": ['),
        ('"seed": 0', '"seed": "0"'),
        ('"null": [', '"null": [[1.0], '),
        (
            "{",
            "[",
        ),
    ],
)
def test_malformed_calibration_is_refused(calibration: Calibration, old: str, new: str) -> None:
    text = calibration.to_json()
    assert Calibration.from_json(text) == calibration
    assert old in text
    with pytest.raises(ValueError):  # noqa: PT011
        Calibration.from_json(text.replace(old, new, 1))


# --- what an estimate says --------------------------------------------------------------------


def test_line_tells_value_interval_and_null_level() -> None:
    found = MIEstimate(
        torch.tensor(0.4121),
        1000,
        3,
        2,
        interval=(torch.tensor(0.371), torch.tensor(0.4562)),
        null_level=0.0203,
    )
    assert str(found) == (
        "I(x;y) = 0.412 nats, 90 % interval 0.37 to 0.46 "
        "(n = 1,000, 3 + 2 dimensions; independence stays below 0.02)"
    )


def test_line_of_a_batch_tells_each_interval() -> None:
    ends = torch.tensor([0.0, 0.5]), torch.tensor([0.25, 1.0])
    text = str(MIEstimate(torch.tensor([0.1, 0.75]), 100, 1, 1, interval=ends, null_level=0.05))
    assert "0.100 (0.00 to 0.25), 0.750 (0.50 to 1.00) nats, with 90 % intervals" in text


def test_estimate_without_calibration_says_so(tiny: FlashMI) -> None:
    found = tiny.estimate(*correlated(100, 0.5, 0))
    assert (found.interval, found.null_level, found.support) == (None, None, None)
    assert "not calibrated" in str(found)


def test_value_is_the_same_with_and_without_calibration(tiny: FlashMI, calibrated: FlashMI) -> None:
    x, y = correlated(200, 0.5, 0, d=2)
    assert torch.equal(calibrated.estimate(x, y).value, tiny.mutual_information(x, y))
    bare = calibrated.without_calibration()
    assert bare.header == tiny.header
    assert bare.estimate(x, y).interval is None
    assert torch.equal(bare.estimate(x, y).value, tiny.mutual_information(x, y))


@pytest.mark.parametrize("widths", [(1, 1), (3, 2), (10, 10)])
def test_parts_of_a_batch_are_those_of_its_data_sets(
    calibrated: FlashMI, widths: tuple[int, int]
) -> None:
    x = torch.randn(3, 120, widths[0], generator=seeded(0))
    y = x[..., :1] + torch.randn(3, 120, widths[1], generator=seeded(1))
    found = calibrated.estimate(x, y)
    assert found.interval is not None
    assert found.support is not None
    for i in range(3):
        single = calibrated.estimate(x[i], y[i])
        for part, whole in zip(single.interval, found.interval, strict=True):
            assert part.shape == ()
            assert float(part) == pytest.approx(float(whole[i]), abs=2e-3)
        assert float(single.support) == pytest.approx(float(found.support[i]), abs=0.02)
        assert single.null_level == found.null_level


def test_order_of_samples_and_sides_does_not_matter(calibrated: FlashMI) -> None:
    x, y = correlated(700, 0.5, 0, d=3)
    order = torch.randperm(700, generator=seeded(1))
    first, moved = calibrated.estimate(x, y), calibrated.estimate(x[order], y[order])
    turned = calibrated.estimate(y, x)
    for other in (moved, turned):
        assert float(other.support) == pytest.approx(float(first.support), abs=0.02)
        for a, b in zip(other.interval, first.interval, strict=True):
            assert float(a) == pytest.approx(float(b), abs=5e-3)


@pytest.mark.parametrize("kind", ["constant", "equal", "tied", "least n"])
def test_awkward_data_have_finite_ends(calibrated: FlashMI, kind: str) -> None:
    x, y = correlated(50 if kind == "least n" else 120, 0.5, 0, d=2)
    match kind:
        case "constant":
            y = torch.zeros_like(y)
        case "equal":
            y = x.clone()
        case "tied":
            x, y = x.round(), y.round()
    found = calibrated.estimate(x, y)
    low, high = found.interval
    assert low.isfinite()
    assert high.isfinite()
    assert 0 <= low <= high
    assert 0 <= found.support <= 1


def test_more_than_the_network_reads_has_an_interval(calibrated: FlashMI) -> None:
    x, y = correlated(9000, 0.5, 0)
    found = calibrated.estimate(x, y)
    assert found.interval[0] <= found.value <= found.interval[1]


# --- the packaged weights ---------------------------------------------------------------------


def test_packaged_weights_are_calibrated(trained: FlashMI) -> None:
    assert trained.header.calibration is not None
    assert trained.header.calibration.sets >= 200


@pytest.mark.parametrize("n", [100, 500])
def test_intervals_hold_the_truth_of_gaussians(trained: FlashMI, n: int) -> None:
    truth = -0.5 * 2 * math.log(1 - 0.6**2)
    sets = [correlated(n, 0.6, seed, d=2) for seed in range(12)]
    found = trained.estimate(*(torch.stack(side) for side in zip(*sets, strict=True)))
    inside = (found.interval[0] <= truth) & (truth <= found.interval[1])
    assert inside.double().mean() > 0.7
    assert (found.interval[0] > found.null_level).all()
    assert found.warnings == ()


def test_independent_sides_stay_below_the_null_level(trained: FlashMI) -> None:
    x, y = torch.randn(2, 16, 200, 2, generator=seeded(0))
    found = trained.estimate(x, y)
    assert (found.value <= found.null_level).double().mean() >= 0.8
    assert (found.interval[0] < 0.01).double().mean() >= 0.8
    assert found.null_level < 0.1


def test_more_samples_tell_more(trained: FlashMI) -> None:
    ranges = []
    for n in (100, 1600):
        low, high = trained.estimate(*correlated(n, 0.6, 0, d=2)).interval
        ranges.append(float(high - low))
    assert ranges[1] < 0.7 * ranges[0]
    calibration = trained.header.calibration
    levels = [float(null_level(torch.tensor([[2, 2]]), n, calibration)) for n in (100, 1600)]
    assert levels[1] < levels[0] / 2


def test_observation_is_all_that_an_estimate_needs(trained: FlashMI) -> None:
    x, y = correlated(300, 0.6, 0)
    raw, _ = trained._estimate(x, y, None, "critic")
    told = uncertainty(observe(raw.value, raw.optimism, raw.data), trained.header.calibration)
    found = trained.estimate(x, y)
    assert float(found.interval[0]) == pytest.approx(float(told.lower))
    assert float(found.interval[1]) == pytest.approx(float(told.upper))


def test_near_copies_and_series_are_warned_of(trained: FlashMI) -> None:
    x, y = correlated(75, 0.6, 0, d=2)
    x, y = (side.repeat(4, 1) + 1e-3 * torch.randn(300, 2, generator=seeded(1)) for side in (x, y))
    found = trained.estimate(x, y)
    assert found.support < 0.02
    assert any("unlike" in text for text in found.warnings)
    walks = torch.randn(2, 300, 2, generator=seeded(0)).cumsum(1)
    assert any("neighbouring rows" in text for text in trained.estimate(*walks).warnings)
