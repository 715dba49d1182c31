"""All pairs of variables: estimates between groups of columns, batched by width and kind."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from .batches import Estimator, Many, any_width, estimate_many, model_or_base, seed_of
from .errors import InputError, SupportWarning
from .inputs import check_pair
from .mixed import ClassEstimator, LabelEstimator, as_classes, is_discrete
from .model import FlashMI, Gradient

__all__ = [
    "Columns",
    "Variables",
    "as_matrix",
    "columns_of",
    "estimate_pairs",
    "mutual_information_matrix",
    "places_of",
    "tell_notes",
    "variables_of",
]

Columns = tuple[int, ...]


class Variables(NamedTuple):
    """Samples of variables side by side.

    Attributes:
        samples: shape (n, d) or (b, n, d), floating point.
        columns: of each variable.
        classes: columns whose numbers stand for classes.
    """

    samples: Tensor
    columns: list[Columns]
    classes: frozenset[int]


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
    for all; of :func:`label_mutual_information` where one variable is of classes, and of
    :func:`class_information` where both are. Pairs of like widths are estimated together, in
    chunks of bounded memory; a progress bar is shown on terminals.

    Args:
        x: samples, shape (n, d) or (b, n, d), each column a variable; or a sequence of variables,
            each of shape (n, d_i) or (b, n, d_i), or integer classes, shape (n,) or (b, n).
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
    samples, columns, classes = variables_of(x, groups, model)
    places = places_of(len(columns))
    pairs = [(columns[i], columns[j]) for i, j in places]
    with tqdm(total=len(pairs), desc="pairs", unit="pair", leave=False, disable=None) as bar:
        values, notes = estimate_pairs(
            model, samples, pairs, seed=seed_of(generator), bar=bar, classes=classes
        )
    tell_notes(notes, stacklevel=4)
    return as_matrix(values, len(columns))


def places_of(size: int) -> list[tuple[int, int]]:
    """Rows and columns above the diagonal of a matrix, in order."""
    return list(combinations(range(size), 2))


def as_matrix(values: Tensor, size: int) -> Tensor:
    """The symmetric matrix (…, size, size) of values (…, m) in the order of :func:`places_of`."""
    matrix = values.new_full((*values.shape[:-1], size, size), torch.nan)
    row, column = torch.tensor(places_of(size), device=values.device).T
    matrix[..., row, column] = values
    matrix[..., column, row] = values
    return matrix


def tell_notes(notes: Sequence[str], stacklevel: int) -> None:
    """Warns of the first few; a matrix may have many alike."""
    rest = len(notes) - TOLD
    for text in (*notes[:TOLD], *([f"{rest} more warning(s) like these"] if rest > 0 else [])):
        warnings.warn(f"among the pairs: {text}", SupportWarning, stacklevel=stacklevel)


def columns_of(
    x: Tensor | Sequence[Tensor], groups: Sequence[Sequence[int]] | None, model: FlashMI
) -> tuple[Tensor, list[Columns]]:
    """Variables as :func:`variables_of`, all of which must be continuous."""
    samples, columns, classes = variables_of(x, groups, model)
    if classes:
        raise InputError(
            "`x` must be floating point, received variables of an integer type, that is classes: "
            "cast amounts and counts with `.float()`."
        )
    return samples, columns


def variables_of(
    x: Tensor | Sequence[Tensor], groups: Sequence[Sequence[int]] | None, model: FlashMI
) -> Variables:
    """Variables as one tensor of samples, the columns of each, and which of them are classes.

    Args:
        x: shape (n, d) or (b, n, d); or a sequence of such tensors, or of classes, one a variable.
        groups: columns of each variable; None if each is one column, or `x` a sequence.
        model: for the least n.

    Raises:
        InputError: fewer than two variables, unlike samples, or columns that are not there or
            in two groups.
    """
    classes: frozenset[int] = frozenset()
    if isinstance(x, Tensor):
        samples = x
        if is_discrete(x) and x.ndim in (2, 3):  # each column is a variable of classes
            samples, _, classes = _joined([column[..., 0] for column in x.split(1, -1)])
    elif not isinstance(x, (list, tuple)):
        raise InputError(
            f"`x` must be a torch.Tensor or a list of them, received {type(x).__name__}."
        )
    elif groups is not None:
        raise InputError("`groups` must be None where `x` is a sequence: its items are groups.")
    else:
        samples, groups, classes = _joined(x)
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
        if len(group) > 1 and classes & set(group):
            raise InputError(
                f"`groups` joins columns {group} of classes: give their combinations as one."
            )
    return Variables(samples, columns, classes)


def _joined(variables: Sequence[Tensor]) -> Variables:
    """Variables side by side; classes are numbered."""
    sides: list[Tensor] = []
    columns: list[Columns] = []
    classes: list[int] = []
    for i, side in enumerate(variables):
        start = columns[-1][-1] + 1 if columns else 0
        if isinstance(side, Tensor) and is_discrete(side) and side.ndim in (1, 2):
            classes.append(start)
            side = as_classes(side, side.ndim).unique(return_inverse=True)[1][..., None].float()
        elif (
            not isinstance(side, Tensor)
            or side.ndim not in (2, 3)
            or not side.is_floating_point()
            or not side.shape[-1]
        ):
            seen = f"{side.dtype} {tuple(side.shape)}" if isinstance(side, Tensor) else type(side)
            raise InputError(
                f"`x[{i}]` must be a floating-point tensor of shape (n, d) or (b, n, d), or "
                f"integer classes of shape (n,) or (b, n), received {seen}."
            )
        first = sides[0] if sides else side
        if side.shape[:-1] != first.shape[:-1] or side.device != first.device:
            raise InputError(
                f"`x[{i}]` must have the samples of `x[0]`: received {tuple(side.shape[:-1])} on "
                f"{side.device}, and {tuple(first.shape[:-1])} on {first.device}."
            )
        sides.append(side)
        columns.append(tuple(range(start, start + side.shape[-1])))
    if not columns:
        raise InputError("`x` must hold at least two variables, received 0.")
    return Variables(torch.cat(sides, -1), columns, frozenset(classes))


def estimate_pairs(
    model: FlashMI,
    x: Tensor,
    pairs: Sequence[tuple[Columns, Columns]],
    *,
    seed: int,
    gradient: Gradient | None = None,
    bar: tqdm | None = None,
    classes: frozenset[int] = frozenset(),
) -> Many:
    """Estimates MI between pairs of groups of columns.

    Args:
        model: the estimator.
        x: shape (n, d) or (b, n, d).
        pairs: columns of the two sides.
        seed: of the shuffled pairs, the same for all.
        gradient: see :func:`estimate_many`.
        bar: advanced by the pairs that are done.
        classes: columns whose numbers stand for classes, each a group of its own.

    Returns:
        Values of shape (m,) or (b, m), and the warnings.
    """
    samples = x if x.ndim == 3 else x[None]
    b, n, _ = samples.shape
    alike: dict[tuple[int, int, int], list[int]] = defaultdict(list)
    # Classes come second, and otherwise the narrower side.
    ordered = [
        tuple(sorted(pair, key=lambda side: (side[0] not in classes, len(side)), reverse=True))
        for pair in pairs
    ]
    for i, (first, second) in enumerate(ordered):
        of_classes = (first[0] in classes) + (second[0] in classes)
        alike[of_classes, len(first), len(second)].append(i)
    found, order = [], []
    notes: dict[str, None] = {}
    # What is too wide shows at once.
    for kind in sorted(alike, key=lambda kind: (-kind[0], *kind[1:]), reverse=True):
        members = alike[kind]
        sides = [
            torch.tensor([ordered[i][side] for i in members], device=x.device) for side in (0, 1)
        ]
        estimator: Estimator = (model, LabelEstimator(), ClassEstimator())[kind[0]]
        # Neighbours are compared pair by pair: memory grows with the square of n.
        size = b * n * (max(1, n // 512) if kind[0] == 1 else 1)

        def pick(
            start: int, stop: int, sides: list[Tensor] = sides, of_classes: int = kind[0]
        ) -> tuple[Tensor, Tensor]:
            first, second = (
                samples[..., side[start:stop]].movedim(2, 0).flatten(0, 1) for side in sides
            )
            return first.long() if of_classes == 2 else first, (
                second[..., 0].long() if of_classes else second
            )

        try:
            many = estimate_many(
                estimator, pick, len(members), size=size, seed=seed, gradient=gradient, bar=bar
            )
        except InputError as error:
            raise InputError(f"between {kind[1]} and {kind[2]} columns: {error}") from error
        found.append(many.values.reshape(-1, b))
        notes.update(dict.fromkeys(many.warnings))
        order += members
    place = torch.tensor(order, device=x.device).argsort()
    values = torch.cat(found)[place].mT.to(torch.promote_types(x.dtype, torch.float32))
    return Many(values if x.ndim == 3 else values[0], tuple(notes))
