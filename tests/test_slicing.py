"""k-sliced mutual information: closed forms of the same slices, and what must not matter."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

import flashmi_reg.batches as batches
from flashmi_reg import FlashMI, SlicedEstimate, sliced_estimate, sliced_mutual_information
from flashmi_reg.batches import seed_of
from flashmi_reg.errors import InputError, SupportWarning
from flashmi_reg.slicing import orthonormal


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def generator_after_seed() -> torch.Generator:
    """As the one that draws the frames: the seed of the shuffled pairs comes first."""
    generator = seeded()
    seed_of(generator)
    return generator


def dependent(n: int, dx: int, dy: int, *, b: int | None = None, seed: int = 0) -> tuple:
    generator = seeded(seed)
    shape = (n,) if b is None else (b, n)
    common, x, y = (torch.randn(*shape, d, generator=generator) for d in (1, dx, dy))
    return x + common, y + common


# --- known answers ----------------------------------------------------------------------------


class Gaussian:
    """Jointly Gaussian x and y with the closed forms of their slices.

    Args:
        d: width of either side.
        factors: common factors, each seen by all coordinates through noise; None correlates the
            sides coordinate by coordinate.
    """

    def __init__(self, d: int, factors: int | None, seed: int) -> None:
        generator = seeded(seed)
        eye = torch.eye(d, dtype=torch.float64)
        if factors is None:
            self.covariance = torch.cat([torch.cat([eye, 0.9 * eye], 1)] * 2)
            self.covariance[d:] = torch.cat([0.9 * eye, eye], 1)
        else:
            loads = torch.randn(2 * d, factors, generator=generator, dtype=torch.float64)
            self.covariance = loads @ loads.T + torch.eye(2 * d, dtype=torch.float64)
        self.root = torch.linalg.cholesky(self.covariance)
        self.d = d

    def sample(self, n: int, seed: int) -> tuple[Tensor, Tensor]:
        normal = torch.randn(n, 2 * self.d, generator=seeded(seed), dtype=torch.float64)
        x, y = (normal @ self.root.T).split(self.d, 1)
        return x, y

    def slices(self, frames: tuple[Tensor, Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """MI of each slice, and the mean of the slice's PMI at the samples."""
        k = frames[0].shape[-1]
        zero = torch.zeros_like(frames[0])
        both = torch.cat([torch.cat([frames[0], zero], 2), torch.cat([zero, frames[1]], 2)], 1)
        joint = both.mT @ self.covariance @ both
        apart = joint.clone()
        apart[:, :k, k:] = 0
        apart[:, k:, :k] = 0
        points = torch.cat([x, y], 1) @ both
        mi = 0.5 * (torch.logdet(apart) - torch.logdet(joint))
        forms = [(points @ torch.linalg.inv(c) * points).sum(-1).mean(-1) for c in (apart, joint)]
        return mi, mi + 0.5 * (forms[0] - forms[1])


