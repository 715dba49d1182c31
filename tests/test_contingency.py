"""MI of two class labels: known answers, the null, and what is refused."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from flashmi_reg.contingency import class_information
from flashmi_reg.errors import InputError, SupportWarning


def noisy_copies(
    classes: int, n: int, share: float, sets: int = 60
) -> tuple[torch.Tensor, torch.Tensor]:
    """Uniform classes, and labels that copy them in a share of the samples."""
    generator = torch.Generator().manual_seed(0)
    a, other = torch.randint(classes, (2, sets, n), generator=generator)
    return a, torch.where(torch.rand(sets, n, generator=generator) < share, a, other)


def information(classes: int, share: float) -> float:
    joint = torch.full((classes, classes), (1 - share) / classes**2, dtype=torch.float64)
    joint += torch.eye(classes) * share / classes
    return float(torch.special.xlogy(joint, joint * classes**2).sum())


@pytest.mark.parametrize(("classes", "n", "share"), [(2, 200, 0.3), (3, 300, 0), (10, 500, 0.5)])
def test_mean_is_the_truth_and_the_plug_in_above_it(classes: int, n: int, share: float) -> None:
    found = class_information(*noisy_copies(classes, n, share))
    truth = information(classes, share)
    error = float(found.value.std()) / math.sqrt(60)
    assert float(found.value.mean()) == pytest.approx(truth, abs=0.005 + 2.5 * error)
    excess = (classes - 1) ** 2 / (2 * n)
    assert float(found.plug_in.mean()) == pytest.approx(truth + excess, abs=0.02)
    assert (found.plug_in >= 0).all()


@pytest.mark.filterwarnings("ignore::flashmi_reg.errors.SupportWarning")
def test_most_of_the_bias_of_a_sparse_table_is_taken() -> None:
    found = class_information(*noisy_copies(30, 500, 0))
    assert float(found.plug_in.mean()) > 0.8
    assert abs(float(found.value.mean())) < 0.3


@pytest.mark.parametrize("classes", [2, 10])
def test_p_values_are_uniform_if_independent_and_small_otherwise(classes: int) -> None:
    p_value = class_information(*noisy_copies(classes, 500, 0, sets=400)).p_value
    for level in (0.05, 0.5):
        assert float((p_value < level).double().mean()) == pytest.approx(level, abs=0.08)
    assert (class_information(*noisy_copies(classes, 500, 0.4)).p_value < 1e-3).all()


def test_batches_are_single_data_sets_and_names_do_not_matter() -> None:
    a, b = noisy_copies(4, 120, 0.5, sets=3)
    together = class_information(a, b)
    for i in range(3):
        alone = class_information(10 * a[i] - 7, b[i] == 2)
        other = class_information(b[i] == 2, a[i].to(torch.int8))
        for ours, theirs in zip(alone, other, strict=True):
            torch.testing.assert_close(ours, theirs)
        single = class_information(a[i], b[i])
        for ours, theirs in zip(single, together, strict=True):
            torch.testing.assert_close(ours, theirs[i])
    assert str(together).startswith("I(a;b) = ")


def test_one_class_tells_nothing() -> None:
    a = torch.arange(64) % 2
    with pytest.warns(SupportWarning, match="one class only"):
        found = class_information(a, torch.zeros_like(a))
    assert (float(found.value), float(found.p_value)) == (0, 1)


def test_sparse_tables_are_told_of_and_others_not() -> None:
    with pytest.warns(SupportWarning, match="100 cells for n = 300"):
        class_information(*noisy_copies(10, 300, 0.5, sets=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        class_information(*noisy_copies(10, 500, 0.5, sets=1))


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        (torch.zeros(9), torch.arange(9), "`a` must hold classes as integers"),
        (torch.arange(9), torch.arange(9), "9 classes in n = 9"),
        (torch.ones(9).long(), torch.ones(8).long(), "pair up"),
        (torch.ones(2, 2, 2).long(), torch.ones(2, 2, 2).long(), "shape"),
        ([1, 2], torch.ones(2).long(), "received list"),
    ],
)
def test_what_cannot_be_counted_is_refused(a: object, b: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        class_information(a, b)  # type: ignore[arg-type]
