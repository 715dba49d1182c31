"""The localisation network: where in a trajectory each key state lies, as weights of its times."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["FAR", "Localiser", "features", "ordered_times", "ordered_weights", "prior", "shifted"]

REACH = 5.0  # standard deviations; beyond it a state's coordinate says no more
FAR = -1e4  # log weight of a time that is out of the question; finite, for the gradients
HOLD = 4.0  # how closely key states are held to their start times at first
CHANGE = 3.0  # changes over a lag are smaller than the states' spread


def shifted(states: Tensor, lag: int) -> Tensor:
    """The states `lag` steps earlier (later if negative), those of the ends repeated; (L, Q)."""
    place = torch.arange(len(states)) - lag
    return states[place.clamp(0, len(states) - 1)]


def features(states: Tensor, lag: int) -> Tensor:
    """What the network sees of each time: the state and how it changes before and after.

    Args:
        states: standardised, shape (L, Q).
        lag: in steps.

    Returns:
        Shape (L, 3 Q).
    """
    before, after = states - shifted(states, lag), shifted(states, -lag) - states
    return torch.cat([states, CHANGE * before, CHANGE * after], -1).clamp(-REACH, REACH)


def prior(places: Tensor, count: int) -> Tensor:
    """Log weights before anything is learned: key state k of K near k/K of the length.

    Args:
        places: times as shares of the length, shape (*, L).
        count: K, of which the last is the end and not searched.

    Returns:
        Shape (*, L, K − 1).
    """
    centres = torch.arange(1, count) / count
    return -HOLD * (count * (places[..., None] - centres)).square()


class Localiser(nn.Module):
    """A small perceptron, the same at every time: log weights of each key state's place.

    It starts as the zero function, so that the prior alone decides.

    Args:
        width: of the features.
        count: key states searched.
        generator: the source of the initial weights; None where they are to be loaded.
        hidden: width of the hidden layers.
    """

    def __init__(
        self, width: int, count: int, *, generator: torch.Generator | None, hidden: int = 32
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # layers first fill themselves from the global one
            self.body = nn.Sequential(
                nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU()
            )
            self.head = nn.Linear(hidden, count)
            with torch.no_grad():
                for parameter in self.body.parameters():
                    bound = 1 / math.sqrt(parameter.shape[-1])
                    parameter.uniform_(-bound, bound, generator=generator)
                self.head.weight.zero_()
                self.head.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Log weights up to a constant, shape (*, L, count), of features (*, L, width)."""
        out: Tensor = self.head(self.body(x))
        return out


def ordered_weights(scores: Tensor, gap: int) -> Tensor:
    """How likely each time is key state k, if times t_1 < … < t_K stay at least `gap` apart.

    The times are a chain with weights exp(Σ scores) over all that keep the distance; what is
    returned are its marginals, by one pass forward and one back.

    Args:
        scores: log weights, shape (*, L, K).
        gap: in steps.

    Returns:
        Shape (*, L, K), each column of sum one; differentiable.
    """
    columns = scores.unbind(-1)
    edge = torch.full_like(columns[0][..., :gap], FAR)
    before = [torch.zeros_like(columns[0])]
    for column in columns[:-1]:
        upto = (column + before[-1]).logcumsumexp(-1)
        before.append(torch.cat([edge, upto[..., :-gap]], -1))
    after = [torch.zeros_like(columns[0])]
    for column in columns[:0:-1]:
        onward = (column + after[-1]).flip(-1).logcumsumexp(-1).flip(-1)
        after.append(torch.cat([onward[..., gap:], edge], -1))
    total = zip(columns, before, reversed(after), strict=True)
    return torch.stack([sum(parts, torch.zeros(())).softmax(-1) for parts in total], -1)


def ordered_times(scores: Tensor, gap: int) -> Tensor:
    """The times t_1 < … < t_K, at least `gap` steps apart, of the greatest sum of scores.

    Args:
        scores: log weights, shape (L, K).
        gap: in steps.

    Returns:
        Shape (K,), integers.
    """
    length, count = scores.shape
    best, links = scores[:, 0], []
    for k in range(1, count):
        top, place = best.cummax(0)
        ahead = torch.full_like(top, count * FAR)
        ahead[gap:] = top[: length - gap]
        links.append(torch.cat([place.new_zeros(min(gap, length)), place[: length - gap]]))
        best = scores[:, k] + ahead
    times = [int(best.argmax())]
    for place in reversed(links):
        times.append(int(place[times[-1]]))
    return torch.tensor(times[::-1])
