"""The prior's data sets are what they say: exact PMI, known MI, reproducible, finite."""

from __future__ import annotations

import math

import pytest
import torch

from flashmi_reg.pretrained.prior import (
    DEFAULT,
    AdditiveNoise,
    ClassLabels,
    DataSets,
    DenseDependence,
    Family,
    GaussianMixture,
    Independence,
    Prior,
    RandomFlow,
    SparseDependence,
    StudentMixture,
)
from flashmi_reg.pretrained.prior.additive import (
    FLOOR,
    LAWS,
    log_cdf,
    log_density,
    log_interval,
)
from flashmi_reg.pretrained.prior.elliptical import (
    block_information,
    damp_cross,
    student_excess,
)
from flashmi_reg.pretrained.prior.mixture import random_covariance
from flashmi_reg.pretrained.prior.steps import (
    AffineCoupling,
    Lift,
    LinearMix,
    NormRotation,
    SinhArcsinh,
    Standardise,
)

# settings of moderate information, so that averages of exp(PMI) settle
MODERATE: dict[str, tuple[Family, int, int]] = {
    "gaussian mixture": (GaussianMixture(((1.0, 2, 6),), inner_ceiling=0.7), 2, 2),
    "student mixture": (StudentMixture(((1.0, 2, 6),), inner_ceiling=0.5), 2, 1),
    "one gaussian": (GaussianMixture(((1.0, 1, 1),), inner_ceiling=1.0), 3, 2),
    "one student": (StudentMixture(((1.0, 1, 1),), inner_ceiling=0.5, nu=(4.0, 30.0)), 1, 2),
    "sparse gaussian": (SparseDependence(student=0.0, ceiling=1.0, power=1.0), 3, 4),
    "sparse student": (SparseDependence(student=1.0, ceiling=0.8, nu=(4.0, 30.0)), 2, 2),
    "dense gaussian": (DenseDependence(student=0.0, ceiling=1.0, power=1.0), 4, 3),
    "dense student": (DenseDependence(student=1.0, ceiling=0.8, nu=(4.0, 30.0)), 2, 2),
    "additive": (AdditiveNoise(ceiling=1.0, power=1.0), 1, 1),
    "additive, padded": (AdditiveNoise(ceiling=1.0, power=1.0), 2, 3),
    "labels": (ClassLabels(classes=6, one_hot=0.0), 2, 2),
    "one-hot labels": (ClassLabels(one_hot=1.0), 2, 4),
    "independence": (Independence(), 3, 2),
}
CLOSED = [k for k in MODERATE if k.split()[0] in {"one", "sparse", "dense", "independence"}]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shuffled(n: int, batch: int) -> torch.Tensor:
    return torch.arange(n).roll(1).expand(batch, n)


