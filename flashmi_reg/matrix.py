"""All pairs of variables: estimates between groups of columns, batched by their widths."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor
from tqdm import tqdm

from .batches import Many, any_width, estimate_many, model_or_base, seed_of
from .errors import InputError, SupportWarning
from .inputs import check_pair
from .model import FlashMI, Gradient

__all__ = ["Columns", "columns_of", "estimate_pairs", "mutual_information_matrix"]

Columns = tuple[int, ...]
# A matrix has thousands of pairs: more warnings than these are counted only.
TOLD = 3


@torch.no_grad()
def mutual_information_matrix(
    x: Tensor | Sequence[Tensor],
    groups: Sequence[Sequence[int]] | None = None,
    *,
    generator: torch.Generator | None = None,
    model: FlashMI | None = None,
) -> Tensor:
    r"""Estimates the mutual information between all pairs of variables in nats, without gradients.

    Each value is that of :func:`mutual_information` on the pair, with the same shuffled pairs
    for all. Pairs of like widths are estimated together, in chunks of bounded memory; a progress
    bar is shown on terminals.

    Args:
        x: samples, shape (n, d) or (b, n, d), each column a variable; or a sequence of variables,
            each of shape (n, d_i) or (b, n, d_i).
        groups: columns of each variable, if these are several columns of one tensor.
        generator: draws the shuffled pairs; by default one of a fixed seed.
        model: the estimator, by default that of the packaged `base` weights.

    Returns:
        Symmetric, shape (g, g) or (b, g, g) for g variables. The diagonal is NaN: a continuous
        variable has infinite information about itself.

    Raises:
        InputError: the samples or groups cannot be used; the message says why.

    Warns:
        SupportWarning: the values of some pairs may be off, and why.

    Example:
        >>> import torch
        >>> from flashmi_reg import mutual_information_matrix
        >>> x = torch.randn(300, 3, generator=torch.Generator().manual_seed(0))
        >>> x[:, 2] += 2 * x[:, 0]
        >>> mutual_information_matrix(x).nan_to_num(0).argmax(1).tolist()[::2]
        [2, 0]
    """
    model = model_or_base(model)
    samples, columns = columns_of(x, groups, model)
    places = list(combinations(range(len(columns)), 2))
    pairs = [(columns[i], columns[j]) for i, j in places]
    with tqdm(total=len(pairs), desc="pairs", unit="pair", leave=False, disable=None) as bar:
        values, notes = estimate_pairs(model, samples, pairs, seed=seed_of(generator), bar=bar)
    rest = len(notes) - TOLD
    for text in (*notes[:TOLD], *([f"{rest} more warning(s) like these"] if rest > 0 else [])):
        warnings.warn(f"among the pairs: {text}", SupportWarning, stacklevel=3)
    size = len(columns)
    matrix = values.new_full((*values.shape[:-1], size, size), torch.nan)
    row, column = torch.tensor(places, device=values.device).T
    matrix[..., row, column] = values
    matrix[..., column, row] = values
    return matrix


def columns_of(
    x: Tensor | Sequence[Tensor], groups: Sequence[Sequence[int]] | None, model: FlashMI
) -> tuple[Tensor, list[Columns]]:
    """Variables as one tensor of samples and the columns of each.

    Args:
        x: shape (n, d) or (b, n, d); or a sequence of such tensors, one a variable.
        groups: columns of each variable; None if each is one column, or `x` a sequence.
        model: for the least n.

    Raises:
        InputError: fewer than two variables, unlike samples, or columns that are not there or
            in two groups.
    """
    if isinstance(x, Tensor):
        samples = x
    elif not isinstance(x, (list, tuple)):
        raise InputError(
            f"`x` must be a torch.Tensor or a list of them, received {type(x).__name__}."
        )
    elif groups is not None:
        raise InputError("`groups` must be None where `x` is a sequence: its items are groups.")
    else:
        samples, groups = _joined(x)
    check_pair(samples, samples, any_width(model))
    width = samples.shape[-1]
    singles = [[i] for i in range(width)]
    columns = [tuple(group) for group in (singles if groups is None else groups)]
    if len(columns) < 2:
        raise InputError(f"`x` must hold at least two variables, received {len(columns)}.")
    used: set[int] = set()
    for group in columns:
        inside = all(isinstance(i, int) and 0 <= i < width for i in group)
        if not group or not inside or len(set(group)) < len(group):
            raise InputError(
                f"`groups` must hold columns from 0 to {width - 1}, each once, received {group}."
            )
        if used & set(group):
            raise InputError(
                f"`groups` has column {min(used & set(group))} twice: variables that share a "
                "column have infinite mutual information."
            )
        used |= set(group)
    return samples, columns


def _joined(variables: Sequence[Tensor]) -> tuple[Tensor, list[Columns]]:
    columns: list[Columns] = []
    for i, side in enumerate(variables):
        if not isinstance(side, Tensor) or side.ndim not in (2, 3) or not side.is_floating_point():
            seen = f"{side.dtype} {tuple(side.shape)}" if isinstance(side, Tensor) else type(side)
            raise InputError(
                f"`x[{i}]` must be a floating-point tensor of shape (n, d) or (b, n, d), "
                f"received {seen}."
            )
        first = variables[0]
        if side.shape[:-1] != first.shape[:-1] or side.device != first.device:
            raise InputError(
                f"`x[{i}]` must have the samples of `x[0]`: received shape {tuple(side.shape)} on "
                f"{side.device}, and {tuple(first.shape)} on {first.device}."
            )
        start = columns[-1][-1] + 1 if columns else 0
        columns.append(tuple(range(start, start + side.shape[-1])))
    if not columns:
        raise InputError("`x` must hold at least two variables, received 0.")
    return torch.cat(list(variables), -1), columns


def estimate_pairs(
    model: FlashMI,
    x: Tensor,
    pairs: Sequence[tuple[Columns, Columns]],
    *,
    seed: int,
    gradient: Gradient | None = None,
    bar: tqdm | None = None,
) -> Many:
    """Estimates MI between pairs of groups of columns.

    Args:
        model: the estimator.
        x: shape (n, d) or (b, n, d).
        pairs: columns of the two sides.
        seed: of the shuffled pairs, the same for all.
        gradient: see :func:`estimate_many`.
        bar: advanced by the pairs that are done.

    Returns:
        Values of shape (m,) or (b, m), and the warnings.
    """
    samples = x if x.ndim == 3 else x[None]
    b, n, _ = samples.shape
    alike: dict[tuple[int, int], list[int]] = defaultdict(list)
    ordered = [tuple(sorted(pair, key=len, reverse=True)) for pair in pairs]
    for i, (first, second) in enumerate(ordered):
        alike[len(first), len(second)].append(i)
    found, order = [], []
    notes: dict[str, None] = {}
    for widths in sorted(alike, reverse=True):  # what is too wide shows at once
        members = alike[widths]
        sides = [
            torch.tensor([ordered[i][side] for i in members], device=x.device) for side in (0, 1)
        ]

        def pick(start: int, stop: int, sides: list[Tensor] = sides) -> tuple[Tensor, Tensor]:
            first, second = (samples[..., side[start:stop]].movedim(2, 0) for side in sides)
            return first.flatten(0, 1), second.flatten(0, 1)

        try:
            many = estimate_many(
                model, pick, len(members), size=b * n, seed=seed, gradient=gradient, bar=bar
            )
        except InputError as error:
            raise InputError(f"between {widths[0]} and {widths[1]} columns: {error}") from error
        found.append(many.values.reshape(-1, b))
        notes.update(dict.fromkeys(many.warnings))
        order += members
    place = torch.tensor(order, device=x.device).argsort()
    values = torch.cat(found)[place].mT.to(torch.promote_types(x.dtype, torch.float32))
    return Many(values if x.ndim == 3 else values[0], tuple(notes))
