"""Matched gradients: their lengths, their direction, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from flashmi_reg.errors import InputError
from flashmi_reg.gradient_norm import match_gradient_norm


@pytest.fixture
def z() -> Tensor:
    return torch.randn(8, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)


def gradient(loss: Tensor, z: Tensor) -> Tensor:
    return torch.autograd.grad(loss, z, retain_graph=True)[0]


def losses(z: Tensor) -> tuple[Tensor, Tensor]:
    return 100 * z[:, 0].square().sum(), (0.01 * z[:, 1].sin()).sum()


@pytest.mark.parametrize("ratio", [0.0, 0.3, 2.0])
@pytest.mark.parametrize("turned", [False, True])
def test_length_is_the_share_asked_for_and_the_direction_stays(
    z: Tensor, ratio: float, turned: bool
) -> None:
    information, task = losses(z)[:: -1 if turned else 1]
    matched = gradient(match_gradient_norm(information, task, z, ratio=ratio), z)
    torch.testing.assert_close(matched.norm(), ratio * gradient(task, z).norm())
    unit = nn.functional.normalize(gradient(information, z).flatten(), dim=0)
    torch.testing.assert_close(matched.flatten(), ratio * gradient(task, z).norm() * unit)


def test_shrinking_only_leaves_short_gradients_alone(z: Tensor) -> None:
    long, short = losses(z)
    kept = match_gradient_norm(short, long, z, shrink_only=True)
    assert torch.equal(kept, short)
    shrunk = gradient(match_gradient_norm(long, short, z, shrink_only=True), z)
    torch.testing.assert_close(shrunk.norm(), gradient(short, z).norm())


def test_parameters_are_taken_together_and_unused_ones_left_out() -> None:
    layers = [nn.Linear(4, 2).double() for _ in range(3)]
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0)).double()
    parameters = [p for layer in layers for p in layer.parameters()]

    def task() -> Tensor:
        return sum(layer(x).square().mean() for layer in layers[:2])

    def length(loss: Tensor) -> Tensor:
        for parameter in parameters:
            parameter.grad = None
        loss.backward()
        return torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).norm()

    loss = task()
    matched = match_gradient_norm(layers[0](x).abs().mean(), loss, iter(parameters), ratio=0.5)
    found = length(matched)
    torch.testing.assert_close(found, 0.5 * length(loss))  # the task's graph is still there


def test_gradient_of_zero_and_half_precision_stay_finite(z: Tensor) -> None:
    _, task = losses(z)
    matched = match_gradient_norm(0 * z.sum(), task, z)
    assert not gradient(matched, z).any()
    half = z.detach().to(torch.float16).requires_grad_()
    small = 1e-4 * half.sum()
    matched = match_gradient_norm(small, half.square().mean(), half)
    assert matched.dtype == small.dtype
    assert gradient(matched, half).isfinite().all()
    assert gradient(matched, half).any()


def test_what_cannot_be_matched_is_refused(z: Tensor) -> None:
    information, task = losses(z)
    with pytest.raises(InputError, match="`task` does not depend on `shared`"):
        match_gradient_norm(information, task.detach(), z)
    with pytest.raises(InputError, match="`information` does not depend on `shared`"):
        match_gradient_norm((z.detach() * 1).requires_grad_().sum(), task, z)
    with pytest.raises(InputError, match="`shared` must be a tensor that carries a gradient"):
        match_gradient_norm(information, task, z.detach())
    with pytest.raises(InputError, match="`shared` must be"):
        match_gradient_norm(information, task, [])
    with pytest.raises(InputError, match="`ratio` must be at least 0"):
        match_gradient_norm(information, task, z, ratio=-1)
    with pytest.raises(InputError, match=r"`task` must be a loss of shape \(\)"):
        match_gradient_norm(information, z, z)
