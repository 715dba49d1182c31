"""Continuous sides and classes in any combination: one rule, which can be overridden."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from flashmi_reg import (
    FlashMI,
    MutualInformationLoss,
    estimate,
    label_mutual_information,
    mutual_information_matrix,
    sliced_estimate,
    sliced_mutual_information,
    total_correlation,
)
from flashmi_reg.contingency import class_information
from flashmi_reg.errors import InputError, SupportWarning
from flashmi_reg.mixed import class_entropy, mixed_estimate, mixed_mutual_information
from flashmi_reg.result import CLASSES_UNCALIBRATED, UNCALIBRATED


@pytest.fixture
def x() -> Tensor:
    return torch.randn(100, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels(x: Tensor) -> Tensor:
    return (x[:, 0] > 0).long() + (x[:, 1] > 1).long()


def test_types_tell_which_estimate_is_made(x: Tensor, labels: Tensor, tiny: FlashMI) -> None:
    y = (x[:, :1] + x[:, 1:2]).exp()
    assert torch.equal(mixed_mutual_information(x, y, model=tiny), tiny.mutual_information(x, y))
    expected = label_mutual_information(x, labels)
    assert torch.equal(mixed_mutual_information(x, labels), expected)
    assert torch.equal(mixed_mutual_information(labels, x), expected)
    counted = class_information(labels, labels).value.float()
    assert torch.equal(mixed_mutual_information(labels, labels), counted)


def test_what_is_stated_overrides_the_type(x: Tensor, labels: Tensor, tiny: FlashMI) -> None:
    expected = label_mutual_information(x, labels)
    floats = 0.5 * labels[:, None].float()
    assert torch.equal(mixed_mutual_information(x, floats, discrete_y=True), expected)
    assert torch.equal(mixed_mutual_information(floats, x, discrete_x=True), expected)
    loss = MutualInformationLoss("minimize", discrete_y=True)
    assert torch.equal(loss(x.requires_grad_(), floats), expected)
    assert "discrete_y=True" in repr(loss)
    amounts = torch.arange(100)[:, None]
    found = mixed_mutual_information(x, amounts, discrete_y=False, model=tiny)
    assert torch.equal(found, tiny.mutual_information(x, amounts.double()))


def test_ties_of_floats_do_not_make_classes(x: Tensor, labels: Tensor, tiny: FlashMI) -> None:
    with pytest.warns(SupportWarning, match="many tied values"):
        found = mixed_mutual_information(x, labels[:, None].float(), model=tiny)
    with pytest.warns(SupportWarning):
        assert torch.equal(found, tiny.mutual_information(x, labels[:, None].float()))


def test_columns_of_classes_count_as_combinations(x: Tensor, labels: Tensor) -> None:
    columns = torch.stack([labels, (x[:, 2] > 0).long()], 1)
    expected = label_mutual_information(x, 2 * columns[:, 0] + columns[:, 1])
    torch.testing.assert_close(mixed_mutual_information(x, columns), expected)
    one = mixed_mutual_information(torch.stack([x, x]), labels.expand(2, -1)[..., None])
    torch.testing.assert_close(one, label_mutual_information(x, labels).expand(2))


def test_missing_values_are_no_class(x: Tensor) -> None:
    y = torch.full((100, 1), torch.nan)
    with pytest.raises(InputError, match="NaN or infinite"):
        mixed_mutual_information(x, y, discrete_y=True)


def test_estimate_of_classes_has_a_ceiling_and_no_interval(x: Tensor, labels: Tensor) -> None:
    expected = label_mutual_information(x, labels)
    for sides, widths in (((x, labels), (3, 1)), ((labels, x), (1, 3))):
        found = estimate(*sides)
        assert torch.equal(found.value, expected)
        assert (found.n, found.dx, found.dy) == (100, *widths)
        assert found.interval is found.null_level is found.support is None
        assert found.warnings == (CLASSES_UNCALIBRATED,)
        shares = torch.bincount(labels) / 100
        assert float(found.ceiling) == pytest.approx(float(-(shares * shares.log()).sum()))
        line = str(found)
        assert f"the classes tell at most {float(found.ceiling):.3f}" in line
        assert line.count("no interval") == 1
    floats = 0.5 * labels[:, None].float()
    assert torch.equal(estimate(x, floats, discrete_y=True).value, expected)
    batch = estimate(torch.stack([x, x[:, [1, 0, 2]]]), labels.expand(2, -1))
    assert batch.value.shape == batch.ceiling.shape == (2,)
    torch.testing.assert_close(batch.value[0], expected)
    # Doubts of the label path are told beside it, once, and none is raised.
    rare = labels.clone()
    rare[:3] = 7
    assert "fewer than 8 samples" in estimate(x, rare).warnings[0]


def test_estimate_of_two_columns_of_classes(x: Tensor, labels: Tensor) -> None:
    other = (x[:, 0] > 0).long()
    found = estimate(labels, other)
    torch.testing.assert_close(found.value, class_information(labels, other).value.float())
    torch.testing.assert_close(
        found.ceiling.double(),
        torch.minimum(class_entropy(labels), class_entropy(other)),
        atol=1e-6,
        rtol=0,
    )
    columns = estimate(labels[:, None], other[:, None])
    assert torch.equal(columns.value, found.value)
    assert (columns.n, columns.dx, columns.dy) == (100, 1, 1)
    assert estimate(torch.stack([labels, other], 1), other).dx == 2
    assert estimate(labels.expand(2, -1), other.expand(2, -1)).value.shape == (2,)


def test_information_above_the_entropy_is_told_and_not_hidden() -> None:
    few = torch.tensor([0, 0, 0, 1, 1, 1])  # corrected for bias, its entropy is above log 2
    found = estimate(few, few)
    assert found.value > math.log(2) + 0.1
    assert any("above the entropy of the classes" in text for text in found.warnings)
    many = torch.arange(2000) % 4
    assert not any("above the entropy" in text for text in estimate(many, many).warnings)


@pytest.mark.parametrize("classes", [2, 5, 20])
def test_separable_classes_tell_no_more_than_their_entropy(classes: int) -> None:
    labels = torch.arange(400) % classes
    noise = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    found = estimate(torch.stack([10.0 * labels, 0.0 * labels], 1) + noise, labels)
    assert float(found.ceiling) == pytest.approx(math.log(classes), abs=1e-3)
    assert found.ceiling - 0.15 < found.value <= found.ceiling


def test_estimate_without_calibration_warns_of_it(x: Tensor, tiny: FlashMI) -> None:
    y = x[:, :2].exp() + x.flip(0)[:, :2]
    found = mixed_estimate(x, y, model=tiny)
    assert torch.equal(found.value, tiny.mutual_information(x, y))
    assert found.warnings.count(UNCALIBRATED) == 1
    assert found.interval is None
    assert str(found).count("not calibrated") == 1
    calibrated = estimate(x, x.flip(0))
    assert calibrated.interval is not None
    assert calibrated.ceiling is None
    assert UNCALIBRATED not in calibrated.warnings
    small = FlashMI.from_pretrained("small")
    assert torch.equal(estimate(x, y, model=small).value, small.estimate(x, y).value)


def test_sliced_information_about_classes() -> None:
    """k of the coordinates' width is the whole; slices are means of estimates of their own."""
    x = torch.randn(100, 20, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = (x.detach()[:, :10].sum(1) > 0).long()
    sliced_mutual_information(x, labels, k=3, n_slices=4).backward()
    assert (x.grad != 0).any(1).double().mean() > 0.9
    found, turned = sliced_estimate(x, labels, 3, 4), sliced_estimate(labels, x, 3, 4)
    assert found.slices.shape == turned.slices.shape == (4,)
    assert (found.n, found.dx, found.dy) == (100, 20, 1)
    torch.testing.assert_close(found.slices, turned.slices)
    whole = sliced_estimate(x[:, :3], labels, 3, 4)
    torch.testing.assert_close(whole.value, label_mutual_information(x[:, :3], labels).detach())
    assert whole.standard_error == 0
    with pytest.raises(InputError, match="both of an integer type"):
        sliced_estimate(labels, labels)


def test_matrix_of_columns_and_classes(x: Tensor, labels: Tensor, tiny: FlashMI) -> None:
    other = (x[:, 2] > 0).to(torch.int8)
    matrix = mutual_information_matrix([labels, x[:, :2], other, x[:, 2:]], model=tiny)
    expected = {
        (0, 1): label_mutual_information(x[:, :2], labels),
        (0, 2): class_information(labels, other).value.float(),
        (0, 3): label_mutual_information(x[:, 2:], labels),
        (1, 2): label_mutual_information(x[:, :2], other),
        (1, 3): tiny.mutual_information(x[:, :2], x[:, 2:]),
        (2, 3): label_mutual_information(x[:, 2:], other),
    }
    for (i, j), value in expected.items():
        torch.testing.assert_close(matrix[i, j], value, atol=1e-4, rtol=0)
        assert matrix[j, i] == matrix[i, j]
    integers = torch.stack([labels, other], 1)
    torch.testing.assert_close(
        mutual_information_matrix(integers)[0, 1], expected[0, 2], atol=1e-6, rtol=0
    )
    twice = mutual_information_matrix(
        [labels.expand(2, -1), x.expand(2, -1, -1)[..., :2]], model=tiny
    )
    torch.testing.assert_close(twice[:, 0, 1], expected[0, 1].expand(2), atol=1e-4, rtol=0)
    with pytest.raises(InputError, match="must be floating point"):
        total_correlation([labels, x])
