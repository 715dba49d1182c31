"""The command line: `flashmi demo | info | estimate | pretrain`."""

from __future__ import annotations

import argparse
import csv
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import FlashMIError, InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["main"]

EXAMPLES = """\
examples:
  flashmi demo
  flashmi info
  flashmi estimate samples.csv --x age,height --y weight
  flashmi pretrain --help
"""
DEMO_EXAMPLES = """\
examples:
  flashmi demo
  flashmi demo --output figures --repeats 5
"""
ESTIMATE_EXAMPLES = """\
examples:
  flashmi estimate samples.csv --x age,height --y weight
  flashmi estimate samples.npy --x 0:3 --y 3,5
  flashmi estimate samples.npz --x images --y labels --json

columns are counted from 0, a:b leaves out b; in .npz files --x and --y name arrays
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code: 0, or 2 after an error.

    Args:
        argv: the arguments, those of the process if not given.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments[:1] == ["pretrain"]:  # its options are its own, --help included
            return _pretrain(arguments[1:])
        options = _parser().parse_args(arguments)
        return int(options.run(options))
    except FlashMIError as error:
        print(f"flashmi: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="flashmi",
        description="Mutual information from one forward pass of a pretrained network.",
        epilog=EXAMPLES,
        formatter_class=raw,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    demo = commands.add_parser(
        "demo",
        help="train a small classifier with and without the term; writes flashmi_demo.png",
        description=(
            "Trains a classifier of digits whose ground colour betrays the label, with and without "
            "a mutual-information term, prints what each learned and writes flashmi_demo.png."
        ),
        epilog=DEMO_EXAMPLES,
        formatter_class=raw,
    )
    demo.add_argument("--seed", type=int, default=0, help="seed of the first repeat (default 0)")
    demo.add_argument("--repeats", type=int, default=3, help="repeats to average (default 3)")
    demo.add_argument("--epochs", type=int, help="training steps, one class-balanced batch each")
    demo.add_argument("--output", default=".", metavar="DIR", help="folder for the figure")
    demo.set_defaults(run=_demo)

    info = commands.add_parser(
        "info",
        help="show the weights, the ranges they were trained for, and versions",
        description="Shows the weights, the ranges they were trained for, and versions.",
    )
    info.add_argument("--weights", default="base", help="name or file (default base)")
    info.set_defaults(run=_info)

    estimate = commands.add_parser(
        "estimate",
        help="estimate the mutual information between columns of a file",
        description="Estimates I(x; y) in nats between columns of a .csv, .npy or .npz file.",
        epilog=ESTIMATE_EXAMPLES,
        formatter_class=raw,
    )
    estimate.add_argument("file", type=Path, help="a .csv, .npy or .npz file, one sample a row")
    estimate.add_argument("--x", required=True, metavar="COLUMNS", help="columns of x")
    estimate.add_argument("--y", required=True, metavar="COLUMNS", help="columns of y")
    estimate.add_argument("--json", action="store_true", help="print one JSON object")
    estimate.set_defaults(run=_estimate)

    commands.add_parser(
        "pretrain", help="train weights of your own; takes the options of flashmi pretrain --help"
    )
    return parser


def _demo(options: argparse.Namespace) -> int:
    from .demo import EPOCHS, run_demo

    epochs = EPOCHS if options.epochs is None else options.epochs
    run_demo(seed=options.seed, output=options.output, epochs=epochs, repeats=options.repeats)
    return 0


def _info(options: argparse.Namespace) -> int:
    import platform
    from dataclasses import asdict

    import torch

    from . import FlashMI, __version__

    model = FlashMI.from_pretrained(options.weights)
    python = platform.python_version()
    print(f"flashmi_reg {__version__}, torch {torch.__version__}, Python {python}")
    print(f"weights {options.weights}")
    for key, value in asdict(model.header).items():
        print(f"  {key}: {value if isinstance(value, str) else json.dumps(value)}")
    return 0


def _estimate(options: argparse.Namespace) -> int:
    import torch

    from . import estimate

    x, y = _read(options.file, options.x, options.y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the result carries them
        found = estimate(torch.from_numpy(x), torch.from_numpy(y))
    nats = float(found.value)
    (n, dx), dy = x.shape, y.shape[1]
    notes = [str(note) for note in found.warnings]
    if options.json:
        print(json.dumps({"nats": nats, "n": n, "dx": dx, "dy": dy, "warnings": notes}))
        return 0
    print(f"I(x; y) = {nats:.4f} nats  (n = {n}, dx = {dx}, dy = {dy})")
    for note in notes:
        print(f"warning: {note}", file=sys.stderr)
    return 0


def _pretrain(arguments: list[str]) -> int:
    from flashmi_reg.pretrained.train import main as train

    train(arguments)
    return 0


def _read(path: Path, x: str, y: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Reads x (n, dx) and y (n, dy) from a file."""
    import numpy as np

    if not path.is_file():
        raise InputError(f"`file` {str(path)!r} does not exist; give a .csv, .npy or .npz file.")
    names: list[str] = []
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return _named(arrays, x, "--x"), _named(arrays, y, "--y")
    if path.suffix == ".npy":
        values = np.load(path)
        if values.ndim != 2:
            raise InputError(
                f"`file` holds an array of shape {values.shape}; expected (n, columns)."
            )
    elif path.suffix == ".csv":
        values, names = _read_csv(path)
    else:
        raise InputError(f"`file` ends in {path.suffix!r}; expected .csv, .npy or .npz.")
    sides = (_columns(x, names, values.shape[1], "--x"), _columns(y, names, values.shape[1], "--y"))
    return _numbers(values[:, sides[0]], "--x"), _numbers(values[:, sides[1]], "--y")


