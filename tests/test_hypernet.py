"""The hypernetwork reads a data set and emits its critic in one pass."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from flashmi_reg.canonical import Canonical, canonicalise
from flashmi_reg.hypernet import (
    MAX_CORRELATION,
    TAKEN_BACK,
    Architecture,
    HyperNetwork,
    Pairs,
    Readout,
    Shuffle,
)

SMALL = Architecture(hidden=32, features=16, side=16, variates=4, context=32, rounds=2)


def build(architecture: Architecture = SMALL) -> HyperNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return HyperNetwork(architecture)


def read(n: int = 200, dx: int = 3, dy: int = 2, b: int = 2) -> tuple[Canonical, Pairs, Shuffle]:
    """Gaussian data sets in canonical form, with one set of shuffled pairs."""
    generator = torch.Generator().manual_seed(0)
    common, x, y = (
        torch.randn(b, n, d, generator=generator, dtype=torch.float64)
        for d in (min(dx, dy), dx, dy)
    )
    x[..., : min(dx, dy)] += common
    y[..., : min(dx, dy)] += common
    data = canonicalise(x, y, 10)
    u, v = data.u.float(), data.v.float()
    return data, Pairs(u, v), next_partners(n)


def next_partners(n: int) -> Shuffle:
    """Each sample with the partner of the one before it."""
    return Shuffle(torch.arange(n), torch.arange(n).roll(1))


def take(pairs: Pairs, index: Tensor) -> Pairs:
    return Pairs(pairs.u[:, index], pairs.v[:, index])


@pytest.mark.parametrize("rounds", [0, 1, 2, 3])
@pytest.mark.parametrize("layers", [1, 3])
def test_shapes(rounds: int, layers: int) -> None:
    architecture = Architecture(
        hidden=24, layers=layers, features=12, context=20, rounds=rounds, width=10
    )
    network = build(architecture)
    data, joint, shuffle = read()
    shuffle = Shuffle(*(index[:150] for index in shuffle))
    parameters, (at_joint, at_shuffled), _, optimism = network(data, joint, shuffle)
    assert at_joint.shape == (2, 200)
    assert at_shuffled.shape == (2, 150)
    assert optimism.shape == (2,)
    assert parameters.rho.shape == (2, 10)
    assert parameters.readout.weights.shape == (2, 12 + architecture.radial)
    assert parameters.readout.bias.shape == (2,)
    assert [s.shape for s in parameters.modulation.scales] == [
        (2, 1, units) for units in [24] * layers + [12]
    ]


@pytest.mark.parametrize("rounds", [0, 2])
def test_padding_changes_nothing(rounds: int) -> None:
    network = build(replace(SMALL, rounds=rounds)).double()
    data, joint, shuffle = read()
    padded, joint = data, Pairs(data.u, data.v)
    narrow = padded._replace(u=padded.u[..., :3], v=padded.v[..., :3], rho=padded.rho[:, :3])
    taken = Pairs(narrow.u, narrow.v)
    expected, found = network(padded, joint, shuffle), network(narrow, taken, shuffle)
    torch.testing.assert_close(found.values, expected.values)
    torch.testing.assert_close(found.optimism, expected.optimism)
    new, wide = (Pairs(p.u[:, :50], p.v[:, 50:100]) for p in (taken, joint))
    torch.testing.assert_close(
        network.evaluate(found.parameters, new), network.evaluate(expected.parameters, wide)
    )


def test_emitted_critic_has_the_emitted_values() -> None:
    network = build()
    data, joint, shuffle = read()
    parameters, values, gaussian, _ = network(data, joint, shuffle)
    for place, pairs in enumerate((joint, shuffle.of(joint))):
        value, term = network.evaluate(
            parameters, pairs, back=TAKEN_BACK if pairs is joint else 0.0
        )
        torch.testing.assert_close(value, values[place])
        torch.testing.assert_close(term, gaussian[place])


def test_order_of_the_pairs_does_not_matter() -> None:
    network = build()
    data, joint, shuffle = read()
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    # Where the samples of each shuffled pair now stand; the pairs in another order too.
    moved = Shuffle(*(order.argsort()[index].flip(0) for index in shuffle))
    one, other = (
        network(data, joint, shuffle),
        network(data, take(joint, order), moved),
    )
    torch.testing.assert_close(one.parameters.rho, other.parameters.rho, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other.values.joint, one.values.joint[:, order], rtol=1e-3, atol=1e-4)


def test_data_sets_of_a_batch_do_not_touch() -> None:
    network = build()
    data, joint, shuffle = read(b=3)
    both = network(data, joint, shuffle)
    alone = network(
        Canonical(*(part[1:2] for part in data)),
        Pairs(joint.u[1:2], joint.v[1:2]),
        shuffle,
    )
    torch.testing.assert_close(alone.values.joint, both.values.joint[1:2], rtol=1e-4, atol=1e-4)


def test_untrained_network_starts_from_the_gaussian_critic() -> None:
    """It finds most of the information in Gaussian data before any training."""
    network = build()
    data, joint, shuffle = read(n=4000, dx=1, dy=1)
    at_joint = network(data, joint, shuffle).values.joint
    exact = -0.5 * math.log(1 - 0.5**2)
    assert at_joint.mean().item() == pytest.approx(exact, abs=0.05)


def test_gaussian_term_is_shrunk_never_stretched() -> None:
    data, joint, shuffle = read()
    rho = build()(data, joint, shuffle).parameters.rho
    assert (rho <= data.rho + 1e-6).all()
    assert (rho >= 0).all()


@pytest.mark.parametrize("correlation", [0.0, 0.99999, 1.0, 1.0 + 1e-7])
def test_extreme_correlations_stay_finite(correlation: float) -> None:
    data, joint, shuffle = read()
    pairs = Pairs(joint.u, joint.u)
    data = data._replace(rho=torch.full_like(data.rho, correlation))
    emission = build()(data, pairs, shuffle)
    assert (emission.parameters.rho <= MAX_CORRELATION).all()
    assert emission.values.joint.isfinite().all()
    assert emission.values.shuffled.isfinite().all()


def test_every_parameter_that_is_used_has_a_gradient() -> None:
    network = build()
    data, joint, shuffle = read(n=2000)  # enough of them for variates beyond chance
    # The head starts at zero, so that its inner layer has no gradient before the first step.
    torch.nn.init.normal_(network.correct[-1].weight)
    _, (at_joint, at_shuffled), _, optimism = network(data, joint, shuffle)
    (at_joint.square().mean() + at_shuffled.square().mean() + optimism.mean()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.isfinite().all()
        assert (parameter.grad != 0).any(), name


def test_network_in_float64_computes_in_float64() -> None:
    """A cast to single precision on the way would show as a rough function."""
    network = build().double()
    data, joint, shuffle = read()
    joint = Pairs(joint.u.double(), joint.v.double())

    def value(step: float) -> Tensor:
        moved = Pairs(joint.u + step * joint.v.sin(), joint.v)
        return network(data, moved, shuffle).parameters.modulation.shifts[0].square().sum()

    with torch.no_grad():
        slopes = [(value(step) - value(-step)) / (2 * step) for step in (1e-4, 1e-6)]
    torch.testing.assert_close(*slopes, rtol=1e-5, atol=0)


def test_bfloat16_autocast_keeps_the_solve_in_float32() -> None:
    network = build()
    data, joint, shuffle = read()
    plain = network(data, joint, shuffle)
    with torch.autocast("cpu", torch.bfloat16):
        cast = network(data, joint, shuffle)
    assert all(part.dtype == torch.float32 for part in cast.parameters.readout)
    assert cast.values.joint.dtype == torch.float32
    torch.testing.assert_close(
        cast.values.joint.mean(), plain.values.joint.mean(), rtol=0, atol=0.03
    )


def test_parameters_are_all_that_makes_the_critic() -> None:
    """Without correlations, and without a readout, there is nothing left."""
    network = build()
    data, joint, shuffle = read()
    parameters = network(data, joint, shuffle).parameters
    empty = parameters._replace(
        rho=torch.zeros_like(parameters.rho),
        readout=Readout(*(torch.zeros_like(part) for part in parameters.readout)),
    )
    assert network.evaluate(parameters, joint)[0].abs().max() > 0.1
    assert network.evaluate(empty, joint)[0].abs().max() < 1e-4
