"""Class-labelled mixtures: y is a coding of a class, x a mixture given the class."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from .base import DataSets, Family
from .draws import coin, integer, normal
from .mixture import random_mixture

__all__ = ["ClassLabels"]


class ClassLabels(Family):
    """A class c of C, x | c from a small Gaussian mixture, y a real coding of c.

    The code is one-hot (C = dy) with probability `one_hot` where dy >= 2, else C random distinct
    points of R^dy. PMI is log p(x|c) - log p(x); `source_y` is c itself, of shape (b, n, 1).

    Args:
        classes: Greatest number of classes; the least is 2.
        clusters: Greatest number of Gaussians for each class.
        one_hot: Probability of a one-hot code where it fits.
        mean_range, mean_scale, variance: As for `GaussianMixture`, of the clusters of x.
    """

    name = "labels"
    continuous_y = False  # rounding in a flow would break the ties of a class

    def __init__(
        self,
        *,
        classes: int = 20,
        clusters: int = 3,
        one_hot: float = 0.5,
        mean_range: float = 5.0,
        mean_scale: tuple[float, float] = (1.0, 1.0),
        variance: tuple[float, float] = (0.01, 10.0),
    ) -> None:
        self.classes = classes
        self.clusters = clusters
        self.one_hot = one_hot
        self.mean_range = mean_range
        self.mean_scale = mean_scale
        self.variance = variance

    def sample(
        self,
        batch: int,
        n: int,
        dx: int,
        dy: int,
        *,
        generator: Generator,
        dtype: torch.dtype = torch.float32,
    ) -> DataSets:
        """Draw data sets; see `Family.sample`. Their `mi` has no closed form."""
        one_hot = 2 <= dy <= self.classes and coin(self.one_hot, generator=generator)
        classes = dy if one_hot else integer(2, self.classes, generator=generator)
        clusters = integer(1, self.clusters, generator=generator)
        mixture, _ = random_mixture(
            batch,
            classes * clusters,  # component k belongs to class k // clusters
            dx,
            mean_range=self.mean_range,
            mean_scale=self.mean_scale,
            variance=self.variance,
            nu=None,
            generator=generator,
            dtype=dtype,
        )
        log_class = mixture.log_weight.unflatten(1, (classes, clusters)).logsumexp(-1)

        def log_ratio(x: Tensor, label: Tensor) -> Tensor:
            (log_prob,) = mixture.component_log_prob(x)
            log_joint = log_prob + mixture.log_weight.unsqueeze(-1)
            log_joint = log_joint.unflatten(1, (classes, clusters)).logsumexp(2)  # (b, C, m)
            given = log_joint - log_class.unsqueeze(-1)
            chosen = given.gather(1, label.long().transpose(1, 2)).squeeze(1)
            return chosen - log_joint.logsumexp(1)

        x, component = mixture.sample(n, generator=generator)
        label = component // clusters
        if one_hot:
            code = torch.eye(dy, dtype=dtype, device=x.device).expand(batch, -1, -1)
        else:
            code = self._code(batch, classes, dy, generator=generator, dtype=dtype)
        y = code.gather(1, label.unsqueeze(-1).expand(-1, -1, dy))
        return DataSets(x, y, x, label.unsqueeze(-1).to(dtype), log_ratio, None, self.name)

    @staticmethod
    def _code(
        batch: int, classes: int, dy: int, *, generator: Generator, dtype: torch.dtype
    ) -> Tensor:
        """Code books (batch, classes, dy): shuffled ranks first, so that no two points meet."""
        code = normal((batch, classes, dy), generator=generator, dtype=dtype)
        code[..., 0] = code[..., 0].argsort(-1).to(dtype)
        return code
