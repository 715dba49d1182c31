"""Estimators to compare with: each is called with (x, y, seed) and returns an `Estimate`."""

from __future__ import annotations

from experiments.baselines.gaussian_copula import GaussianCopula
from experiments.baselines.infonce import InfoNCE
from experiments.baselines.knife import KNIFE
from experiments.baselines.ksg import KSG
from experiments.baselines.mine import MINE
from experiments.baselines.nwj import NWJ
from experiments.baselines.protocol import Baseline, Estimate
from experiments.baselines.smile import SMILE

__all__ = [
    "BASELINES",
    "KNIFE",
    "KSG",
    "MINE",
    "NWJ",
    "SMILE",
    "Baseline",
    "Estimate",
    "GaussianCopula",
    "InfoNCE",
]

BASELINES: dict[str, Baseline] = {
    "control": GaussianCopula(),
    "ksg": KSG(),
    "mine": MINE(),
    "infonce": InfoNCE(),
    "nwj": NWJ(),
    "smile": SMILE(),
    "knife": KNIFE(),
}
"""The baselines by the name that the command line knows; `control` is the Gaussian copula."""
