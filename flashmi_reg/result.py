"""What an estimate says: the value, and what may be wrong with it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["MIEstimate"]


@dataclass(frozen=True)
class MIEstimate:
    """An estimate of mutual information.

    Attributes:
        value: in nats, shape () or (b,).
        n: number of samples.
        dx: width of x.
        dy: width of y.
        warnings: why the value may be off, as sentences; empty if nothing speaks against it.
        interval: lower and upper bound, each of the value's shape; None until intervals exist.
    """

    value: Tensor
    n: int
    dx: int
    dy: int
    warnings: tuple[str, ...] = ()
    interval: tuple[Tensor, Tensor] | None = None

    def __str__(self) -> str:
        values = ", ".join(f"{v:.3f}" for v in self.value.reshape(-1).tolist()[:6])
        more = ", …" if self.value.numel() > 6 else ""
        line = f"I(x;y) = {values}{more} nats (n = {self.n}, {self.dx} + {self.dy} dimensions)"
        return line + "".join(f"; warning: {text}" for text in self.warnings)
