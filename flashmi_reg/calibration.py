"""What is known of the errors of some weights: numbers that were found on held-out data."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields

__all__ = ["NOMINAL", "Calibration", "Calm"]

NOMINAL = 0.9
"""Share of data sets whose information an interval is to cover."""


@dataclass(frozen=True)
class Calm:
    """Where the statistics of data sets of the training prior lie.

    Attributes:
        centre: coefficients of each statistic's mean, in the terms of size, one row a statistic.
        turn: maps deviations from it to uncorrelated ones of unit spread, one row each.
        levels: rising distances that shares of the prior's data sets stay below, from none to all
            in equal steps.
    """

    centre: tuple[tuple[float, ...], ...]
    turn: tuple[tuple[float, ...], ...]
    levels: tuple[float, ...]


@dataclass(frozen=True)
class Calibration:
    """Numbers for intervals, the null level and the support score of one file of weights.

    Attributes:
        below: how far the interval reaches below the estimate, in the terms of its reach.
        above: how far it reaches above.
        null: the level below which 95 % of estimates of independent sides stay, in its terms.
        calm: where the statistics of data of the prior lie.
        sets: number of data sets behind these numbers.
        seed: of their draws.
    """

    below: tuple[float, ...]
    above: tuple[float, ...]
    null: tuple[float, ...]
    calm: Calm
    sets: int
    seed: int

    def to_json(self) -> str:
        """As text."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """From text.

        Raises:
            ValueError: it is not what :meth:`to_json` writes.
        """
        content = json.loads(text)
        if not isinstance(content, dict) or content.keys() != {f.name for f in fields(cls)}:
            raise ValueError("calibration of other fields")
        calm = content["calm"]
        if not isinstance(calm, dict) or calm.keys() != {f.name for f in fields(Calm)}:
            raise ValueError("calibration of support of other fields")
        for name in ("sets", "seed"):
            if not isinstance(content[name], int):
                raise ValueError(f"calibration with {name} {content[name]!r}")
        return cls(
            below=_row(content["below"]),
            above=_row(content["above"]),
            null=_row(content["null"]),
            calm=Calm(
                centre=tuple(_row(row) for row in calm["centre"]),
                turn=tuple(_row(row) for row in calm["turn"]),
                levels=_row(calm["levels"]),
            ),
            sets=content["sets"],
            seed=content["seed"],
        )


def _row(content: object) -> tuple[float, ...]:
    if not isinstance(content, list) or not content:
        raise ValueError(f"calibration with {content!r} for numbers")
    for entry in content:
        if isinstance(entry, bool) or not isinstance(entry, int | float):
            raise ValueError(f"calibration with {entry!r} for a number")
        if not math.isfinite(entry):
            raise ValueError(f"calibration with the number {entry}")
    return tuple(float(entry) for entry in content)
