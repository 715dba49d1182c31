"""The information plane in Transformers: a callback for its `Trainer`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from flashmi_reg.errors import InputError, MissingExtraError

from .information_plane import Point, named_values
from .layers import LayerOutputs, as_patterns, find_layers
from .plane_plot import draw_plane, require_matplotlib
from .recorder import N_SAMPLES, N_SLICES, Recorder, check_cadence

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise MissingExtraError(
        "`flashmi_reg.integrations.transformers` needs transformers; "
        'install it with pip install "flashmi_reg[transformers]".'
    ) from error

__all__ = ["InformationPlaneCallback", "mean_over_tokens"]


class InformationPlaneCallback(TrainerCallback):
    r"""Logs I(x; z) and I(z; y) of hidden states while a `Trainer` trains or evaluates.

    Hidden states are pooled to one vector z a sample by :func:`mean_over_tokens`. x is the model's
    input: its token embeddings pooled alike, as they are at that time, or else what it takes as
    `pixel_values`, `input_values` or `input_features`. y is `labels`: classes (n,) or floats; where
    there is one label a token, or none, I(z; y) is left out. At most `n_samples` rows are kept, a
    uniform sample, and ranks are put together before anything is estimated. Values reach
    `state.log_history` and every reporter, in nats, as

        {prefix}/{split}/{layer}/I_xz_{path}    {prefix}/{split}/{layer}/I_zy_{path}

    with split "train" or "eval" and the path of :func:`~.information_plane.measure`, and with them
    `{prefix}/overhead`, the seconds spent here as a share of those of training.

    Args:
        trainer: the trainer that it is added to; its `log` is the one way to all reporters.
        layers: names or patterns of submodules, where `*` stands for any characters. By default
            the blocks of the model, which are those of its longest `nn.ModuleList`.
        inputs: from the keyword arguments of the model's `forward` to x, (n, \*), and y or None.
        pool: from a hidden state (m, \*) and the mask (m, t) of its rows, or None, to (m, \*).
        every_n_epochs: epochs from one point to the next. Where neither this nor `every_n_steps`
            is given, points are as frequent as 5 % of the training time pays for, at epoch ends.
        every_n_steps: optimiser steps from one training point to the next; every evaluation gives
            a point too.
        n_samples: rows behind each value.
        n_slices: random projections behind each value of a sliced path.
        prefix: of the names; instances side by side need different ones.
        figure: where to draw I(x; z) against I(z; y) at the end; True for `{prefix}.png` in the
            trainer's output directory, False for nowhere.
        seed: of the choice of rows, projections and shuffled pairs.
        weights: name or path of the network's weights; values of classes come from none.

    Raises:
        InputError: an argument is out of range; or, when training starts, a layer is not found.
        CheckpointError: there are no such weights.
        MissingExtraError: matplotlib is needed and not installed.

    Example:
        >>> from flashmi_reg.integrations.transformers import InformationPlaneCallback
        >>> # trainer = Trainer(model, args, train_dataset=..., eval_dataset=...)
        >>> # trainer.add_callback(InformationPlaneCallback(trainer, every_n_epochs=1))
    """

    def __init__(
        self,
        trainer: Any,
        layers: str | Sequence[str] | None = None,
        *,
        inputs: Callable[[Mapping[str, Any]], tuple[Tensor, Tensor | None]] | None = None,
        pool: Callable[[Tensor, Tensor | None], Tensor] | None = None,
        every_n_epochs: int | None = None,
        every_n_steps: int | None = None,
        n_samples: int = N_SAMPLES,
        n_slices: int = N_SLICES,
        prefix: str = "information_plane",
        figure: bool | str | Path = True,
        seed: int = 0,
        weights: str | Path = "base",
    ) -> None:
        if not callable(getattr(trainer, "log", None)):
            raise InputError(
                f"`trainer` must be the Trainer, received {type(trainer).__name__}: make it first, "
                "then `trainer.add_callback(InformationPlaneCallback(trainer, ...))`."
            )
        check_cadence(every_n_epochs, every_n_steps)
        if figure:
            require_matplotlib()
        self.layers = None if layers is None else as_patterns(layers)
        self.every_n_epochs, self.every_n_steps = every_n_epochs, every_n_steps
        self.prefix, self.figure = prefix, figure
        self.inputs, self.pool = inputs, pool or mean_over_tokens
        self._model: Any = None
        self._trainer = trainer
        self._recorder = Recorder(
            n_samples=n_samples, n_slices=n_slices, seed=seed, weights=weights
        )
        self._outputs = LayerOutputs()
        self._modules: dict[str, nn.Module] = {}
        self._handles: list[RemovableHandle] = []
        self._due = False
        self._evaluating = False

    @property
    def points(self) -> tuple[Point, ...]:
        """All that was found so far, in the order of time."""
        return tuple(self._recorder.points)

    @property
    def overhead(self) -> float:
        """Seconds spent here as a share of those of training."""
        return self._recorder.overhead

    def draw(self, path: str | Path) -> Path:
        """Writes the figure of all points so far; see :func:`~.plane_plot.draw_plane`."""
        return draw_plane(self.points, path)

    # --- what the Trainer calls -------------------------------------------------------------

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Finds the layers, takes up the points of a resumed run, starts the clock."""
        if args.n_gpu > 1:
            raise InputError(
                f"one process drives {args.n_gpu} devices, which splits each batch: launch one "
                "process a device (torchrun or accelerate), or make one device visible."
            )
        self._model = kwargs["model"]
        names = _blocks(self._model) if self.layers is None else self.layers
        self._modules = find_layers(self._model, names)
        if not self._recorder.points:
            self._recorder.points = _logged_points(state.log_history, self.prefix)
        self._recorder.start()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Decides whether this epoch gives a point, and with it whether rows are collected."""
        self._recorder.reset()
        epoch = round(state.epoch or 0)
        if self.every_n_steps:
            self._due = True
        elif self.every_n_epochs:
            self._due = (epoch + 1) % self.every_n_epochs == 0
        else:
            splits = 1 + (args.eval_strategy != "no")
            self._due = self._recorder.affordable(splits, len(self._modules))

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Waits for the batch of the step."""
        self._evaluating = False
        self._wait("train")

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Waits for the next batch of the step, where gradients are accumulated."""
        self._wait("train")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """At the cadence in steps, estimates and logs; waits for an evaluation that follows."""
        self._detach()
        if self.every_n_steps and state.global_step % self.every_n_steps == 0:
            self._log("train", state)
        self._wait_for_evaluation(control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Estimates and logs, if this epoch gives a point; waits for an evaluation that follows."""
        self._detach()
        if self._due and not self.every_n_steps:
            self._log("train", state)
        self._wait_for_evaluation(control)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Waits for the next batch of the evaluation."""
        if self._evaluating:
            self._wait("eval")

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Estimates and logs; of several evaluation sets, from the first."""
        self._detach()
        if self._evaluating:
            self._evaluating = False
            self._log("eval", state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Draws the figure, on the first rank, and lets go of the model."""
        self._detach()
        self._recorder.stop()
        self._recorder.warn_if_empty(self.prefix)
        self._modules, self._model = {}, None
        self._recorder.release()
        if self.figure and self.points and state.is_world_process_zero:
            name = self.prefix.replace("/", "_") + ".png"
            self.draw(Path(args.output_dir) / name if self.figure is True else self.figure)

    # --- the parts --------------------------------------------------------------------------

    def _wait(self, split: str) -> None:
        """Hooks the model for its next forward pass, whose end removes the hook, failed or not."""
        self._detach()
        if not self._due:
            return
        taken: dict[str, Any] = {}

        def before(model: nn.Module, args: object, given: dict[str, Any]) -> None:
            with self._recorder.timed():
                x, y = (self.inputs or self._x_and_y)(given)
                rows = self._recorder.offer(split, len(x))
                taken.update(x=x, y=y, rows=rows)
                if len(rows):
                    mask = given.get("attention_mask")
                    mask = None if mask is None else mask[rows.to(mask.device)]
                    self._outputs.pool = lambda hidden: self.pool(hidden, mask)
                    self._outputs.attach(self._modules, rows, len(x))

        def after(model: nn.Module, args: object, output: object) -> None:
            self._detach()
            found = self._outputs.outputs
            if "rows" not in taken or not len(taken["rows"]) or set(found) != set(self._modules):
                return
            with self._recorder.timed():
                self._recorder.put(split, taken["rows"], taken["x"], taken["y"], found)

        self._handles = [
            self._model.register_forward_pre_hook(before, with_kwargs=True),
            self._model.register_forward_hook(after, always_call=True),
        ]

    def _wait_for_evaluation(self, control: Any) -> None:
        self._evaluating = self._due and control.should_evaluate
        if self._evaluating:
            self._wait("eval")

    def _detach(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._outputs.detach()

    def _log(self, split: str, state: Any) -> None:
        with self._recorder.timed():
            device = next(self._model.parameters()).device
            points = self._recorder.take(
                split,
                epoch=state.epoch,
                step=state.global_step,
                device=device if device.type == "cuda" else "cpu",
            )
        if points:
            self._trainer.log(
                named_values(points, self.prefix) | {f"{self.prefix}/overhead": self.overhead}
            )

    @torch.no_grad()
    def _x_and_y(self, given: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
        y = given.get("labels")
        if isinstance(y, Tensor) and not y.is_floating_point() and y.numel() != len(y):
            y = None  # a label a token
        for name in ("pixel_values", "input_values", "input_features"):
            if name in given:
                return given[name], y
        embedded = given.get("inputs_embeds")
        if embedded is None and "input_ids" in given:
            table = self._model.get_input_embeddings().weight
            embedded = nn.functional.embedding(given["input_ids"], table)
        if embedded is None:
            raise InputError(
                f"`forward` was given {sorted(given)}, in which the input cannot be told: pass "
                "`inputs=`, a function from these arguments to (x, y)."
            )
        return mean_over_tokens(embedded, given.get("attention_mask")), y


def mean_over_tokens(hidden: Tensor, mask: Tensor | None = None) -> Tensor:
    """One vector a sample: the mean over the tokens that the mask keeps.

    Args:
        hidden: shape (m, t, d); (m, d) is returned as it is, and of (m, c, *) with two or more
            further dimensions the mean over these is taken.
        mask: attention mask, shape (m, t); where None or of another shape, all tokens count.

    Returns:
        Shape (m, d).
    """
    if hidden.ndim == 2:
        return hidden
    if hidden.ndim != 3:
        return hidden.flatten(2).mean(2)
    if mask is None or mask.shape != hidden.shape[:2]:
        return hidden.mean(1)
    weight = mask[..., None].to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1).clamp_min(1)


def _blocks(model: nn.Module) -> list[str]:
    """Names of the blocks of the longest module list."""
    lists = {n: m for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m)}
    if not lists:
        raise InputError(
            f"{type(model).__name__} has no `nn.ModuleList` of blocks: name its `layers`."
        )
    name = max(lists, key=lambda key: len(lists[key]))
    return [f"{name}.{i}" for i in range(len(lists[name]))]


def _logged_points(history: Sequence[Mapping[str, Any]], prefix: str) -> list[Point]:
    """The points among what a trainer has logged, for a run that goes on from a checkpoint."""
    found = []
    for entry in history:
        for key, value in entry.items():
            match = re.fullmatch(rf"{re.escape(prefix)}/(\w+)/(.+)/(I_xz|I_zy)_(\w+)", key)
            if match:
                split, layer, quantity, path = match.groups()
                top = entry.get(f"{prefix}/{split}/H_y") if quantity == "I_zy" else None
                n = int(entry[f"{prefix}/{split}/n"])
                when = {"epoch": entry["epoch"], "step": entry["step"]}
                found.append(Point(split, layer, quantity, path, value, **when, n=n, ceiling=top))
    return found
