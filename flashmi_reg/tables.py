"""Tables on disk: columns of a .csv, .npy, .npz or .parquet file by name or number."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SUFFIXES", "Table", "read_table"]

SUFFIXES = (".csv", ".npy", ".npz", ".parquet")
ENDINGS = ".csv, .npy, .npz or .parquet"


class Table:
    """Named columns of a file, one sample a row; in .npz files each array is one.

    Args:
        columns: shape (n,) or (n, d), by name.
        named: whether the file gives names, or they are the columns' numbers.
    """

    def __init__(self, columns: dict[str, NDArray[Any]], *, named: bool) -> None:
        for name, values in columns.items():
            if values.ndim not in (1, 2):
                raise InputError(
                    f"`file` holds {name!r} of shape {values.shape}; expected (n, columns)."
                )
        self.columns = {name: values.reshape(len(values), -1) for name, values in columns.items()}
        self.named = named

    def names(self, text: str, option: str) -> list[str]:
        """The columns that an option such as `age,height` or `0:3,5` asks for.

        Args:
            text: names or numbers from 0, separated by commas; `a:b` leaves out b.
            option: that was given, for messages.

        Raises:
            InputError: there is no such column, or none is asked for.
        """
        known, width = list(self.columns), len(self.columns)
        found: list[str] = []
        for part in filter(None, (piece.strip() for piece in text.split(","))):
            first, colon, last = part.partition(":")
            if part in self.columns:
                found.append(part)
            elif part.isdigit() and int(part) < width:
                found.append(known[int(part)])
            elif colon and (first + last).isdigit() and int(last or width) <= width:
                found.extend(known[int(first or 0) : int(last or width)])
            else:
                raise InputError(f"`{option}` asks for {part!r}; the file {self._content()}.")
        if not found:
            raise InputError(f"`{option}` is {text!r}; the file {self._content()}.")
        return found

    def numbers(self, names: list[str], option: str) -> NDArray[np.float64]:
        """Columns as numbers, shape (n, d).

        Raises:
            InputError: a cell is not a number, or the columns have different lengths.
        """
        parts = []
        for name in names:
            values = self.columns[name]
            try:
                parts.append(values.astype(np.float64))
            except (TypeError, ValueError) as error:
                remedy = "--x-labels" if option == "--x" else "--labels"
                raise InputError(
                    f"`{option}` column {name!r} holds something that is not a number "
                    f"({_first_word(values)}): give numeric columns, fill or drop missing values, "
                    f"or, if these are classes, add {remedy}."
                ) from error
            if len(parts[-1]) != len(parts[0]):
                raise InputError(
                    f"`{option}` column {name!r} has {len(values)} rows and {names[0]!r} "
                    f"{len(parts[0])}; samples must pair up."
                )
        return np.ascontiguousarray(np.concatenate(parts, 1))

    def labels(self, names: list[str], option: str) -> NDArray[np.int64]:
        """One column as classes, whatever its cells hold, shape (n,).

        Raises:
            InputError: it is more than one column.
        """
        values = np.concatenate([self.columns[name] for name in names], 1)
        if values.shape[1] != 1:
            raise InputError(
                f"`{option}` asks for {values.shape[1]} columns and --labels for classes, which "
                "one column holds."
            )
        cells = values[:, 0]
        cells = cells.astype(str) if cells.dtype == object else cells
        return np.unique(cells, return_inverse=True)[1].astype(np.int64).reshape(-1)

    def sides(self, x: str | None, y: str | None) -> tuple[list[str], list[str]]:
        """Names of the columns of x and y; those called so, or the only two, by default.

        Raises:
            InputError: the options ask for what is not there, or are needed.
        """
        if x is None and y is None:
            names = list(self.columns)
            if {"x", "y"} <= set(names):
                return ["x"], ["y"]
            if len(names) == 2:
                return names[:1], names[1:]
        if x is None or y is None:
            missing = " and ".join(f"`{o}`" for o, v in (("--x", x), ("--y", y)) if v is None)
            raise InputError(f"{missing} must name columns; the file {self._content()}.")
        return self.names(x, "--x"), self.names(y, "--y")

    def _content(self) -> str:
        names = list(self.columns)
        if not self.named:
            return f"has {len(names)} columns, counted from 0"
        more = ", …" if len(names) > 20 else ""
        return f"has {', '.join(names[:20])}{more}"


def read_table(path: Path) -> Table:
    """Reads a file; its suffix tells the format.

    Raises:
        InputError: it does not exist or cannot be read.
        MissingExtraError: it is .parquet, and pyarrow is not installed.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"`file` ends in {path.suffix!r}; expected {ENDINGS}.")
    if not path.is_file():
        raise InputError(f"`file` {str(path)!r} does not exist; give a {ENDINGS} file.")
    try:
        return _READERS[path.suffix.lower()](path)
    except (InputError, MissingExtraError):
        raise
    except Exception as error:  # each reader has errors of its own for spoilt files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"`file` {str(path)!r} cannot be read as {path.suffix} ({reason}): is it complete, "
            "and of the format that its name says?"
        ) from error


def _read_csv(path: Path) -> Table:
    with path.open(newline="", encoding="utf-8-sig") as handle:
        rows = [row for row in csv.reader(handle) if row]
    if not rows or len({len(row) for row in rows}) != 1:
        raise InputError(f"`file` {str(path)!r} needs equally many cells a line.")
    first = [cell.strip() for cell in rows[0]]
    named = not all(_is_number(cell) for cell in first)
    names = first if named else [str(i) for i in range(len(first))]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"`file` {str(path)!r} has two columns called {twice!r}: rename one.")
    cells = np.array(rows[named:], dtype=object).reshape(-1, len(names))
    return Table(dict(zip(names, cells.T, strict=True)), named=named)


def _read_npy(path: Path) -> Table:
    values = np.load(path)
    if values.ndim != 2:
        raise InputError(f"`file` holds an array of shape {values.shape}; expected (n, columns).")
    return Table({str(i): column for i, column in enumerate(values.T)}, named=False)


def _read_npz(path: Path) -> Table:
    with np.load(path) as arrays:
        return Table(dict(arrays), named=True)


def _read_parquet(path: Path) -> Table:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError(
            "reading .parquet needs the extra `tables`: pip install 'flashmi_reg[tables]'."
        ) from error
    table = parquet.read_table(path)
    columns = zip(table.column_names, table.columns, strict=True)
    return Table({name: column.to_numpy() for name, column in columns}, named=True)


_READERS = {
    ".csv": _read_csv,
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".parquet": _read_parquet,
}


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _first_word(values: NDArray[Any]) -> str:
    for row, cell in enumerate(values.reshape(-1)):
        if not isinstance(cell, (int, float, np.number)) and not _is_number(str(cell)):
            return f"{str(cell)!r} in row {row}" if str(cell) else f"an empty cell in row {row}"
    return f"dtype {values.dtype}"