def draw(key: str, batch: int, n: int, *, seed: int = 0, dtype=torch.float32) -> DataSets:
    family, dx, dy = MODERATE[key]
    return family.sample(batch, n, dx, dy, generator=generator(seed), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("key", MODERATE)
def test_contract(key: str, dtype: torch.dtype) -> None:
    family, dx, dy = MODERATE[key]
    state = torch.get_rng_state()
    sets, again, other = (draw(key, 3, 50, seed=s, dtype=dtype) for s in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())

    assert sets.family == family.name
    assert sets.x.shape == (3, 50, dx)
    assert sets.y.shape == (3, 50, dy)
    assert sets.x.dtype == sets.y.dtype == dtype
    identity = torch.arange(50).expand(3, 50)
    for pmi in (sets.pmi(), sets.pmi(shuffled(50, 3))):
        assert pmi.shape == (3, 50)
        assert pmi.dtype == dtype
        assert pmi.isfinite().all()
    torch.testing.assert_close(sets.pmi(), sets.pmi(identity))

    assert torch.equal(sets.x, again.x)
    assert torch.equal(sets.y, again.y)
    assert torch.equal(sets.pmi(), again.pmi())
    assert not torch.equal(sets.x, other.x)
    # data sets of one call have parameters, not only samples, of their own
    if sets.mi is not None and key != "independence":
        assert len(set(sets.mi.tolist())) == 3
    assert family.__class__.__name__ in repr(family)


@pytest.mark.parametrize("key", MODERATE)
def test_density_ratio_integrates_to_one(key: str) -> None:
    n, batch = 40_000, 6
    ratio = draw(key, batch, n).pmi(shuffled(n, batch)).double().exp()
    error = ratio.std(dim=1) / math.sqrt(n)
    # a test with no force would pass on anything: at least half must be known to 5 %
    assert (error < 0.05).sum() >= batch / 2
    # the data sets whose average has settled; a few have tails too heavy for one at this n
    settled = error < 0.1
    assert ((ratio.mean(dim=1) - 1).abs() < 5 * error + 1e-5)[settled].all()


@pytest.mark.parametrize("key", CLOSED)
def test_mean_pmi_is_the_known_information(key: str) -> None:
    n = 40_000
    sets = draw(key, 6, n)
    pmi = sets.pmi().double()
    error = pmi.std(dim=1) / math.sqrt(n)
    assert sets.mi is not None
    assert (error < 0.02).all()
    assert ((pmi.mean(dim=1) - sets.mi).abs() < 5 * error + 1e-4).all()


def test_float32_and_float64_agree_on_pmi() -> None:
    """The same mixtures at the same points: float32 loses no more than rounding."""
    for seed in range(5):
        family = GaussianMixture(((1.0, 1, 60),))
        fine = family.sample(2, 1, 2, 2, generator=generator(seed), dtype=torch.float64)
        # parameters are drawn in float64 before the samples, hence the same for both
        coarse = family.sample(2, 1, 2, 2, generator=generator(seed))
        x = 3 * torch.randn(2, 500, 2, generator=generator(seed))
        y = 3 * torch.randn(2, 500, 2, generator=generator(seed + 100))
        exact = fine.log_ratio(x.double(), y.double())
        gap = (coarse.log_ratio(x, y) - exact).abs()
        # far from every component log densities are in the thousands, and rounding with them
        assert (gap < 2e-3 * (1 + exact.abs()) + 5e-3).float().mean() > 0.99


def test_independence_is_zero() -> None:
    sets = draw("independence", 2, 100)
    assert sets.mi is not None
    assert (sets.mi == 0).all()
    assert (sets.pmi(shuffled(100, 2)) == 0).all()


def test_student_excess_is_positive_and_vanishes() -> None:
    nu = torch.tensor([1.0, 2.0, 5.0, 30.0, 1e6], dtype=torch.float64)
    excess = student_excess(nu, 1, 1)
    assert (excess.diff() < 0).all()
    assert abs(float(excess[-1])) < 1e-5
    # the bivariate Cauchy law: log(8 pi) - 3 (Czyz et al., 2023)
    assert float(excess[0]) == pytest.approx(math.log(8 * math.pi) - 3, abs=1e-9)


@pytest.mark.parametrize("nu", [2.0, 3.5])
def test_student_excess_is_the_mean_pmi(nu: float) -> None:
    """Uncorrelated, heavy tails: all the information there is is the excess."""
    family = SparseDependence(student=1.0, zero=1.0, nu=(nu, nu + 1e-6))
    n = 100_000
    sets = family.sample(2, n, 3, 3, generator=generator())
    pmi = sets.pmi().double()
    assert sets.mi is not None
    assert (sets.mi > 0.1).all()
    error = pmi.std(dim=1) / math.sqrt(n)
    assert (error < 0.01).all()
    assert ((pmi.mean(dim=1) - sets.mi).abs() < 4 * error).all()


def test_block_information_and_damping() -> None:
    r = 0.6
    matrix = torch.tensor([[1.0, r], [r, 1.0]], dtype=torch.float64)
    assert float(block_information(matrix, 1)) == pytest.approx(-0.5 * math.log(1 - r * r))
    covariance = random_covariance(50, 3, 5, (0.01, 10.0), generator=generator())
    ceiling = torch.rand(50, 3, generator=generator(), dtype=torch.float64)
    damped = damp_cross(covariance, 2, ceiling)
    assert (block_information(damped, 2) <= ceiling + 1e-9).all()
    torch.testing.assert_close(damped[..., :2, :2], covariance[..., :2, :2])


@pytest.mark.parametrize("design", [SparseDependence, DenseDependence])
def test_scale_matrix_has_the_target_information(design: type) -> None:
    target = torch.linspace(0.0, 4.0, 9, dtype=torch.float64)
    scale = design().scale_matrix(target, 4, 3, generator=generator())
    torch.testing.assert_close(block_information(scale, 4), target, atol=1e-8, rtol=0)


@pytest.mark.parametrize("law", LAWS)
def test_noise_laws(law: str) -> None:
    e = torch.linspace(-40, 40, 400_001, dtype=torch.float64)
    density = log_density(law, e).exp()
    assert float(torch.trapezoid(density, e)) == pytest.approx(1, abs=1e-3)
    assert float(torch.trapezoid(density * e.square(), e)) == pytest.approx(1, abs=1e-3)
    cdf = torch.cumulative_trapezoid(density, e)
    torch.testing.assert_close(log_cdf(law, e).exp()[1:], cdf, atol=2e-4, rtol=0)
    # intervals to the left, around, to the right; wide and narrow
    low = torch.tensor([-1.5, -0.7, -1.0, 0.2, 1.0, 0.5], dtype=torch.float64)
    high = torch.tensor([-1.0, 0.9, 1.0, 0.21, 1.6, 30.0], dtype=torch.float64)
    direct = torch.log(log_cdf(law, high).exp() - log_cdf(law, low).exp())
    torch.testing.assert_close(log_interval(law, low, high), direct)


@pytest.mark.parametrize("law", ["gaussian", "laplace", "logistic"])
def test_log_interval_in_the_tails(law: str) -> None:
    low = torch.tensor([5.0, 20.0, 100.0, -100.5, -3.0])
    high = torch.tensor([5.5, 20.1, 200.0, -100.0, -2.99])
    value = log_interval(law, low, high)
    assert value.isfinite().all()
    torch.testing.assert_close(
        value.double(), log_interval(law, low.double(), high.double()), rtol=1e-4, atol=5e-3
    )
    torch.testing.assert_close(value, log_interval(law, -high, -low))


def test_additive_noise_is_finite_and_floored() -> None:
    hit = 0
    for seed in range(40):
        family = AdditiveNoise(ceiling=8.0, power=0.5)
        sets = family.sample(2, 400, 2, 2, generator=generator(seed))
        joint, product = sets.pmi(), sets.pmi(shuffled(400, 2))
        assert joint.isfinite().all()
        assert product.isfinite().all()
        assert joint.min() > FLOOR  # the floor is for impossible pairs only
        hit += int((product == FLOOR).sum())
    assert hit > 0
    with pytest.raises(ValueError, match="`bins`"):
        AdditiveNoise(bins=(1, 1))


def test_labels_are_codes_of_classes() -> None:
    for key in ("labels", "one-hot labels"):
        sets = draw(key, 2, 2_000)
        for b in range(2):
            label = sets.source_y[b, :, 0].long()
            codes = torch.unique(sets.y[b], dim=0)
            classes = label.unique()
            assert len(codes) == len(classes)
            for c in classes:
                assert len(torch.unique(sets.y[b, label == c], dim=0)) == 1
        assert (sets.pmi().mean(dim=1) <= math.log(len(classes)) + 0.1).all()
    assert set(sets.y.unique().tolist()) == {0.0, 1.0}


STEPS = {
    "coupling": lambda x, g: AffineCoupling.draw(x, generator=g),
    "lift's coupling": lambda x, g: AffineCoupling.draw(x, generator=g, conditioning=2),
    "rotation": lambda x, g: NormRotation.draw(x, generator=g),
    "linear": lambda x, g: LinearMix.draw(x, generator=g),
    "sinh-arcsinh": lambda x, g: SinhArcsinh.draw(x, generator=g),
    "standardise": lambda x, g: Standardise.fit(x),
    "lift": lambda x, g: Lift(x.shape[-1], 7),
}


@pytest.mark.parametrize("key", STEPS)
@pytest.mark.parametrize("width", [3, 4])
def test_steps_are_invertible(key: str, width: int) -> None:
    for seed in range(10):
        g = generator(seed)
        x = 3 * torch.randn(4, 200, width, generator=g, dtype=torch.float64)
        step = STEPS[key](x, g)
        z = step(x)
        assert z.isfinite().all()
        assert z.shape != x.shape or not torch.allclose(z, x)
        torch.testing.assert_close(step.inverse(z), x, atol=1e-8, rtol=1e-8)


def test_rotation_keeps_the_norm() -> None:
    x = torch.randn(3, 100, 5, generator=generator(), dtype=torch.float64)
    z = NormRotation.draw(x, generator=generator())(x)
    torch.testing.assert_close(z.norm(dim=-1), x.norm(dim=-1))


@pytest.mark.parametrize(("width", "lifted"), [(1, None), (2, None), (5, None), (1, 2), (2, 6)])
def test_random_flows_are_injective(width: int, lifted: int | None) -> None:
    for seed in range(20):
        g = generator(seed)
        # heavy tails, the hardest case for staying sane
        x = torch.randn(3, 300, width, generator=g, dtype=torch.float64)
        x = x / torch.rand(3, 300, 1, generator=g, dtype=torch.float64).sqrt()
        flow, z = RandomFlow().draw(x, generator=g, width=lifted)
        assert z.shape == (3, 300, lifted or width)
        torch.testing.assert_close(flow(x), z)
        assert z.abs().max() < 1e5
        torch.testing.assert_close(flow.inverse(z), x, atol=1e-6, rtol=1e-6)


def test_flows_leave_pmi_unchanged() -> None:
    sets = draw("gaussian mixture", 3, 200)
    flow = RandomFlow()
    g = generator(5)
    seen = sets.through(lambda x: flow(x, generator=g, width=5), lambda y: flow(y, generator=g))
    assert seen.x.shape == (3, 200, 5)
    assert not torch.allclose(seen.y, sets.y)
    for index in (None, shuffled(200, 3)):
        assert torch.equal(seen.pmi(index), sets.pmi(index))


def test_density_after_a_flow_has_the_same_ratio() -> None:
    """The claim itself, not the bookkeeping: p of (f(x), y) by change of variables."""
    sets = draw("one gaussian", 1, 20, dtype=torch.float64)
    flow, z = RandomFlow().draw(sets.x, generator=generator(1))
    # the Jacobian of f is in the joint density and in that of f(x), and cancels if it is not 0
    for i in range(5):
        jacobian = torch.autograd.functional.jacobian(
            lambda v: flow(v[None, None])[0, 0], sets.x[0, i]
        )
        assert jacobian.det().abs() > 1e-8
    back = flow.inverse(z)
    torch.testing.assert_close(sets.log_ratio(back, sets.source_y), sets.pmi())


def test_swapped() -> None:
    sets = draw("labels", 2, 60)
    swapped = sets.swapped()
    assert torch.equal(swapped.x, sets.y)
    torch.testing.assert_close(swapped.pmi(), sets.pmi())
    index = shuffled(60, 2)
    back = index.argsort(dim=1)
    torch.testing.assert_close(swapped.pmi(back).gather(1, index), sets.pmi(index))


def test_prior_is_finite_over_many_draws() -> None:
    prior, g = Prior(), generator()
    values = []
    for _ in range(75):
        for sets in prior.sample(8, 200, generator=g):
            assert sets.x.shape[:2] == sets.y.shape[:2] == (2, 200)
            assert 1 <= sets.x.shape[2] <= 10
            assert 1 <= sets.y.shape[2] <= 10
            index = shuffled(200, 2)
            for value in (sets.x, sets.y, sets.pmi(), sets.pmi(index)):
                assert value.isfinite().all(), sets.family
            values.append(sets.pmi().mean(dim=1))
    mi = torch.cat(values)
    assert 0.3 < float(mi.median()) < 1.0
    assert float((mi > 4.2).float().mean()) < 0.05
    assert float((mi > 2.0).float().mean()) > 0.05


def test_prior_groups_and_seeds() -> None:
    prior = Prior()
    state = torch.get_rng_state()
    drawn = prior.sample(7, 64, groups=3, generator=generator(3))
    assert [sets.x.shape[0] for sets in drawn] == [3, 2, 2]
    assert len(prior.sample(2, 64, groups=4, generator=generator(3))) == 2
    again = prior.sample(7, 64, groups=3, generator=generator(3))
    assert all(torch.equal(a.x, b.x) for a, b in zip(drawn, again, strict=True))
    assert torch.equal(state, torch.get_rng_state())


def test_prior_entries() -> None:
    prior = Prior()
    names = prior.family_names
    assert len(set(names)) == len(DEFAULT)
    assert sum(entry.weight for entry in DEFAULT) == pytest.approx(1)
    for name in names:
        sets = prior.sample_family(name, 2, 64, generator=generator(), widths=(3, 3), flow=True)
        assert sets.family == name
        assert sets.x.shape == sets.y.shape == (2, 64, 3)
    with pytest.raises(ValueError, match="`name` must be one of"):
        prior.sample_family("spiral", 2, 64, generator=generator())


def test_prior_in_float64() -> None:
    for sets in Prior(dtype=torch.float64).sample(4, 64, generator=generator()):
        assert sets.x.dtype == sets.pmi().dtype == torch.float64


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_prior_on_a_gpu() -> None:
    g = torch.Generator("cuda").manual_seed(0)
    prior = Prior()
    for name in prior.family_names:
        sets = prior.sample_family(name, 2, 256, generator=g)
        assert sets.x.is_cuda
        assert sets.pmi().isfinite().all()
