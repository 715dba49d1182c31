"""The commands that read a table: `flashmi estimate | test | matrix`."""

from __future__ import annotations

import argparse
import csv
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .errors import InputError, MissingExtraError
from .inputs import WIDEST, samples_needed
from .tables import read_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["add_commands"]

ESTIMATE_EXAMPLES = """\
examples:
  flashmi estimate samples.csv --x age,height --y weight
  flashmi estimate samples.csv --x age,height --y country --labels
  flashmi estimate samples.csv --x city --y country --labels --x-labels
  flashmi estimate samples.csv --x age --y weight --given height
  flashmi estimate samples.csv --x age --y weight --given country --given-labels
  flashmi estimate samples.npy --x 0:3 --y 3,5
  flashmi estimate samples.npz --x images --y captions --json

columns are counted from 0, a:b leaves out b; in .npz files --x and --y name arrays;
both may be left out where the columns are called x and y, or are only two
"""
TEST_EXAMPLES = """\
examples:
  flashmi test samples.csv --x age,height --y weight
  flashmi test samples.npy --x 0:3 --y 3 --permutations 999
"""
MATRIX_EXAMPLES = """\
examples:
  flashmi matrix samples.csv --plot heatmap.png
  flashmi matrix samples.parquet --columns age,height,weight --output matrix.csv
  flashmi matrix samples.csv --labels country
  flashmi matrix samples.npz --json

in .npz files each array is one variable
"""
SLICED = (
    "the sides are too wide for so few samples, or in all: this is k-sliced MI, another quantity "
    "than I(x; y) and at most as large"
)
# A larger heatmap has no room for names.
NAMED = 40


def add_commands(commands: Any) -> None:
    """Adds the commands to those of an argument parser."""
    raw = argparse.RawDescriptionHelpFormatter

    estimate = commands.add_parser(
        "estimate",
        help="estimate the mutual information between columns of a file",
        description="Estimates I(x; y) in nats between columns of a file, one sample a row.",
        epilog=ESTIMATE_EXAMPLES,
        formatter_class=raw,
    )
    _add_sides(estimate)
    estimate.add_argument(
        "--labels", action="store_true", help="y is one column of classes, numbers or words"
    )
    estimate.add_argument("--x-labels", action="store_true", help="x is one column of classes")
    estimate.add_argument("--given", metavar="COLUMNS", help="estimate I(x; y | these columns)")
    estimate.add_argument(
        "--given-labels", action="store_true", help="the condition is one column of classes"
    )
    estimate.set_defaults(run=_estimate)

    test = commands.add_parser(
        "test",
        help="test whether columns of a file are independent",
        description="Tests whether x and y are independent: I(x; y) against permuted pairs.",
        epilog=TEST_EXAMPLES,
        formatter_class=raw,
    )
    _add_sides(test)
    test.add_argument(
        "--permutations", type=int, default=99, metavar="N", help="of the null (default 99)"
    )
    test.set_defaults(run=_test)

    matrix = commands.add_parser(
        "matrix",
        help="estimate the mutual information of all pairs of columns",
        description="Estimates I in nats between all pairs of columns and shows the largest.",
        epilog=MATRIX_EXAMPLES,
        formatter_class=raw,
    )
    _add_file(matrix)
    matrix.add_argument("--columns", metavar="COLUMNS", help="the columns (default all)")
    matrix.add_argument("--labels", metavar="COLUMNS", help="those of them that hold classes")
    matrix.add_argument("--plot", type=Path, metavar="FILE", help="write a heatmap, e.g. a .png")
    matrix.add_argument("--output", type=Path, metavar="FILE", help="write the matrix as .csv")
    matrix.add_argument("--top", type=int, default=10, help="pairs shown (default 10)")
    matrix.set_defaults(run=_matrix)


def _add_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="a .csv, .npy, .npz or .parquet file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _add_sides(parser: argparse.ArgumentParser) -> None:
    _add_file(parser)
    parser.add_argument("--x", metavar="COLUMNS", help="columns of x, by name or number")
    parser.add_argument("--y", metavar="COLUMNS", help="columns of y, by name or number")


