"""The information plane in Lightning: a callback, for `lightning` and for `pytorch_lightning`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flashmi_reg.errors import InputError, MissingExtraError

from .information_plane import Point, named_values
from .layers import LayerOutputs, as_patterns, find_layers
from .plane_plot import draw_plane, require_matplotlib
from .recorder import N_SAMPLES, N_SLICES, Recorder, check_cadence

__all__ = ["InformationPlaneCallback"]

FRAMEWORKS = ("lightning.pytorch", "pytorch_lightning")
# Classes of a module's ancestry that are not the user's.
FOREIGN = ("lightning.", "pytorch_lightning.", "torch.", "builtins")


def _callback_base() -> Any:
    """A base class that the Trainers of both packages, where installed, take for their own."""
    bases = []
    for framework in FRAMEWORKS:
        try:
            bases.append(import_module(framework).Callback)
        except ImportError:
            continue
    if not bases:
        raise MissingExtraError(
            "`flashmi_reg.integrations.lightning` needs lightning or pytorch_lightning; "
            'install it with pip install "flashmi_reg[lightning]".'
        )
    return type("Callback", tuple(bases), {})


_Callback: Any = _callback_base()


class InformationPlaneCallback(_Callback):
    r"""Logs I(x; z) and I(z; y) of layers while a model trains, and draws the information plane.

    x is the input, y the target and z the output of a layer; the model's code stays as it is. Of
    all rows that pass between two points, `n_samples` are kept, a uniform sample, and no others.
    Training rows are taken as they are trained on, so that they have seen the weights change.
    Ranks are put together before anything is estimated. Values are logged in nats as

        {prefix}/{split}/{layer}/I_xz_{path}    {prefix}/{split}/{layer}/I_zy_{path}

    with split "train" or "val" ("val0", "val1", ... of several loaders) and the path "native",
    "labels", "sliced5" or "labels_sliced5" (:func:`~.information_plane.measure`), and with them
    `{prefix}/overhead`, the seconds spent here as a share of those of training.

    Args:
        layers: names or patterns of submodules ("encoder.*", where `*` stands for any characters),
            or a function of module and batch that returns outputs by name, (n, \*) each.
        inputs: from a batch to x, (n, \*), and y: classes, integer (n,), or floats (n, \*), or
            None. By default the first two entries of a tuple or list.
        pool: applied to a layer's output, (m, \*); by default all coordinates are kept.
        every_n_epochs: epochs from one point to the next. Where neither this nor `every_n_steps`
            is given, points are as frequent as 5 % of the training time pays for, at epoch ends.
        every_n_steps: optimiser steps from one training point to the next, a multiple of the
            trainer's `log_every_n_steps`; loggers show the last value in between. Every validation
            run gives a point too.
        n_samples: rows behind each value.
        n_slices: random projections behind each value of a sliced path.
        prefix: of the names; instances side by side need different ones.
        figure: where to draw I(x; z) against I(z; y) at the end; True for `{prefix}.png` in the
            directory of the logger, False for nowhere.
        seed: of the choice of rows, projections and shuffled pairs.
        weights: name or path of the network's weights; values of classes come from none.

    Raises:
        InputError: an argument is out of range; and when training starts, a layer cannot be found,
            two instances share a prefix, or `every_n_steps` never meets the trainer's
            `log_every_n_steps`.
        CheckpointError: there are no such weights.
        MissingExtraError: matplotlib is needed and not installed.

    Example:
        >>> from flashmi_reg.integrations.lightning import InformationPlaneCallback
        >>> plane = InformationPlaneCallback(["encoder", "head.*"], every_n_epochs=5)
        >>> # trainer = Trainer(callbacks=[plane]); trainer.fit(module, train_loader, val_loader)
        >>> plane.points
        ()
    """

    def __init__(
        self,
        layers: str | Sequence[str] | Callable[[Any, Any], Mapping[str, Tensor]],
        *,
        inputs: Callable[[Any], tuple[Tensor, Tensor | None]] | None = None,
        pool: Callable[[Tensor], Tensor] | None = None,
        every_n_epochs: int | None = None,
        every_n_steps: int | None = None,
        n_samples: int = N_SAMPLES,
        n_slices: int = N_SLICES,
        prefix: str = "information_plane",
        figure: bool | str | Path = True,
        seed: int = 0,
        weights: str | Path = "base",
    ) -> None:
        super().__init__()
        self.layers = layers if callable(layers) else as_patterns(layers)
        check_cadence(every_n_epochs, every_n_steps)
        if not prefix:
            raise InputError("`prefix` must not be empty.")
        if figure:
            require_matplotlib()
        self.inputs = inputs or _first_two
        self.every_n_epochs, self.every_n_steps = every_n_epochs, every_n_steps
        self.prefix, self.figure = prefix, figure
        self._recorder = Recorder(
            n_samples=n_samples, n_slices=n_slices, seed=seed, weights=weights
        )
        self._outputs = LayerOutputs(pool)
        self._modules: dict[str, nn.Module] = {}
        self._rows: Tensor | None = None
        self._missed: set[str] = set()
        self._due = False
        self._steps = 0
        self._global_step = 0

    @property
    def points(self) -> tuple[Point, ...]:
        """All that was found so far, in the order of time."""
        return tuple(self._recorder.points)

    @property
    def overhead(self) -> float:
        """Seconds spent here as a share of those of training."""
        return self._recorder.overhead

    @property
    def spent(self) -> float:
        """Seconds spent here so far, by the clock."""
        return self._recorder.spent

    @property
    def state_key(self) -> str:
        """Distinct for instances of different prefix or layers."""
        layers = self.layers if isinstance(self.layers, tuple) else "a function"
        return f"InformationPlaneCallback(prefix={self.prefix!r}, layers={layers!r})"

    def draw(self, path: str | Path) -> Path:
        """Writes the figure of all points so far; see :func:`~.plane_plot.draw_plane`."""
        return draw_plane(self.points, path)

    # --- what Lightning calls ---------------------------------------------------------------

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Checks what can be checked before training starts."""
        if stage != "fit":
            return
        for other in trainer.callbacks:
            same = isinstance(other, InformationPlaneCallback) and other.prefix == self.prefix
            if same and other is not self:
                raise InputError(
                    f"two InformationPlaneCallbacks have `prefix`={self.prefix!r}, so that their "
                    "values would get the same names: give each its own."
                )
        every, logged = self.every_n_steps, trainer.log_every_n_steps
        if every is not None and trainer.loggers and (not logged or every % logged):
            raise InputError(
                f"`every_n_steps`={every} and the trainer's log_every_n_steps={logged}: loggers "
                "take values at multiples of the latter only, so that some would be lost; choose "
                "a multiple, or give the trainer a divisor."
            )
        # A module may build its layers in its own `setup`, which comes after this one.
        if not _builds_late(pl_module):
            self._find_layers(pl_module)

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Finds the layers, which exist by now."""
        self._find_layers(pl_module)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Starts the clock."""
        self._recorder.start()
        self._due = bool(self.every_n_steps)  # resumed within an epoch, it has no start
        self._global_step = trainer.global_step

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Decides whether this epoch gives a point, and with it whether rows are collected."""
        self._recorder.reset()
        self._due = self._decide(trainer)

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Chooses rows of the batch, and hooks the layers if there are any."""
        if self._due:
            self._before_batch("train", batch)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Takes the rows; at the cadence in steps, estimates and logs."""
        self._after_batch("train", pl_module, batch)
        stepped = trainer.global_step != self._global_step
        self._steps, self._global_step = self._steps + stepped, trainer.global_step
        if self.every_n_steps and stepped and self._steps % self.every_n_steps == 0:
            self._log("train", trainer, pl_module, on_step=True, on_epoch=False)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Estimates and logs, if this epoch gives a point."""
        if self._due and not self.every_n_steps:
            self._log("train", trainer, pl_module, on_step=False, on_epoch=True)

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """As in training, on the rows of each loader apart."""
        if self._due and _validating(trainer):
            self._before_batch(_val_name(trainer, dataloader_idx), batch)

    def on_validation_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Takes the rows."""
        self._after_batch(_val_name(trainer, dataloader_idx), pl_module, batch)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Estimates and logs, if this epoch gives a point."""
        if self._due and _validating(trainer):
            for i in range(len(trainer.num_val_batches)):
                split = _val_name(trainer, i)
                self._log(split, trainer, pl_module, on_step=False, on_epoch=True)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Stops the clock."""
        self._recorder.stop()

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Draws the figure, on the first rank."""
        self._recorder.warn_if_empty(self.prefix)
        path = self.figure
        if path is True:
            name = self.prefix.replace("/", "_") + ".png"
            path = Path(trainer.log_dir or trainer.default_root_dir) / name
        if path and self.points and trainer.is_global_zero:
            self.draw(path)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Removes the hooks, which a batch that failed has left."""
        self._outputs.detach()
        self._recorder.stop()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Removes the hooks and lets go of the model."""
        self._outputs.detach()
        self._modules = {}
        self._recorder.release()

    def state_dict(self) -> dict[str, Any]:
        """Points and clock; the rows of an unfinished epoch are not part of it."""
        return self._recorder.state_dict() | {"steps": self._steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from :meth:`state_dict`."""
        self._steps = state_dict["steps"]
        self._recorder.load_state_dict(state_dict)

    # --- the parts --------------------------------------------------------------------------

    def _find_layers(self, pl_module: nn.Module) -> None:
        if not callable(self.layers):
            self._modules = find_layers(pl_module, self.layers)

    def _decide(self, trainer: Any) -> bool:
        if self.every_n_steps:
            return True
        if self.every_n_epochs:
            return (trainer.current_epoch + 1) % self.every_n_epochs == 0
        splits = 1 + len(trainer.num_val_batches or [])
        return self._recorder.affordable(splits, max(len(self._modules), 1))

    def _before_batch(self, split: str, batch: Any) -> None:
        with self._recorder.timed():
            size = len(self.inputs(batch)[0])
            self._rows = self._recorder.offer(split, size)
            if len(self._rows):
                self._outputs.attach(self._modules, self._rows, size)

    def _after_batch(self, split: str, pl_module: nn.Module, batch: Any) -> None:
        rows, self._rows = self._rows, None
        self._outputs.detach()
        if rows is None or not len(rows):
            return
        with self._recorder.timed():
            found: Mapping[str, Tensor] = self._outputs.outputs
            if callable(self.layers):
                found = self._called(pl_module, batch, rows)
            self._missed = set(self._modules) - set(found)
            if not self._missed:
                self._recorder.put(split, rows, *self.inputs(batch), found)

    def _called(self, pl_module: nn.Module, batch: Any, rows: Tensor) -> dict[str, Tensor]:
        """Outputs by the function that the user gave as `layers`."""
        assert callable(self.layers)
        with torch.no_grad():
            outputs = self.layers(pl_module, batch)
        pool = self._outputs.pool
        kept = {name: output[rows.to(output.device)] for name, output in outputs.items()}
        return kept if pool is None else {name: pool(output) for name, output in kept.items()}

    def _log(self, split: str, trainer: Any, pl_module: Any, **when: bool) -> None:
        with self._recorder.timed():
            if self._missed and not self._recorder.rows_of(split):
                raise InputError(
                    f"`layers` has {sorted(self._missed)}, which the model did not call on "
                    f"{split} batches: remove them, or give `layers` as a function of the batch."
                )
            points = self._recorder.take(
                split,
                epoch=trainer.current_epoch,
                step=trainer.global_step,
                device=pl_module.device if pl_module.device.type == "cuda" else "cpu",
            )
        values = named_values(points, self.prefix)
        if split == "train":
            values[f"{self.prefix}/overhead"] = self.overhead
        # All ranks hold equal values, so that their mean is no other; it spares a warning.
        pl_module.log_dict(values, sync_dist=trainer.world_size > 1, batch_size=1, **when)


def _first_two(batch: Any) -> tuple[Tensor, Tensor | None]:
    if isinstance(batch, tuple | list) and len(batch) >= 2:
        return batch[0], batch[1]
    raise InputError(
        f"the batch is a {type(batch).__name__}, in which input and target cannot be told apart: "
        "pass `inputs=`, a function from a batch to (x, y)."
    )


def _builds_late(pl_module: nn.Module) -> bool:
    own = [c for c in type(pl_module).__mro__ if not c.__module__.startswith(FOREIGN)]
    return any(name in vars(c) for c in own for name in ("setup", "configure_model"))


def _validating(trainer: Any) -> bool:
    """Whether this validation is part of training, and not the check before it."""
    return trainer.state.fn == "fit" and not trainer.sanity_checking


def _val_name(trainer: Any, index: int) -> str:
    return "val" if len(trainer.num_val_batches) == 1 else f"val{index}"
