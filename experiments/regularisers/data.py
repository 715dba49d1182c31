"""The data of the four tasks, all from scikit-learn: nothing is downloaded."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flashmi_reg.demo_data import Split, coloured_digits

__all__ = ["Rows", "Splits", "fair", "noisy", "nuisance", "views", "within_classes"]

# Share of wrong labels, and training images of each digit, where overfitting is the trouble.
WRONG = 0.3
FEW = 20


class Rows(NamedTuple):
    """One part of the data.

    Attributes:
        x: inputs, shape (n, d).
        target: classes of shape (n,), or what is to be predicted, of shape (n, k).
        other: the nuisance or protected variable of shape (n, 1) or, as classes, (n,); for two
            views, the second of them, shape (n, d).
    """

    x: Tensor
    target: Tensor
    other: Tensor

    def take(self, index: Tensor) -> Rows:
        """The rows of an index."""
        return Rows(*(part[index] for part in self))


class Splits(NamedTuple):
    """Training, validation and test rows.

    Attributes:
        train: what the models see.
        validation: what settings are chosen by; drawn by the rule of `train`, labels clean.
        test: rows seen by nobody, drawn by the rule of `train`.
        shifted: the test rows where the nuisance is independent of the label; `test` itself in
            the other tasks.
        moved: the validation rows, likewise.
    """

    train: Rows
    validation: Rows
    test: Rows
    shifted: Rows
    moved: Rows


def nuisance(seed: int) -> Splits:
    """Digits on a coloured ground; colour goes with the digit (r = 0.92), not so in `shifted`.

    The nuisance of training is the colour less the mean colour of its digit, over its standard
    deviation, so that removing it does not forbid to tell the digits: for a residual r independent
    of the label y, I(f(z, y); r) ≤ I(z; r | y) = I(z; colour | y) whatever the function f.
    """
    data = coloured_digits(seed, train_share=0.6)
    mean = torch.stack([data.train.colour[rows].mean(0) for rows in data.train.rows_of_class()])
    scale = (data.train.colour - mean[data.train.labels]).std()

    def rows(split: Split, *, residual: bool) -> Rows:
        colour = (split.colour - mean[split.labels]) / scale if residual else split.colour
        return Rows(split.images.flatten(1), split.labels, colour)

    held = rows(data.test_in, residual=True), rows(data.test_out, residual=False)
    order = torch.randperm(len(held[0].x), generator=torch.Generator().manual_seed(seed))
    cut = 2 * len(order) // 5
    (validation, test), (moved, shifted) = (
        (part.take(order[:cut]), part.take(order[cut:])) for part in held
    )
    return Splits(rows(data.train, residual=True), validation, test, shifted, moved)


def fair(seed: int) -> Splits:
    """Diabetes: nine measurements and the progression after a year, in a code without the sex.

    442 patients. The target holds the progression, then the nine columns, so that the code is to
    serve for more than one purpose; the sex, which is not among them, can be told from them.
    """
    from sklearn.datasets import load_diabetes

    columns, progression = load_diabetes(return_X_y=True)
    sex = torch.from_numpy((columns[:, 1] > 0).astype(np.int64))
    both = np.column_stack([progression, np.delete(columns, 1, axis=1)])
    target = torch.from_numpy(both).float()
    order = torch.randperm(len(target), generator=torch.Generator().manual_seed(seed))
    cuts = len(target) * 40 // 100, len(target) * 65 // 100
    train = target[order[: cuts[0]]]
    target = (target - train.mean(0)) / train.std(0)
    return _cut(Rows(target[:, 1:], target, sex), order, *cuts)


def views(seed: int) -> Splits:
    """Digits cut in two: `x` is the left half of the image and `other` the right half."""
    grey, label = _digits()
    images = grey.view(-1, 8, 8)
    left, right = images[:, :, :4].flatten(1), images[:, :, 4:].flatten(1)
    order = torch.randperm(len(grey), generator=torch.Generator().manual_seed(seed))
    return _cut(Rows(left, label, right), order, len(grey) // 2, len(grey) * 65 // 100)


def noisy(seed: int) -> Splits:
    """Two hundred digits to learn from, 30 % of them with a wrong label; `other` is x again."""
    grey, label = _digits()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(grey), generator=generator)
    few = torch.cat([order[label[order] == digit][:FEW] for digit in range(10)])
    rest = order[~torch.isin(order, few)]
    data = _cut(Rows(grey, label, grey), torch.cat([few, rest]), len(few), len(few) + 300)
    wrong = torch.rand(len(few), generator=generator) < WRONG
    shift = torch.randint(1, 10, (len(few),), generator=generator)
    clean = data.train.target
    target = torch.where(wrong, (clean + shift) % 10, clean)
    return data._replace(train=data.train._replace(target=target))


def within_classes(code: Tensor, label: Tensor) -> Tensor:
    """Codes (n, d) less the mean code of their class; differentiable."""
    member = torch.nn.functional.one_hot(label).to(code.dtype)
    mean = member.T @ code / member.sum(0)[:, None].clamp_min(1)
    return code - member @ mean


def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return torch.from_numpy(digits.data / 16.0).float(), torch.from_numpy(digits.target).long()


def _cut(rows: Rows, order: Tensor, first: int, second: int) -> Splits:
    parts = (order[:first], order[first:second], order[second:])
    train, validation, test = (rows.take(index) for index in parts)
    return Splits(train, validation, test, test, validation)