@pytest.mark.parametrize("d", [16, 64, 256])
@pytest.mark.parametrize(
    ("factors", "tolerance"), [(None, 0.02), (4, 0.04)], ids=["dense", "factors"]
)
def test_gaussian_slices_have_the_closed_forms_of_their_projections(
    d: int, factors: int | None, tolerance: float
) -> None:
    """Against the mean PMI of the same samples, which leaves out the error of sampling.

    All slices share that error, so that their number does not lower it: it is up to 0.015 on the
    dense data and, at 1.4 nats, of a standard deviation of 0.03 with common factors.
    """
    n_slices = 4
    data = Gaussian(d, factors, seed=d)
    x, y = data.sample(1000, seed=d + 1)
    found = sliced_estimate(x.float(), y.float(), n_slices=n_slices, generator=seeded())
    generator = generator_after_seed()
    frames = (orthonormal(d, 5, n_slices, generator), orthonormal(d, 5, n_slices, generator))
    mi, mean_pmi = data.slices(frames, x, y)
    assert found.value.item() == pytest.approx(mean_pmi.mean().item(), abs=tolerance)
    assert (found.slices - mean_pmi).abs().max() < 0.1
    assert found.warnings == ()
    expected = mean_pmi.std() / n_slices**0.5
    assert found.standard_error.item() == pytest.approx(expected.item(), abs=0.02)
    if factors is None:
        assert found.value.item() == pytest.approx(mi.mean().item(), abs=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("d", [16, 64, 256])
def test_slices_at_high_information_are_right_on_average(d: int) -> None:
    """Within 0.02 of the mean PMI of the same samples and slices, at 1.4 nats a slice."""
    errors = []
    for seed in range(6):
        data = Gaussian(d, 4, seed=d + seed)
        x, y = data.sample(1000, seed=1000 + seed)
        found = sliced_mutual_information(x.float(), y.float(), n_slices=4, generator=seeded())
        generator = generator_after_seed()
        frames = (orthonormal(d, 5, 4, generator), orthonormal(d, 5, 4, generator))
        errors.append(found.item() - data.slices(frames, x, y)[1].mean().item())
    assert sum(errors) / len(errors) == pytest.approx(0, abs=0.02)


def test_independent_wide_sides_have_none() -> None:
    x, y = torch.randn(2, 500, 50, generator=seeded(3))
    found = sliced_estimate(x, y, n_slices=4)
    assert found.value.item() == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("width", [5, 12])
def test_frames_are_orthonormal_and_uniform(width: int) -> None:
    frames = orthonormal(width, 5, 4000, seeded())
    gram = frames.mT @ frames
    torch.testing.assert_close(gram, torch.eye(5, dtype=torch.float64).expand_as(gram))
    # Under the Haar measure entries have mean 0 and variance 1/width, whatever their place.
    assert frames.mean(0).abs().max() < 5 / (4000 * width) ** 0.5
    torch.testing.assert_close(
        frames.square().mean(0) * width, torch.ones_like(frames[0]), atol=0.12, rtol=0
    )


# --- which sides are projected ----------------------------------------------------------------


def test_what_is_narrow_is_not_projected(tiny: FlashMI) -> None:
    x, y = dependent(100, 5, 3)
    expected = tiny.mutual_information(x, y)
    assert torch.equal(sliced_mutual_information(x, y, model=tiny), expected)
    found = sliced_estimate(x, y, model=tiny)
    assert torch.equal(found.slices, expected[None])
    assert found.standard_error == 0


def test_narrow_side_stays_whole_beside_a_wide_one(tiny: FlashMI) -> None:
    """Its maps then change no slice, as they change no estimate, while those of x do."""
    x, y = dependent(200, 20, 2)
    slices = sliced_estimate(x, y, k=2, n_slices=4, model=tiny).slices
    mapped = sliced_estimate(x, y**3, k=2, n_slices=4, model=tiny).slices
    torch.testing.assert_close(mapped, slices, atol=2e-3, rtol=0)
    scaled = sliced_estimate(x * torch.linspace(0.1, 3, 20), y, k=2, n_slices=4, model=tiny)
    assert not torch.allclose(scaled.slices, slices, atol=2e-3, rtol=0)


def test_widths_of_slices_may_differ_between_the_sides(tiny: FlashMI) -> None:
    x, y = dependent(200, 20, 8)
    both = sliced_estimate(x, y, k=3, n_slices=2, model=tiny)
    one = sliced_estimate(x, y, k=(3, 8), n_slices=2, model=tiny)
    assert one.k == (3, 8)
    assert not torch.equal(both.slices, one.slices)
    frame = orthonormal(20, 3, 2, generator_after_seed()).float()
    expected = tiny.mutual_information(
        x @ frame, y.expand(2, -1, -1), generator=seeded(seed_of(seeded()))
    )
    given = sliced_estimate(x, y, k=(3, 8), n_slices=2, model=tiny, generator=seeded())
    torch.testing.assert_close(given.slices, expected, atol=1e-4, rtol=0)


# --- results ----------------------------------------------------------------------------------


def test_estimate_says_that_it_is_sliced(tiny: FlashMI) -> None:
    x, y = dependent(100, 20, 3)
    found = sliced_estimate(x, y, k=4, n_slices=3, model=tiny)
    assert isinstance(found, SlicedEstimate)
    assert str(found).startswith("sliced I(x;y) = ")
    assert "3 slices of 4 + 3 of 20 + 3 dimensions" in str(found)
    assert "\n" not in str(found)
    assert found.value == found.slices.mean()
    expected = found.slices.std() / 3**0.5
    torch.testing.assert_close(found.standard_error, expected)


def test_one_slice_has_no_error_to_tell(tiny: FlashMI) -> None:
    assert sliced_estimate(*dependent(100, 20, 3), n_slices=1, model=tiny).standard_error.isnan()


def test_batches_share_their_slices(tiny: FlashMI) -> None:
    x, y = dependent(100, 12, 7, b=3)
    found = sliced_estimate(x, y, k=2, n_slices=4, model=tiny)
    assert found.value.shape == found.standard_error.shape == (3,)
    assert found.slices.shape == (3, 4)
    assert "…" not in str(found)
    for i in range(3):
        alone = sliced_estimate(x[i], y[i], k=2, n_slices=4, model=tiny)
        torch.testing.assert_close(found.slices[i], alone.slices, atol=1e-4, rtol=0)
    value = sliced_mutual_information(x, y, k=2, n_slices=4, model=tiny)
    torch.testing.assert_close(value, found.value)


@pytest.mark.parametrize("gradient", ["critic", "full"])
def test_chunks_change_neither_values_nor_gradients(
    tiny: FlashMI, gradient: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does computing a chunk a second time instead of keeping it."""
    found = []
    for chunk, kept in ((16_384, 65_536), (150, 65_536), (150, 1)):
        monkeypatch.setattr(batches, "CHUNK", chunk)
        monkeypatch.setitem(batches.KEPT, gradient, kept)
        x, y = (side.requires_grad_() for side in dependent(60, 9, 7))
        value = sliced_mutual_information(x, y, k=3, n_slices=5, gradient=gradient, model=tiny)
        value.backward()
        found.append((value.detach(), x.grad, y.grad))
    for other in found[1:]:
        for ours, theirs in zip(other, found[0], strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-3)
            assert (ours != 0).any()


def test_generator_alone_draws_and_by_default_one_of_a_fixed_seed(tiny: FlashMI) -> None:
    x, y = dependent(100, 20, 3)
    before = torch.random.get_rng_state()
    default = [sliced_mutual_information(x, y, n_slices=2, model=tiny) for _ in range(2)]
    assert torch.equal(*default)
    generator = seeded(5)
    first, second = (
        sliced_mutual_information(x, y, n_slices=2, model=tiny, generator=generator)
        for _ in range(2)
    )
    assert first != second
    again = sliced_mutual_information(x, y, n_slices=2, model=tiny, generator=seeded(5))
    assert torch.equal(again, first)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_precision_of_the_inputs(tiny: FlashMI, dtype: torch.dtype) -> None:
    x, y = dependent(200, 20, 3)
    expected = sliced_mutual_information(x, y, k=3, n_slices=3, model=tiny)
    x, y = (side.to(dtype).requires_grad_() for side in (x, y))
    with warnings.catch_warnings(), torch.autocast("cpu", torch.bfloat16):
        warnings.simplefilter("ignore", SupportWarning)  # low precision ties values
        value = sliced_mutual_information(x, y, k=3, n_slices=3, model=tiny)
    assert value.dtype == torch.promote_types(dtype, torch.float32)
    assert value.item() == pytest.approx(expected.item(), abs=0.03)
    value.backward()
    assert x.grad.dtype == dtype
    assert x.grad.isfinite().all()


def test_constant_and_duplicate_samples_stay_so_in_slices(tiny: FlashMI) -> None:
    """Rounding of a product would make constants look continuous."""
    x = torch.full((100, 37), 0.1)
    _, y = dependent(100, 1, 3)
    found = sliced_estimate(x, y, n_slices=3, model=tiny)
    assert found.slices.abs().max() < 0.02
    assert found.slices.std() < 1e-6
    assert "constant in column(s) [0, 1, 2, 3, 4]" in found.warnings[0]
    rows = torch.randn(4, 37, generator=seeded())[torch.arange(100) % 4]
    assert "tied values" in sliced_estimate(rows, y, n_slices=3, model=tiny).warnings[0]


# --- misuse -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, r"`k` must be an integer from 1 to 10.*received 0"),
        ({"k": 11}, r"`k`.*received 11"),
        ({"k": (2, 3, 4)}, r"`k`.*received \(2, 3, 4\)"),
        ({"k": 2.0}, r"`k`.*received 2.0"),
        ({"n_slices": 0}, r"`n_slices` must be a positive integer, received 0"),
        ({"gradient": "none"}, r"`gradient` must be 'critic' or 'full', received 'none'"),
    ],
)
def test_arguments_out_of_range_are_refused(tiny: FlashMI, arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        sliced_mutual_information(*dependent(100, 20, 3), model=tiny, **arguments)


def test_samples_that_cannot_be_used_are_refused(tiny: FlashMI) -> None:
    x, y = dependent(100, 20, 3)
    with pytest.raises(InputError, match=r"n = 20.*n >= 50"):
        sliced_mutual_information(x[:20], y[:20], model=tiny)
    with pytest.raises(InputError, match="pair up"):
        sliced_mutual_information(x, y[1:], model=tiny)
    with pytest.raises(InputError, match=r"`x`.*ndarray"):
        sliced_mutual_information(x.numpy(), y, model=tiny)
    with pytest.raises(InputError, match=r"`y` holds 1 NaN"):
        sliced_mutual_information(
            x, y.clone().index_fill_(0, torch.tensor([3]), torch.nan)[:, :1], model=tiny
        )
