"""The objective: exact PMI stays with its pairs, and the truth has no loss."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from flashmi_reg.critic import Values, gaussian_pmi, log_mean_exp
from flashmi_reg.estimator import shuffle_copies
from flashmi_reg.hypernet import Architecture, Emission, HyperNetwork, Pairs, Shuffle
from flashmi_reg.pretrained.objective import Batch, losses, prepare, soft_nce
from flashmi_reg.pretrained.prior import DataSets, Independence, Prior

FRESH = 30
WIDTHS = [(1, 1), (2, 2), (3, 1), (1, 3), (2, 5), (5, 2)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(dx: int, dy: int, *, b: int = 4, n: int = 400, seed: int = 0) -> DataSets:
    """x is standard normal and y = A x + noise, so that densities are known in closed form.

    There are `FRESH` samples beyond the n to be read.

    y is observed through a monotone map of each coordinate, which leaves PMI as it is.
    """
    generator = seeded(seed)
    n = n + FRESH
    x = torch.randn(b, n, dx, generator=generator)
    matrix = torch.randn(b, dx, dy, generator=generator)
    y = x @ matrix + torch.randn(b, n, dy, generator=generator)

    def log_ratio(x: Tensor, y: Tensor) -> Tensor:
        eye = torch.eye(dy).expand(b, dy, dy)
        total = eye + matrix.mT @ matrix
        residual = y - x @ matrix
        near = residual.pow(2).sum(-1)
        far = (y @ torch.linalg.inv(total) * y).sum(-1)
        return 0.5 * (far - near + torch.logdet(total)[:, None])

    return DataSets(x, y.exp(), x, y, log_ratio, None, "gaussian")


def ready(groups: list[DataSets], generator: torch.Generator) -> Batch:
    """All but the last samples are read."""
    return prepare(groups, groups[0].x.shape[1] - FRESH, 10, generator)


def origin(points: Tensor, samples: Tensor) -> Tensor:
    """Of each point, the index of the sample that it is a copy of."""
    distance = torch.cdist(points.double(), samples.double())
    assert (distance.min(-1).values < 1e-5).all()
    return distance.argmin(-1)


@pytest.fixture(scope="module")
def network() -> HyperNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return HyperNetwork(Architecture(hidden=32, features=16, context=32, rounds=2))


# --- preparing a batch ------------------------------------------------------------------------


@pytest.mark.parametrize(("dx", "dy"), WIDTHS)
def test_shuffled_pmi_is_that_of_the_shuffled_pairs(dx: int, dy: int) -> None:
    """Also where y became the first side, which among equal widths differs by data set."""
    sets = gaussian(dx, dy, b=8)
    batch = ready([sets], seeded())
    assert torch.equal(batch.joint_pmi, sets.pmi()[:, :400])
    shuffled = batch.shuffle.of(batch.joint)
    swaps = batch.data.swapped
    if dx != dy:
        assert (swaps == (dx < dy)).all()
    elif dx > 1:
        assert 0 < swaps.sum() < 8  # both cases are seen
    for i in range(8):
        first = origin(shuffled.u[i], batch.joint.u[i])
        second = origin(shuffled.v[i], batch.joint.v[i])
        assert (first != second).all()
        # The first side is x, unless swapped. Joint pairs keep the order of the samples.
        x_index, y_index = (second, first) if swaps[i] else (first, second)
        x, y = sets.source_x[:, x_index], sets.source_y[:, y_index]
        torch.testing.assert_close(batch.shuffled_pmi[i], sets.log_ratio(x, y)[i])


@pytest.mark.parametrize(("dx", "dy"), WIDTHS)
def test_pmi_agrees_with_what_canonical_coordinates_tell(dx: int, dy: int) -> None:
    """Of Gaussian data the PMI is a known function of the coordinates that the network sees."""
    batch = ready([gaussian(dx, dy, n=4000)], seeded())
    rho = batch.data.rho.float().clamp_max(0.9999)
    shuffled = batch.shuffle.of(batch.joint)
    for pairs, pmi in ((batch.joint, batch.joint_pmi), (shuffled, batch.shuffled_pmi)):
        seen = gaussian_pmi(*pairs, rho)
        for i in range(4):
            moderate = pmi[i] > -4  # further down, PMI levels off
            one, other = seen[i][moderate], pmi[i][moderate]
            assert torch.corrcoef(torch.stack([one, other]))[0, 1] > 0.97
            assert (one - other).abs().mean() < 0.15


def test_groups_of_any_widths_make_one_batch() -> None:
    groups = [gaussian(2, 2, b=3), gaussian(1, 4, b=2), gaussian(10, 10, b=1)]
    batch = ready(groups, seeded())
    m = 400 * shuffle_copies(400)
    assert batch.joint.u.shape == batch.joint.v.shape == (6, 400, 10)
    assert batch.shuffle.first.shape == batch.shuffle.second.shape == (m,)
    assert batch.joint_pmi.shape == (6, 400)
    assert batch.shuffled_pmi.shape == (6, m)
    assert batch.data.widths.tolist() == [[2, 2]] * 3 + [[4, 1]] * 2 + [[10, 10]]
    start = 0
    for group in groups:
        size = group.x.shape[0]
        torch.testing.assert_close(batch.joint_pmi[start : start + size], group.pmi()[:, :400])
        torch.testing.assert_close(batch.mi[start : start + size], group.pmi()[:, :400].mean(-1))
        start += size
    moved = batch.to(torch.device("cpu"))
    assert isinstance(moved, Batch)
    assert torch.equal(moved.shuffled_pmi, batch.shuffled_pmi)


def test_batch_is_a_function_of_the_generator() -> None:
    one, same, other = (ready([gaussian(2, 3)], seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(one.shuffled_pmi, same.shuffled_pmi)
    assert not torch.equal(one.shuffled_pmi, other.shuffled_pmi)


def test_every_family_of_the_prior_can_be_prepared() -> None:
    prior = Prior()
    for name in prior.family_names:
        batch = ready([prior.sample_family(name, 2, 60, generator=seeded())], seeded())
        for part in (*batch.joint, batch.joint_pmi, batch.shuffled_pmi):
            assert part.isfinite().all()


# --- the loss ---------------------------------------------------------------------------------


class Answers:
    """In place of a network: a critic with given values."""

    def __init__(self, joint: Tensor, shuffled: Tensor, fresh: Tensor) -> None:
        self.joint, self.shuffled, self.fresh = joint, shuffled, fresh

    def __call__(self, data: object, joint: Pairs, shuffle: Shuffle) -> Emission:
        values = Values(self.joint, self.shuffled)
        # A Gaussian term of zero controls nothing.
        gaussian = Values(*(torch.zeros_like(part) for part in values))
        return Emission(None, values, gaussian, torch.zeros_like(self.joint[:, 0]))

    def evaluate(self, parameters: None, pairs: Pairs) -> tuple[Tensor, None]:
        return self.fresh, None


def truth_of(batch: Batch) -> Answers:
    return Answers(batch.joint_pmi, batch.shuffled_pmi, batch.fresh_pmi)


def test_soft_nce_is_zero_at_the_truth_and_positive_elsewhere() -> None:
    pmi = 3 * torch.randn(5, 200, generator=seeded(), dtype=torch.float64)
    torch.testing.assert_close(soft_nce(pmi, pmi), torch.zeros(5, dtype=torch.float64))
    for scale in (1e-3, 0.1, 1.0, 10.0):
        off = pmi + scale * torch.randn(5, 200, generator=seeded(1), dtype=torch.float64)
        assert (soft_nce(off, pmi) > 0).all()


def test_soft_nce_is_the_divergence_of_two_coins() -> None:
    logit, pmi = torch.tensor([[0.3]]), torch.tensor([[-1.1]])
    coins = [torch.distributions.Bernoulli(logits=t) for t in (pmi, logit)]
    expected = torch.distributions.kl_divergence(*coins)
    torch.testing.assert_close(soft_nce(logit, pmi), expected[:, 0])


def test_truth_has_no_loss_but_for_sampling() -> None:
    """A critic equal to the truth has no error at any pair; the estimate is the bound."""
    batch = ready([gaussian(2, 3, n=2000)], seeded())
    found = losses(truth_of(batch), batch)
    torch.testing.assert_close(found.nce, torch.zeros(4), rtol=0, atol=1e-6)
    normaliser = log_mean_exp(batch.joint_pmi, batch.shuffled_pmi)
    torch.testing.assert_close(found.estimate, batch.mi - normaliser)
    torch.testing.assert_close(found.total, torch.zeros(4), rtol=0, atol=1e-6)


def test_truth_about_independent_sides_has_no_loss_at_all() -> None:
    sets = Independence().sample(3, 500, 2, 3, generator=seeded())
    batch = ready([sets], seeded())
    found = losses(truth_of(batch), batch)
    torch.testing.assert_close(found.total, torch.zeros(3), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.estimate, torch.zeros(3), rtol=0, atol=1e-6)


@pytest.mark.parametrize("error", [0.1, 1.0, -1.0])
def test_any_error_costs_more_than_the_truth(error: float) -> None:
    batch = ready([gaussian(2, 3, n=2000)], seeded())
    noise = torch.randn(4, 2000, generator=seeded(1))
    joint, shuffled, fresh = batch.joint_pmi, batch.shuffled_pmi, batch.fresh_pmi
    for answers in (
        Answers(joint + error, shuffled + error, fresh),
        Answers(joint * (1 + error / 2), shuffled * (1 + error / 2), fresh),
        Answers(joint + error * noise, shuffled, fresh),
        Answers(joint, shuffled, fresh + error),
    ):
        found = losses(answers, batch)
        # The error of the estimate is that of sampling, too; it is left out here.
        assert (found.nce + found.fresh > 1e-4).all()
        assert (found.total > 1e-5).all()


def test_error_of_the_estimate_reaches_the_critic_through_its_optimism_alone() -> None:
    """Or overfitting would make up for missing fit."""
    batch = ready([gaussian(2, 3)], seeded())
    joint = (batch.joint_pmi + 1).requires_grad_()
    answers = Answers(joint, batch.shuffled_pmi, batch.fresh_pmi)
    found = losses(answers, batch)
    assert not found.estimate.requires_grad
    assert found.total.requires_grad


@pytest.mark.parametrize(("dx", "dy"), WIDTHS)
def test_fresh_pairs_are_those_that_are_not_read(dx: int, dy: int) -> None:
    """First each with its own partner, then with another; their PMI goes with them."""
    sets = gaussian(dx, dy, b=8)
    batch = ready([sets], seeded())
    assert batch.fresh.u.shape == (8, 2 * FRESH, 10)
    torch.testing.assert_close(batch.fresh_pmi[:, :FRESH], sets.pmi()[:, 400:])
    u, v = batch.fresh
    swapped = batch.data.swapped[:, None, None]
    x, y = torch.where(swapped, v, u), torch.where(swapped, u, v)
    torch.testing.assert_close(x[:, :FRESH], x[:, FRESH:])
    torch.testing.assert_close(y[:, :FRESH].roll(1, 1), y[:, FRESH:])
    other = sets.log_ratio(sets.source_x[:, 400:], sets.source_y[:, 400:].roll(1, 1))
    torch.testing.assert_close(batch.fresh_pmi[:, FRESH:], other)


def test_loss_of_a_network_is_finite_and_reaches_its_parameters(network: HyperNetwork) -> None:
    batch = ready([gaussian(2, 3), gaussian(4, 1)], seeded())
    found = losses(network, batch)
    assert found.total.shape == found.nce.shape == found.estimate.shape == (8,)
    assert (found.nce >= 0).all()
    assert (found.total > 0).all()
    found.total.mean().backward()
    reached = [p for p in network.parameters() if p.grad is not None and (p.grad != 0).any()]
    assert len(reached) > 0.8 * len(list(network.parameters()))
    assert all(p.grad.isfinite().all() for p in reached)


def test_a_few_steps_lower_the_loss() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = HyperNetwork(Architecture(hidden=32, features=16, context=32, rounds=1))
    batch = ready([gaussian(2, 3, n=200)], seeded())
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    course = []
    for _ in range(40):
        loss = losses(network, batch).total.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        course.append(loss.item())
    assert course[-1] < 0.7 * course[0]