def _estimate(options: argparse.Namespace) -> int:
    if options.given_labels and options.given is None:
        raise InputError("`--given-labels` needs a condition: add `--given COLUMN`.")
    table = read_table(options.file)
    names = table.sides(options.x, options.y)
    x, y = (
        torch.from_numpy(table.labels(side, name) if labels else table.numbers(side, name))
        for side, name, labels in zip(
            names, ("--x", "--y"), (options.x_labels, options.labels), strict=True
        )
    )
    dx, dy = (side.shape[1] if side.ndim == 2 else 1 for side in (x, y))
    found: dict[str, Any]
    if options.given is not None:
        given = table.names(options.given, "--given")
        read = table.labels if options.given_labels else table.numbers
        z = torch.from_numpy(read(given, "--given"))
        found, notes = _of_conditional(x, y, z)
    elif options.labels and options.x_labels:
        found, notes = _of_classes(x, y)
    elif options.labels:
        found, notes = _of_labels(x, y)
    elif options.x_labels:
        found, notes = _of_labels(y, x)
    else:
        found, notes = _of_pair(x, y)
    found |= {"n": len(x), "dx": dx, "dy": dy}
    if options.json:
        print(json.dumps({**found, "warnings": notes}))
        return 0
    print(_sentence(found))
    _warn(notes)
    return 0


def _of_pair(x: Tensor, y: Tensor) -> tuple[dict[str, Any], Sequence[str]]:
    from . import FlashMI, estimate
    from .slicing import sliced_estimate

    header = FlashMI.from_pretrained("base").header
    if max(x.shape[1], y.shape[1]) <= WIDEST and len(x) >= samples_needed(x, y, header):
        whole = estimate(x, y)
        found = {"measure": "mi", "nats": float(whole.value)}
        if whole.interval is not None:
            found["interval"] = [float(bound) for bound in whole.interval]
        return found, list(whole.warnings)
    sliced = sliced_estimate(x, y)
    found = {
        "measure": "sliced_mi",
        "nats": float(sliced.value),
        "standard_error": float(sliced.standard_error),
        "slices": len(sliced.slices),
        "k": max(sliced.k),
    }
    return found, [SLICED, *sliced.warnings]


def _of_labels(x: Tensor, labels: Tensor) -> tuple[dict[str, Any], Sequence[str]]:
    from .labels import label_mutual_information

    with _collected() as notes:
        nats = float(label_mutual_information(x, labels))
    return {"measure": "mi", "nats": nats, "classes": len(labels.unique())}, notes


def _of_classes(x: Tensor, y: Tensor) -> tuple[dict[str, Any], Sequence[str]]:
    from .contingency import class_information

    with _collected() as notes:
        table = class_information(x, y)
    found = {"measure": "mi", "nats": float(table.value), "p_value": float(table.p_value)}
    return {**found, "classes": [len(side.unique()) for side in (x, y)]}, notes


def _of_conditional(x: Tensor, y: Tensor, z: Tensor) -> tuple[dict[str, Any], Sequence[str]]:
    from .chain import conditional_mutual_information

    with _collected() as notes:
        nats = float(conditional_mutual_information(x, y, z))
    return {
        "measure": "conditional_mi",
        "nats": nats,
        "dz": 1 if z.ndim == 1 else z.shape[1],
    }, notes


def _sentence(found: dict[str, Any]) -> str:
    name = {"mi": "I(x; y)", "sliced_mi": "sliced I(x; y)", "conditional_mi": "I(x; y | z)"}
    line = f"{name[found['measure']]} = {found['nats']:.4f} nats"
    if "interval" in found:
        line += " in [{:.4f}, {:.4f}]".format(*found["interval"])
    facts = [f"{key} = {found[key]}" for key in ("n", "dx", "dy", "dz", "classes") if key in found]
    if "p_value" in found:
        facts.append(f"p = {found['p_value']:.3g} if independent")
    if "slices" in found:
        facts.append(f"{found['slices']} slices of {found['k']}, ± {found['standard_error']:.4f}")
    return f"{line}  ({', '.join(facts)})"


