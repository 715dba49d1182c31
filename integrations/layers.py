"""Layers of a model by name or pattern, and their outputs during one forward pass."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from flashmi_reg.errors import InputError

__all__ = ["LayerOutputs", "as_patterns", "find_layers"]


def find_layers(model: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Module]:
    """Submodules by name or pattern, in the order of the model.

    Args:
        model: where to look.
        patterns: names as in `named_modules()`, or patterns of the shell, in which `*` stands for
            any characters, dots too.

    Raises:
        InputError: a pattern matches nothing.

    Example:
        >>> from torch import nn
        >>> from flashmi_reg.integrations.layers import find_layers
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> list(find_layers(model, ["[02]"]))
        ['0', '2']
    """
    modules = {name: module for name, module in model.named_modules() if name}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in modules):
            near = difflib.get_close_matches(pattern, modules, n=3, cutoff=0.4) or list(modules)[:5]
            raise InputError(
                f"`layers` has '{pattern}', which matches no submodule of {type(model).__name__}: "
                f"names near to it are {', '.join(map(repr, near)) or 'none'}."
            )
    return {
        name: module
        for name, module in modules.items()
        if any(fnmatchcase(name, pattern) for pattern in patterns)
    }


def as_patterns(layers: str | Sequence[str]) -> tuple[str, ...]:
    """What a user gives as `layers`, checked: one name or pattern, or several.

    Raises:
        InputError: it is neither.
    """
    patterns = (layers,) if isinstance(layers, str) else tuple(layers)
    if not patterns or not all(isinstance(pattern, str) and pattern for pattern in patterns):
        raise InputError(
            f"`layers` must be a name, names or patterns of submodules, received {layers!r}."
        )
    return patterns


class LayerOutputs:
    """Forward hooks that copy a few rows of what layers return, and are gone afterwards.

    A layer that is called several times in one pass counts the first time, so that recomputed
    activations do not.

    Args:
        pool: from the rows of an output, shape (m, *), to those that are kept; all if None.
    """

    def __init__(self, pool: Callable[[Tensor], Tensor] | None = None) -> None:
        self.pool = pool
        self.outputs: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = []

    def attach(self, modules: Mapping[str, nn.Module], rows: Tensor, size: int) -> None:
        """Waits for the next pass over a batch.

        Args:
            modules: the layers by name.
            rows: indices into the batch of those to copy.
            size: rows of the batch.
        """
        self.detach()
        self.outputs = {}
        for name, module in modules.items():
            hook = self._hook(name, rows, size)
            self._handles.append(module.register_forward_hook(hook))

    def detach(self) -> None:
        """Removes the hooks; what they copied remains."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _hook(self, name: str, rows: Tensor, size: int) -> Callable[..., None]:
        def copy(module: nn.Module, args: object, output: object) -> None:
            if name in self.outputs:
                return
            values = _first_tensor(output)
            if values is None or values.ndim == 0 or len(values) != size:
                shape = type(output).__name__ if values is None else tuple(values.shape)
                raise InputError(
                    f"layer '{name}' returned {shape} for a batch of {size} rows: its first "
                    "dimension must be that of the batch; choose another layer, or give `layers` "
                    "as a function of the batch."
                )
            kept = values.detach()[rows.to(values.device)]
            self.outputs[name] = kept if self.pool is None else self.pool(kept)

        return copy


def _first_tensor(output: object) -> Tensor | None:
    """The tensor that a module returned: itself, or the first in a tuple or mapping."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        output = tuple(output.values())
    if isinstance(output, tuple | list):
        return next((value for value in output if isinstance(value, Tensor)), None)
    return None
