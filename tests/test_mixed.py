"""Continuous sides and classes in any combination: one rule, which can be overridden."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from flashmi_reg import (
    FlashMI,
    MutualInformationLoss,
    label_mutual_information,
    mutual_information_matrix,
    sliced_estimate,
    sliced_mutual_information,
    total_correlation,
)
from flashmi_reg.contingency import class_information
from flashmi_reg.errors import InputError, SupportWarning
from flashmi_reg.mixed import mixed_mutual_information


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
