"""Gaussian-process regression, by which an episode is foretold from its first state."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["GaussianProcess"]

STEPS = 60  # of Adam on the marginal likelihood
RATE = 0.1
NOISE = math.exp(-4)  # variance of the noise to begin with, in units of the kernel's
STRAIGHT = math.exp(-1)  # the same of the linear part
JITTER = 1e-6
CONSTANT = 1e-4  # spread below which a coordinate is left out


class GaussianProcess(nn.Module):
    """Regression from some hundreds of rows, in which every coordinate has a scale of its own.

    After "Gaussian Processes for Machine Learning" (Rasmussen & Williams, 2006), chapter 5: the
    kernel is a squared exponential and a linear one; scales and noise are the same for all
    outputs and maximise the marginal likelihood, in which each output has its own variance. A
    network of the same inputs learns so few rows by heart.

    Args:
        x: shape (n, d); rows may repeat, and count as one whose output is their mean.
        y: shape (n, e).

    Attributes:
        left_out: what is told of each row by the others, those of the same `x` left out with it,
            shape (n, e).
    """

    left_out: Tensor
    centre: Tensor
    live: Tensor
    rows: Tensor
    weights: Tensor
    base: Tensor
    scales: Tensor
    straight: Tensor

    def __init__(self, x: Tensor, y: Tensor) -> None:
        super().__init__()
        places, which = x.double().unique(dim=0, return_inverse=True)
        wanted = torch.zeros(len(places), y.shape[1], dtype=places.dtype)
        wanted.index_add_(0, which, y.double()).div_(which.bincount()[:, None])
        spread = places.std(0, correction=0)
        live = spread > CONSTANT
        base = wanted.mean(0)
        size = (wanted - base).std(0, correction=0).clamp_min(CONSTANT)
        self.register_buffer("live", live)
        self.register_buffer("centre", places.mean(0)[live])
        rows = places[:, live] - self.centre
        scales, straight, noise = _likeliest(rows, (wanted - base) / size, spread[live])
        self.register_buffer("scales", scales)
        self.register_buffer("straight", straight)
        self.register_buffer("rows", rows)
        inverse = _noisy(_kernel(rows, rows, scales, straight), noise).inverse()
        weights = inverse @ (wanted - base)
        self.register_buffer("weights", weights)
        self.register_buffer("base", base)
        left_out = wanted - weights / inverse.diagonal()[:, None]  # ibid., equation 5.12
        self.register_buffer("left_out", left_out[which].to(y.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """The outputs, (*, e), at x of shape (*, d)."""
        places = x.double().reshape(-1, x.shape[-1])[:, self.live] - self.centre
        near = _kernel(places, self.rows, self.scales, self.straight)
        return (near @ self.weights + self.base).reshape(*x.shape[:-1], -1).to(x.dtype)


def _kernel(x: Tensor, y: Tensor, scales: Tensor, straight: Tensor) -> Tensor:
    x, y = x / scales, y / scales
    return (-0.5 * torch.cdist(x, y).square()).exp() + straight * x @ y.T


def _noisy(kernel: Tensor, noise: Tensor) -> Tensor:
    return kernel + (noise + JITTER) * torch.eye(len(kernel), dtype=kernel.dtype)


@torch.enable_grad()
def _likeliest(x: Tensor, y: Tensor, spread: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scales, the linear part's variance and the noise's, for outputs of mean 0 and variance 1."""
    scales = (spread * math.sqrt(len(spread))).log().requires_grad_()
    straight, noise = (
        torch.tensor(math.log(v), dtype=x.dtype, requires_grad=True) for v in (STRAIGHT, NOISE)
    )
    optimizer = torch.optim.Adam([scales, straight, noise], lr=RATE)
    for _ in range(STEPS):
        kernel = _noisy(_kernel(x, x, scales.exp(), straight.exp()), noise.exp())
        root = torch.linalg.cholesky(kernel)
        variance = (y * torch.cholesky_solve(y, root)).mean(0).clamp_min(JITTER)
        loss = 0.5 * variance.log().mean() + root.diagonal().log().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return scales.detach().exp(), straight.detach().exp(), noise.detach().exp()
