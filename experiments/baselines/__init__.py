"""Estimators to compare with: each is called with (x, y, seed) and returns an `Estimate`."""

from __future__ import annotations

from experiments.baselines.gaussian_copula import GaussianCopula
from experiments.baselines.infonce import InfoNCE
from experiments.baselines.ksg import KSG
from experiments.baselines.mine import MINE
from experiments.baselines.protocol import Baseline, Estimate

__all__ = ["BASELINES", "KSG", "MINE", "Baseline", "Estimate", "GaussianCopula", "InfoNCE"]

BASELINES: dict[str, Baseline] = {
    "control": GaussianCopula(),
    "ksg": KSG(),
    "mine": MINE(),
    "infonce": InfoNCE(),
}
"""The baselines by the name that the command line knows; `control` is the Gaussian copula."""
