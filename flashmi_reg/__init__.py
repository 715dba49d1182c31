"""flashmi_reg: mutual information as a plug-in for PyTorch."""

from __future__ import annotations

from . import errors
from .estimator import Critic
from .functional import estimate, mutual_information
from .losses import MutualInformationLoss
from .model import FlashMI
from .result import MIEstimate

__all__ = [
    "Critic",
    "FlashMI",
    "MIEstimate",
    "MutualInformationLoss",
    "errors",
    "estimate",
    "mutual_information",
]
__version__ = "0.1.0"
