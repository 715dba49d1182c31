"""The reservoir: uniform, bounded, exact to merge, deterministic."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from flashmi_reg.errors import InputError
from flashmi_reg.reservoir import Reservoir, merge_rows, stack_padded


def filled(total: int, batch: int, capacity: int = 64, seed: int = 0) -> Reservoir:
    """Rows 0 ... total − 1, as one column of numbers and one of labels."""
    reservoir = Reservoir(capacity, seed=seed)
    for rows in torch.arange(total).split(batch):
        reservoir.add(rows.double()[:, None], rows)
    return reservoir


def test_keeps_everything_up_to_its_capacity() -> None:
    reservoir = filled(64, 10)
    x, labels = reservoir.sides()
    assert x.shape == (64, 1)
    assert x.dtype == torch.float64
    assert labels.shape == (64,)
    assert labels.dtype == torch.int64
    assert labels.sort().values.tolist() == list(range(64))
    torch.testing.assert_close(x[:, 0], labels.double())  # pairs stay together


def test_is_bounded_and_counts() -> None:
    reservoir = filled(1000, 37)
    assert len(reservoir) == 64
    assert reservoir.seen == 1000
    x, labels = reservoir.sides()
    assert len(set(labels.tolist())) == 64
    torch.testing.assert_close(x[:, 0], labels.double())


@pytest.mark.parametrize("batch", [7, 30, 200])
def test_sample_is_uniform(batch: int) -> None:
    """Every row equally often: chi-square of 10 bins over 200 seeds, far tail."""
    total, kept, seeds = 200, 20, 200
    counts = torch.zeros(10)
    for seed in range(seeds):
        reservoir = Reservoir(kept, seed=seed)
        for rows in torch.arange(total).split(batch):
            reservoir.add(rows)
        counts += torch.bincount(reservoir.sides()[0] // 20, minlength=10)
    expected = seeds * kept / 10
    assert float(((counts - expected) ** 2 / expected).sum()) < 33  # p = 1e-4 at 9 degrees


def test_merging_uneven_parts_is_uniform() -> None:
    """A part that saw nine tenths of the rows supplies nine tenths of the sample."""
    share = []
    for seed in range(100):
        large, small = Reservoir(50, seed=2 * seed), Reservoir(50, seed=2 * seed + 1)
        large.add(torch.zeros(900))
        small.add(torch.ones(100))
        merged = large.merge([small])
        assert len(merged) == 50
        assert merged.seen == 1000
        share.append(float(merged.sides()[0].mean()))
    assert sum(share) / len(share) == pytest.approx(0.1, abs=0.02)


def test_merge_is_associative_and_leaves_its_parts() -> None:
    parts = [filled(200, 50, seed=seed) for seed in range(3)]
    once = parts[0].merge(parts[1:])
    twice = parts[0].merge([parts[1]]).merge([parts[2]])
    for a, b in zip(once.sides(), twice.sides(), strict=True):
        torch.testing.assert_close(a, b)
    assert [part.seen for part in parts] == [200] * 3


def test_merge_with_one_that_saw_nothing() -> None:
    some, none = filled(20, 5), Reservoir(64)
    for merged in (some.merge([none]), none.merge([some])):
        torch.testing.assert_close(merged.sides()[1], some.sides()[1])
    assert len(none.merge([Reservoir()])) == 0
    assert none.sides() == ()


def test_is_a_function_of_the_seed_and_leaves_the_global_generator() -> None:
    before = torch.get_rng_state()
    first, again, other = filled(500, 50), filled(500, 50), filled(500, 50, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.sides()[1], again.sides()[1])
    assert not torch.equal(first.sides()[1], other.sides()[1])


def test_equal_batches_get_different_keys() -> None:
    reservoir = Reservoir(50)
    batch = torch.arange(100)
    for _ in range(10):
        reservoir.add(batch)
    assert len(set(reservoir.sides()[0].tolist())) > 25


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_values_are_kept_exactly(dtype: torch.dtype) -> None:
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    reservoir = Reservoir()
    reservoir.add(x.requires_grad_(), torch.arange(30))
    kept, index = reservoir.sides()
    assert not kept.requires_grad
    assert torch.equal(kept.to(dtype), x.detach()[index])


def test_gather_outside_of_a_process_group_is_a_copy() -> None:
    reservoir = filled(100, 30)
    assert torch.equal(reservoir.gather().sides()[0], reservoir.sides()[0])


def test_copies_and_pickles() -> None:
    reservoir = filled(100, 30)
    for other in (copy.deepcopy(reservoir), pickle.loads(pickle.dumps(reservoir))):
        other.add(torch.zeros(5), torch.zeros(5, dtype=torch.long))
        assert (other.seen, reservoir.seen) == (105, 100)


def test_reset_forgets_rows_and_their_widths() -> None:
    reservoir = filled(100, 30)
    reservoir.reset()
    assert (len(reservoir), reservoir.seen) == (0, 0)
    reservoir.add(torch.zeros(4, 7))
    assert reservoir.sides()[0].shape == (4, 7)


def test_stack_padded_is_undone_by_merging() -> None:
    parts = [torch.rand(5, 3), torch.rand(2, 3), torch.empty(0, 0)]
    stacked = stack_padded(parts)
    assert stacked.shape == (3, 5, 3)
    merged = merge_rows(list(stacked), 100)
    assert torch.equal(merged, merge_rows(parts, 100))
    assert len(merged) == 7


@pytest.mark.parametrize(
    ("sides", "says"),
    [
        ((), "at least one side"),
        ((torch.zeros(3), torch.zeros(4)), "pair up"),
        ((torch.zeros(3), [1, 2, 3]), "torch.Tensor"),
        ((torch.zeros(3, 2, 2),), "flatten"),
        ((torch.zeros(3, dtype=torch.complex64),), "real"),
        ((torch.zeros(3, 2, dtype=torch.long),), "class labels"),
    ],
    ids=str,
)
def test_bad_sides_are_named(sides: tuple[torch.Tensor, ...], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Reservoir().add(*sides)


def test_a_changed_width_or_kind_is_named() -> None:
    reservoir = filled(10, 5)
    with pytest.raises(InputError, match="earlier batches"):
        reservoir.add(torch.zeros(5, 2), torch.zeros(5, dtype=torch.long))
    with pytest.raises(InputError, match="earlier batches"):
        reservoir.add(torch.zeros(5, 1), torch.zeros(5))
    wide = Reservoir()
    wide.add(torch.zeros(4, 7))
    with pytest.raises(InputError, match="one width"):
        reservoir.merge([wide])
    with pytest.raises(InputError, match="at least 1"):
        Reservoir(0)
