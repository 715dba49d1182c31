"""flashmi_reg: mutual information as a plug-in for PyTorch."""

from __future__ import annotations

from . import errors
from .bottleneck import InformationBottleneckLoss
from .contingency import ClassInformation, class_information
from .estimator import Critic
from .functional import (
    conditional_mutual_information,
    estimate,
    independence_test,
    mutual_information,
    mutual_information_matrix,
    pointwise_mutual_information,
    sliced_estimate,
    sliced_mutual_information,
    total_correlation,
)
from .gradient_norm import match_gradient_norm
from .independence import IndependenceTest
from .labels import LabelCritic, label_critic, label_mutual_information
from .losses import (
    ConditionalMutualInformationLoss,
    MutualInformationLoss,
    SlicedMutualInformationLoss,
    TotalCorrelationLoss,
)
from .model import FlashMI
from .result import MIEstimate
from .slicing import SlicedEstimate

__all__ = [
    "ClassInformation",
    "ConditionalMutualInformationLoss",
    "Critic",
    "FlashMI",
    "IndependenceTest",
    "InformationBottleneckLoss",
    "LabelCritic",
    "MIEstimate",
    "MutualInformationLoss",
    "SlicedEstimate",
    "SlicedMutualInformationLoss",
    "TotalCorrelationLoss",
    "class_information",
    "conditional_mutual_information",
    "errors",
    "estimate",
    "independence_test",
    "label_critic",
    "label_mutual_information",
    "match_gradient_norm",
    "mutual_information",
    "mutual_information_matrix",
    "pointwise_mutual_information",
    "sliced_estimate",
    "sliced_mutual_information",
    "total_correlation",
]
__version__ = "0.1.0"

_METRICS = ("InformationPlane", "MutualInformation", "SlicedMutualInformation")


def __getattr__(name: str) -> object:
    if name in _METRICS:
        from . import metrics  # torchmetrics is slow to import

        return getattr(metrics, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
