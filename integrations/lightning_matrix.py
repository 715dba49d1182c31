"""All pairs of variables by a Lightning Trainer: over its devices and machines, with its code."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from flashmi_reg.errors import InputError, MissingExtraError
from flashmi_reg.matrix import as_matrix, estimate_pairs, places_of, tell_notes, variables_of
from flashmi_reg.model import DEFAULT_SEED, FlashMI

__all__ = ["InformationMatrix"]

FRAMEWORKS = ("lightning.pytorch", "pytorch_lightning")
# Pairs of a step: enough for an accelerator, and few enough to share between processes.
CHUNK = 128


def _module_base() -> Any:
    """That of `lightning`, or of `pytorch_lightning` where it alone is installed.

    A Trainer takes modules of its own package only, and none that belong to both.
    """
    for framework in FRAMEWORKS:
        try:
            return import_module(framework).LightningModule
        except ImportError:
            continue
    raise MissingExtraError(
        "`flashmi_reg.integrations.lightning_matrix` needs lightning or pytorch_lightning; "
        'install it with pip install "flashmi_reg[lightning]".'
    )


_LightningModule: Any = _module_base()


class InformationMatrix(_LightningModule):
    r"""Estimates the mutual information of all pairs of variables in `trainer.predict`.

    The values are those of :func:`mutual_information_matrix`. Every process holds all samples and
    estimates its share of the pairs; at the end all have the whole matrix. What a run on several
    devices or machines takes is what the Trainer is told.

    Args:
        x: samples, shape (n, d) or (b, n, d), each column a variable; or a sequence of variables,
            each of shape (n, d_i) or (b, n, d_i), or integer classes, shape (n,) or (b, n).
        groups: columns of each variable, if these are several columns of one tensor.
        seed: of the shuffled pairs.
        weights: name or path of the weights.
        chunk: pairs of one step.

    Attributes:
        matrix: once predicted, symmetric, shape (g, g) or (b, g, g), in nats, on the CPU; NaN on
            the diagonal and where `limit_predict_batches` left pairs out.

    Raises:
        InputError: the samples or groups cannot be used; the message says why.

    Warns:
        SupportWarning: the values of some of this process's pairs may be off, and why.

    Example:
        >>> import torch
        >>> from lightning.pytorch import Trainer
        >>> from flashmi_reg.integrations.lightning_matrix import InformationMatrix
        >>> x = torch.randn(300, 3, generator=torch.Generator().manual_seed(0))
        >>> pairs = InformationMatrix(x)
        >>> quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        >>> _ = Trainer(accelerator="cpu", devices=1, **quiet).predict(pairs)
        >>> pairs.matrix.shape
        torch.Size([3, 3])
    """

    matrix: Tensor | None

    def __init__(
        self,
        x: Tensor | Sequence[Tensor],
        groups: Sequence[Sequence[int]] | None = None,
        *,
        seed: int = DEFAULT_SEED,
        weights: str = "base",
        chunk: int = CHUNK,
    ) -> None:
        super().__init__()
        if not isinstance(chunk, int) or chunk < 1:
            raise InputError(f"`chunk` must be a positive integer, received {chunk!r}.")
        self.seed = seed
        self.chunk = chunk
        self.matrix = None
        self._model = FlashMI.from_pretrained(weights)
        # No buffers: a Trainer of low precision would round them.
        self._variables = variables_of(x, groups, self._model)
        self._places = places_of(len(self._variables.columns))
        self._sums = self._counts = torch.empty(0)
        self._notes: dict[str, None] = {}

    def predict_dataloader(self) -> DataLoader[Any]:
        """Numbers of the pairs, in chunks, which the Trainer shares out between processes."""
        pairs = torch.arange(len(self._places))
        return DataLoader(pairs.split(self.chunk), batch_size=None)

    def on_predict_epoch_start(self) -> None:
        """Moves the samples to the device, and starts with nothing estimated."""
        samples = self._variables.samples.to(self.device)
        self._variables = self._variables._replace(samples=samples)
        shape = (*samples.shape[:-2], len(self._places))
        dtype = torch.promote_types(samples.dtype, torch.float32)
        self._sums, self._counts = torch.zeros(2, *shape, dtype=dtype, device=self.device)
        self._notes = {}

    @torch.no_grad()
    def predict_step(self, batch: Tensor, batch_idx: int = 0, dataloader_idx: int = 0) -> Tensor:
        """Estimates the pairs of the given numbers, shape (m,), to values (…, m) in nats."""
        samples, columns, classes = self._variables
        numbers = batch.tolist()
        pairs = [(columns[i], columns[j]) for i, j in (self._places[k] for k in numbers)]
        found = estimate_pairs(self._model, samples, pairs, seed=self.seed, classes=classes)
        self._sums[..., numbers] += found.values
        self._counts[..., numbers] += 1
        self._notes.update(dict.fromkeys(found.warnings))
        return found.values

    def on_predict_epoch_end(self) -> None:
        """Puts the processes' shares together; a pair that two estimated counts once."""
        sums, counts = (
            self.trainer.strategy.reduce(share, reduce_op="sum")
            for share in (self._sums, self._counts)
        )
        self.matrix = as_matrix((sums / counts).cpu(), len(self._variables.columns))
        tell_notes(tuple(self._notes), stacklevel=2)
