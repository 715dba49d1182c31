"""What an estimate says: the value, how far to trust it, and what may be wrong with it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["CLASSES_UNCALIBRATED", "TRUNCATED", "UNCALIBRATED", "MIEstimate"]

UNCALIBRATED = "there is no interval: the weights are not calibrated"
"""Warning of an estimate by weights without calibration."""
CLASSES_UNCALIBRATED = "there is no interval: estimates of classes are not calibrated"
"""Warning of an estimate of which a side holds classes."""
TRUNCATED = "there is no interval: estimates of more than 10 columns a side are not calibrated"
"""Warning of an estimate by canonical truncation."""
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
            calibration and for classes, as are the next two; a warning tells so.
        null_level: level in nats below which 95 % of estimates of independent sides of this n and
            these widths stay.
        support: share of the training prior's data sets that are as untypical as this one or more
            so, of the value's shape, from 0 to 1; below 0.02 there is a warning.
        ceiling: entropy in nats of the side of classes, of the lesser one where both are, of the
            value's shape: more information than that cannot be. None where no side holds classes.
    """

    value: Tensor
    n: int
    dx: int
    dy: int
    warnings: tuple[str, ...] = ()
    interval: tuple[Tensor, Tensor] | None = None
    null_level: float | None = None
    support: Tensor | None = None
    ceiling: Tensor | None = None

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
        if self.ceiling is not None and self.ceiling.numel():
            facts += f"; the classes tell at most {float(self.ceiling.max()):.3f}"
        line += f" ({facts})"
        told_of = {UNCALIBRATED, CLASSES_UNCALIBRATED, TRUNCATED} & {*self.warnings}
        if self.interval is None and not told_of:
            line += "; not calibrated, hence no interval"
        return line + "".join(f"; warning: {text}" for text in self.warnings)
