"""What a prior family hands over: batches of data sets with exact pointwise information."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

__all__ = ["DataSets", "Family"]


@dataclass(frozen=True)
class DataSets:
    """A batch of b data sets of n pairs each, with exact pointwise mutual information (PMI).

    Attributes:
        x: Observed x, of shape (b, n, dx).
        y: Observed y, of shape (b, n, dy).
        source_x: What `log_ratio` reads in place of x, of shape (b, n, ·). It differs from x by
            injective maps, or by coordinates independent of everything else.
        source_y: The same for y.
        log_ratio: From source pairs (b, m, ·) and (b, m, ·) to log p(x, y) / (p(x) p(y)), of
            shape (b, m), in nats.
        mi: Mutual information of each data set's law, of shape (b,), where a closed form is known.
        family: The name of the family that drew them.
    """

    x: Tensor
    y: Tensor
    source_x: Tensor
    source_y: Tensor
    log_ratio: Callable[[Tensor, Tensor], Tensor]
    mi: Tensor | None
    family: str

    def pmi(self, index: Tensor | None = None) -> Tensor:
        """PMI at the pairs (x_i, y_index[i]), of shape (b, n), in nats.

        Args:
            index: Partners, long, of shape (b, n); None stands for the joint pairs (x_i, y_i).
        """
        y = self.source_y
        if index is not None:
            y = y.gather(1, index.unsqueeze(-1).expand(-1, -1, y.shape[-1]))
        return self.log_ratio(self.source_x, y)

    def through(
        self,
        flow_x: Callable[[Tensor], Tensor] | None = None,
        flow_y: Callable[[Tensor], Tensor] | None = None,
    ) -> DataSets:
        """The same data sets observed through injective maps; PMI and MI stay what they were."""
        x = self.x if flow_x is None else flow_x(self.x)
        y = self.y if flow_y is None else flow_y(self.y)
        return replace(self, x=x, y=y)

    def swapped(self) -> DataSets:
        """The same data sets with x and y exchanged."""

        def log_ratio(x: Tensor, y: Tensor, inner: Callable = self.log_ratio) -> Tensor:
            return inner(y, x)

        return replace(
            self,
            x=self.y,
            y=self.x,
            source_x=self.source_y,
            source_y=self.source_x,
            log_ratio=log_ratio,
        )


class Family(ABC):
    """A law over laws: each data set of a batch gets parameters of its own."""

    name: str
    continuous_y: bool = True  # False where y takes finitely many values: no flow there

    @abstractmethod
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
        """Draw data sets with x of shape (batch, n, dx) and y of shape (batch, n, dy).

        Args:
            batch: Number of data sets.
            n: Pairs in each.
            dx: Width of x.
            dy: Width of y.
            generator: Source of all randomness; its device is the device of the result.
            dtype: Of the result. Parameters are worked out in float64 whatever it is.
        """

    def __repr__(self) -> str:
        arguments = ", ".join(f"{k}={v!r}" for k, v in vars(self).items())
        return f"{type(self).__name__}({arguments})"
