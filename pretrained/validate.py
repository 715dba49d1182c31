"""A fixed validation set for each family of the prior, and the figures taken on it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from flashmi_reg.hypernet import HyperNetwork

from .objective import Batch, losses, prepare
from .prior import Prior

__all__ = ["Validation", "ValidationSet"]

SIZES = (250, 1000, 4000)
GROUPS = 4
PER_GROUP = {250: 4, 1000: 2, 4000: 1}
FRESH = 256


@dataclass(frozen=True)
class Validation:
    """Figures of one validation run, in nats.

    Attributes:
        error: mean absolute error of the estimate by family, over all sample sizes.
        error_at: the same by sample size, over all families.
        bias: mean signed error by family.
        nce: KL(σ(T*) ‖ σ(T)) at the pairs read, by family.
        fresh: the same at pairs that the network has not read.
    """

    error: dict[str, float]
    error_at: dict[int, float]
    bias: dict[str, float]
    nce: dict[str, float]
    fresh: dict[str, float]

    @property
    def mean_error(self) -> float:
        """The mean over families of the error."""
        return sum(self.error.values()) / len(self.error)


class ValidationSet:
    """Data sets of each family, drawn once from a seed that training does not use.

    Args:
        prior: where the families come from.
        width: greatest width of the network.
        seed: seed of the draws.
    """

    def __init__(self, prior: Prior, width: int, seed: int = 2**31) -> None:
        self.batches: dict[tuple[str, int], Batch] = {}
        for offset, name in enumerate(prior.family_names):
            for n in SIZES:
                generator = torch.Generator().manual_seed(seed + 1000 * offset + n)
                groups = [
                    prior.sample_family(name, PER_GROUP[n], n + FRESH, generator=generator)
                    for _ in range(GROUPS)
                ]
                self.batches[name, n] = prepare(groups, n, width, generator)

    @torch.no_grad()
    def __call__(self, network: HyperNetwork) -> Validation:
        """Takes the figures of `network`."""
        device = next(network.parameters()).device
        errors, nces, fresh = {}, {}, {}
        for key, batch in self.batches.items():
            found = losses(network, batch.to(device))
            errors[key] = (found.estimate - batch.mi.to(device)).cpu()
            nces[key] = found.nce.cpu()
            fresh[key] = found.fresh.cpu()
        families = dict.fromkeys(name for name, _ in errors)

        def mean(values: dict, family: str | None = None, n: int | None = None) -> float:
            chosen = [v for (f, m), v in values.items() if family in (None, f) and n in (None, m)]
            return float(torch.stack([v.mean() for v in chosen]).mean())

        sizes = {key: error.abs() for key, error in errors.items()}
        return Validation(
            error={family: mean(sizes, family) for family in families},
            error_at={n: mean(sizes, n=n) for n in SIZES},
            bias={family: mean(errors, family) for family in families},
            nce={family: mean(nces, family) for family in families},
            fresh={family: mean(fresh, family) for family in families},
        )
