"""What an estimate says: the value, how far to trust it, and what may be wrong with it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["MIEstimate"]

# Values of a batch that are printed.
TOLD = 6


@dataclass(frozen=True)
class MIEstimate:
    """An estimate of mutual information.

    Attributes:
        value: in nats, shape () or (b,).
        n: number of samples.
        dx: width of x.
        dy: width of y.
        warnings: why the value may be off, as sentences; empty if nothing speaks against it.
        interval: lower and upper bound, each of the value's shape, in nats: 90 % of data sets like
            those of the training prior have their information in it. None for weights without
            calibration and for classes, as are the next two.
        null_level: level in nats below which 95 % of estimates of independent sides of this n and
            these widths stay.
        support: share of the training prior's data sets that are as untypical as this one or more
            so, of the value's shape, from 0 to 1; below 0.02 there is a warning.
    """

    value: Tensor
    n: int
    dx: int
    dy: int
    warnings: tuple[str, ...] = ()
    interval: tuple[Tensor, Tensor] | None = None
    null_level: float | None = None
    support: Tensor | None = None

    def __str__(self) -> str:
        values = self.value.reshape(-1).tolist()[:TOLD]
        told = [f"{value:.3f}" for value in values]
        line = f"I(x;y) = {told[0]} nats" if told else "I(x;y): no data set"
        if self.interval is not None:
            ends = zip(*(end.reshape(-1).tolist()[:TOLD] for end in self.interval), strict=True)
            ranges = [f"{low:.2f} to {high:.2f}" for low, high in ends]
            if len(values) == 1:
                line += f", 90 % interval {ranges[0]}"
            told = [f"{value} ({ends})" for value, ends in zip(told, ranges, strict=True)]
        if len(values) > 1:
            more = ", …" if self.value.numel() > TOLD else ""
            line = f"I(x;y) = {', '.join(told)}{more} nats"
            line += ", with 90 % intervals" if self.interval is not None else ""
        facts = f"n = {self.n:,}, {self.dx} + {self.dy} dimensions"
        if self.null_level is not None:
            facts += f"; independence stays below {self.null_level:.2g}"
        line += f" ({facts})"
        if self.interval is None:
            line += "; not calibrated, hence no interval"
        return line + "".join(f"; warning: {text}" for text in self.warnings)
