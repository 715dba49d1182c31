"""Metrics: mutual information over an epoch and over ranks, from a bounded sample of its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from .errors import InputError
from .inputs import WIDEST, samples_needed
from .mixed import is_discrete, mixed_mutual_information
from .model import FlashMI
from .reservoir import CAPACITY
from .reservoir_metric import ReservoirMetric
from .slicing import sliced_mutual_information

__all__ = ["InformationPlane", "MutualInformation", "SlicedMutualInformation"]

PAIRS = ("xz", "zy")


class MutualInformation(ReservoirMetric):
    r"""I(x; y) in nats, over all batches and ranks.

    A uniform sample of at most `capacity` rows of all batches is kept, so that memory is bounded;
    the estimate is that of :meth:`FlashMI.mutual_information` on them. Ranks are merged exactly,
    also if some saw fewer rows or none. `forward` returns the estimate on its batch alone (NaN,
    with a warning, below the least n of the weights), `compute` that on all. The average of batch
    values is no substitute for `compute`: small batches carry more error, and more bias.

    `update(x, y)` takes floating-point tensors of shape (n, d) or (n,), or integer class labels of
    shape (n,), on either side or both, in any precision. The metric is not differentiable; to
    train, use :class:`MutualInformationLoss`.

    Args:
        capacity: the most rows kept, in 8 · capacity · (1 + dx + dy) bytes.
        kwargs: `weights`, the name or path of the weights, by default "base", and those of
            :class:`torchmetrics.Metric`.

    Raises:
        InputError: in `update`, samples cannot be used or differ in width from earlier ones; in
            `compute`, there are too few of them or they are too wide.

    Example:
        >>> import torch
        >>> from flashmi_reg.metrics import MutualInformation
        >>> metric = MutualInformation()
        >>> generator = torch.Generator().manual_seed(0)
        >>> for _ in range(4):
        ...     x = torch.randn(256, 1, generator=generator)
        ...     metric.update(x, x + torch.randn(256, 1, generator=generator))
        >>> abs(metric.compute().item() - 0.3466) < 0.1
        True
    """

    def __init__(self, capacity: int = CAPACITY, **kwargs: Any) -> None:
        super().__init__(2, capacity, **kwargs)

    def update(self, x: Tensor, y: Tensor) -> None:
        """Adds a batch: x (n, dx), and y (n, dy) or labels (n,)."""
        self._add({"x": x, "y": y})

    def compute(self) -> Tensor:
        """The estimate on the rows kept, shape (), float32."""
        x, y = self._sides()
        if self._is_short(_least(self._model, x, y)):
            return _nan(self.device)
        return _information(self._model, x, y)


class SlicedMutualInformation(ReservoirMetric):
    r"""k-sliced mutual information of x and y in nats, over all batches and ranks.

    The mean MI of random orthonormal projections ("k-Sliced Mutual Information", Goldfeld et al.,
    2022), for sides of more than 64 columns. It is another quantity than I(x; y)
    and at most as large. State, arguments of `update` and errors are those of
    :class:`MutualInformation`; the projections are the same in every call of `compute`.

    Args:
        k: coordinates kept by each projection.
        n_slices: number of pairs of projections.
        capacity: the most rows kept, in 8 · capacity · (1 + dx + dy) bytes.
        kwargs: `weights`, the name or path of the weights, by default "base", and those of
            :class:`torchmetrics.Metric`.

    Example:
        >>> import torch
        >>> from flashmi_reg.metrics import SlicedMutualInformation
        >>> metric = SlicedMutualInformation(k=2, n_slices=4)
        >>> x = torch.randn(200, 64, generator=torch.Generator().manual_seed(0))
        >>> metric.update(x, x[:, :20].exp())
        >>> metric.compute().shape
        torch.Size([])
    """

    def __init__(
        self, k: int = 5, n_slices: int = 32, *, capacity: int = CAPACITY, **kwargs: Any
    ) -> None:
        super().__init__(2, capacity, **kwargs)
        _check_slices(k, n_slices, self._model)
        self.k = k
        self.n_slices = n_slices

    def update(self, x: Tensor, y: Tensor) -> None:
        """Adds a batch: x (n, dx), and y (n, dy) or labels (n,)."""
        self._add({"x": x, "y": y})

    def compute(self) -> Tensor:
        """The estimate on the rows kept, shape (), float32."""
        if self._is_short(self._model.header.trained_n[0]):
            return _nan(self.device)
        x, y = self._sides()
        return _sliced(self._model, x, y, self.k, self.n_slices)


class InformationPlane(ReservoirMetric):
    r"""I(x; z) and I(z; y) in nats for each named layer's representation z.

    The coordinates of the information plane ("Opening the Black Box of Deep Neural Networks via
    Information", Shwartz-Ziv & Tishby, 2017). One sample of rows serves all layers. Where a
    floating-point side has more than 64 columns, the value is k-sliced MI, another
    quantity, and its name says `sliced_mi`. Without noise, a continuous z = f(x) has infinite
    I(x; z): what is estimated then saturates, and compares layers rather than measures them.

    Args:
        layers: names of the layers, in the order in which data pass them.
        k: coordinates kept by each projection where MI is sliced.
        n_slices: number of pairs of projections where MI is sliced.
        capacity: the most rows kept, in 8 · capacity · (1 + all columns) bytes.
        kwargs: `weights`, the name or path of the weights, by default "base", and those of
            :class:`torchmetrics.Metric`.

    Raises:
        InputError: no layers are named, or one of them is missing in `update`; otherwise as
            :class:`MutualInformation`.

    Example:
        >>> import torch
        >>> from flashmi_reg.metrics import InformationPlane
        >>> plane = InformationPlane(["hidden"])
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(300, 2, generator=generator)
        >>> y = x.sum(1) + torch.randn(300, generator=generator)
        >>> plane.update(x, y, {"hidden": x + torch.randn(300, 2, generator=generator)})
        >>> list(plane.compute())
        ['hidden/mi_xz', 'hidden/mi_zy']
    """

    def __init__(
        self,
        layers: Sequence[str],
        *,
        k: int = 5,
        n_slices: int = 32,
        capacity: int = CAPACITY,
        **kwargs: Any,
    ) -> None:
        if isinstance(layers, str) or not layers or len(set(layers)) < len(layers):
            raise InputError(
                f"`layers` must be a list of different names, received {layers!r}: "
                'name what `update` will bring, e.g. ["hidden", "logits"].'
            )
        super().__init__(2 + len(layers), capacity, **kwargs)
        _check_slices(k, n_slices, self._model)
        self.layers = tuple(layers)
        self.k = k
        self.n_slices = n_slices

    def update(self, x: Tensor, y: Tensor, layers: Mapping[str, Tensor]) -> None:
        """Adds a batch.

        Args:
            x: the network's input, shape (n, dx).
            y: its target, shape (n, dy), or labels (n,).
            layers: the representation at each layer, shape (n, dz), by name.
        """
        missing = [name for name in self.layers if name not in layers]
        if missing:
            raise InputError(
                f"`layers` lacks {missing}: received {list(layers)}, and every batch must bring "
                f"{list(self.layers)}."
            )
        self._add({"x": x, "y": y, **{f"layers[{z!r}]": layers[z] for z in self.layers}})

    def compute(self) -> dict[str, Tensor]:
        """The estimates, shape () in float32, by `layer/mi_xz`, or `layer/sliced_mi_xz`."""
        x, y, *hidden = self._sides()
        pairs = [pair for z in hidden for pair in ((x, z), (z, y))]
        short = self._is_short(max(_least(self._model, *pair) for pair in pairs))
        found = {}
        for name, z in zip(self.layers, hidden, strict=True):
            for pair, both in zip(PAIRS, ((x, z), (z, y)), strict=True):
                wide = _too_wide(*both)
                if short:
                    value = _nan(self.device)
                elif wide:
                    value = _sliced(self._model, *both, self.k, self.n_slices)
                else:
                    value = _information(self._model, *both)
                found[f"{name}/{'sliced_' if wide else ''}mi_{pair}"] = value
        return found

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Draws the plane: a point for each layer, or its path through several results.

        Args:
            val: a result, or a list of results; `compute()` if none is given.
            ax: the matplotlib axes to draw into.

        Returns:
            The figure, None if axes were given, and the axes.
        """
        from torchmetrics.utilities.plot import _error_on_missing_matplotlib

        _error_on_missing_matplotlib()
        import matplotlib.pyplot as plt

        results = cast("list[dict[str, Tensor]]", self.compute() if val is None else val)
        results = results if isinstance(results, Sequence) else [results]
        figure, axes = plt.subplots() if ax is None else (None, ax)
        for name in self.layers:
            path = [[_of_pair(found, name, pair) for pair in PAIRS] for found in results]
            axes.plot(*zip(*path, strict=True), marker="o", label=name)
        sliced = any("/sliced_" in key for found in results for key in found)
        for label, pair in ((axes.set_xlabel, "I(x; z)"), (axes.set_ylabel, "I(z; y)")):
            label(f"{pair} in nats" + (", sliced where wide" if sliced else ""))
        axes.legend()
        return figure, axes


def _of_pair(found: Mapping[str, Tensor], layer: str, pair: str) -> float:
    key = f"{layer}/mi_{pair}"
    return float(found[key] if key in found else found[f"{layer}/sliced_mi_{pair}"])


def _check_slices(k: int, n_slices: int, model: FlashMI) -> None:
    widest = model.header.trained_width[1]
    if not 1 <= k <= widest:
        raise InputError(f"`k` must lie between 1 and {widest}, received {k}.")
    if n_slices < 1:
        raise InputError(f"`n_slices` must be at least 1, received {n_slices}.")


def _information(model: FlashMI, x: Tensor, y: Tensor) -> Tensor:
    return mixed_mutual_information(x, y, model=model).float()


def _sliced(model: FlashMI, x: Tensor, y: Tensor, k: int, n_slices: int) -> Tensor:
    if is_discrete(x) and is_discrete(y):
        return _information(model, x, y)
    return sliced_mutual_information(x, y, k, n_slices, model=model).float()


def _too_wide(x: Tensor, y: Tensor) -> bool:
    """Whether a continuous side is wider than what is estimated from whole."""
    return any(not is_discrete(side) and side.shape[-1] > WIDEST for side in (x, y))


def _least(model: FlashMI, x: Tensor, y: Tensor) -> int:
    """The fewest rows that are estimated from."""
    if is_discrete(x) or is_discrete(y) or _too_wide(x, y):
        return model.header.trained_n[0]
    return samples_needed(x, y, model.header)


def _nan(device: torch.device) -> Tensor:
    return torch.full((), torch.nan, device=device)