def _test(options: argparse.Namespace) -> int:
    from .independence import independence_test

    table = read_table(options.file)
    x_names, y_names = table.sides(options.x, options.y)
    x = torch.from_numpy(table.numbers(x_names, "--x"))
    y = torch.from_numpy(table.numbers(y_names, "--y"))
    with _collected() as notes:
        outcome = independence_test(x, y, options.permutations)
    nats, p_value = float(outcome.value), float(outcome.p_value)
    if options.json:
        found = {"nats": nats, "p_value": p_value, "permutations": options.permutations}
        print(json.dumps({**found, "n": len(x), "warnings": notes}))
        return 0
    print(f"I(x; y) = {nats:.4f} nats, p = {p_value:.4g}")
    print(
        f"of {options.permutations} permutations of n = {len(x)} samples, "
        f"{int((outcome.null >= outcome.value).sum())} reached this value"
    )
    _warn(notes)
    return 0


def _matrix(options: argparse.Namespace) -> int:
    from .matrix import mutual_information_matrix

    for option, path in (("--plot", options.plot), ("--output", options.output)):
        if path is not None and not path.absolute().parent.is_dir():
            raise InputError(f"`{option}` {str(path)!r} lies in a folder that does not exist.")
    figure = None if options.plot is None else _empty_figure(options.plot)
    table = read_table(options.file)
    names = list(table.columns)
    if options.columns is not None:
        names = table.names(options.columns, "--columns")
    labels = [] if options.labels is None else table.names(options.labels, "--labels")
    absent = [name for name in labels if name not in names]
    if absent:
        raise InputError(f"`--labels` asks for {absent[0]!r}, which is none of `--columns`.")
    columns = [
        torch.from_numpy(
            table.labels([name], "--labels")
            if name in labels
            else table.numbers([name], "--columns")
        )
        for name in names
    ]
    with _collected() as notes:
        matrix = mutual_information_matrix(columns)
    if figure is not None:
        _draw(figure, matrix, names)
        figure.savefig(options.plot, dpi=150, bbox_inches="tight")
    if options.output is not None:
        with options.output.open("w", newline="", encoding="utf-8") as handle:
            writer = csv.writer(handle)
            writer.writerow(["", *names])
            for name, row in zip(names, _rows(matrix), strict=True):
                writer.writerow([name, *("" if value is None else value for value in row)])
    if options.json:
        print(json.dumps({"columns": names, "nats": _rows(matrix), "warnings": notes}))
        return 0
    row, column = torch.triu_indices(len(names), len(names), 1)
    values = matrix[row, column]
    order = values.argsort(descending=True)[: max(options.top, 0)].tolist()
    print(f"I in nats, the largest {len(order)} of {len(values)} pairs (n = {len(columns[0])})")
    for i in order:
        print(f"{float(values[i]):8.4f}  {names[row[i]]}  {names[column[i]]}")
    for path in (options.plot, options.output):
        if path is not None:
            print(f"wrote {path}")
    _warn(notes)
    return 0


def _rows(matrix: Tensor) -> list[list[float | None]]:
    """JSON knows no NaN, which the diagonal is."""
    return [[None if v != v else v for v in row] for row in matrix.tolist()]


def _empty_figure(path: Path) -> Figure:
    """A figure, or an error before hours were spent on what it is to show."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(
            "`--plot` needs the extra `tables`: pip install 'flashmi_reg[tables]'."
        ) from error
    figure = Figure(figsize=(7, 6), layout="constrained")
    known = FigureCanvasAgg(figure).get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise InputError(f"`--plot` ends in {path.suffix!r}; expected one of {', '.join(known)}.")
    return figure


def _draw(figure: Figure, matrix: Tensor, names: Sequence[str]) -> None:
    axes = figure.subplots()
    # Small negative estimates are zero but for sampling error: the numbers keep them.
    highest = max(float(matrix.nan_to_num(0).max()), 0.01)
    shown = axes.imshow(matrix.numpy(), cmap="viridis", vmin=0, vmax=highest)
    figure.colorbar(shown, ax=axes, label="I in nats")
    if len(names) <= NAMED:
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
    else:
        axes.set_xlabel("column")
        axes.set_ylabel("column")


@contextmanager
def _collected() -> Iterator[list[str]]:
    """Messages of the warnings raised inside, each once."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield notes
    notes.extend(dict.fromkeys(str(warning.message) for warning in caught))


def _warn(notes: Sequence[str]) -> None:
    for note in notes:
        print(f"warning: {note}", file=sys.stderr)