def _named(arrays: Mapping[str, Any], name: str, option: str) -> NDArray[np.float64]:
    if name not in arrays:
        known = ", ".join(sorted(arrays))
        raise InputError(f"`{option}` names the array {name!r}; the file has {known}.")
    values = arrays[name]
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim != 2:
        raise InputError(f"`{option}` is an array of shape {values.shape}; expected (n, columns).")
    return _numbers(values, option)


def _numbers(values: NDArray[Any], option: str) -> NDArray[np.float64]:
    import numpy as np

    try:
        return np.ascontiguousarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"`{option}` holds something that is not a number ({error}); "
            "give numeric columns, or code categories as numbers first."
        ) from error


def _read_csv(path: Path) -> tuple[NDArray[Any], list[str]]:
    """Cells as text, and the names in the first line if it holds anything but numbers."""
    import numpy as np

    with path.open(newline="", encoding="utf-8-sig") as handle:
        rows = [row for row in csv.reader(handle) if row]
    if not rows or len({len(row) for row in rows}) != 1:
        raise InputError(f"`file` {str(path)!r} needs equally many cells a line.")
    names = [] if all(_is_number(cell) for cell in rows[0]) else [cell.strip() for cell in rows[0]]
    return np.array(rows[bool(names) :], dtype=object).reshape(-1, len(rows[0])), names


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _columns(text: str, names: list[str], width: int, option: str) -> list[int]:
    """Turns `age,height` or `0:3,5` into column numbers."""
    found: list[int] = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        first, colon, last = part.partition(":")
        if part in names:
            found.append(names.index(part))
        elif part.isdigit():
            found.append(int(part))
        elif colon and (first + last).isdigit():
            found.extend(range(int(first or 0), int(last or width)))
        else:
            known = f" has the columns {', '.join(names)}" if names else f" has {width} columns"
            raise InputError(f"`{option}` asks for {part!r}; the file{known}.")
    if not found or max(found) >= width:
        raise InputError(f"`{option}` is {text!r}; the file has {width} columns, counted from 0.")
    return found


if __name__ == "__main__":
    sys.exit(main())
