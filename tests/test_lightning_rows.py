"""What a callback collects: rows of the loaders, and outputs of layers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from flashmi_reg.errors import InputError
from flashmi_reg.integrations.layers import LayerOutputs, find_layers
from flashmi_reg.integrations.sampling import RowSample, positional_keys, survivors


def passed(sample: RowSample, total: int, batch: int) -> dict[str, Tensor]:
    sample.reset()
    for ids in torch.arange(total).split(batch):
        rows = sample.offer(len(ids))
        sample.put({"id": ids[rows], "wide": ids[rows].float()[:, None].expand(-1, 3)})
    return sample.gather()


def test_sample_is_bounded_paired_and_the_same_for_any_batches() -> None:
    sample = RowSample(50, seed=2)
    found = passed(sample, 1000, 37)
    assert found["id"].shape == (50,)
    assert len(set(found["id"].tolist())) == 50
    assert torch.equal(found["id"].float(), found["wide"][:, 2])
    for batch in (1000, 64, 1):
        assert torch.equal(passed(sample, 1000, batch)["id"], found["id"])
    assert not torch.equal(passed(RowSample(50, seed=3), 1000, 37)["id"], found["id"])
    assert passed(RowSample(50), 30, 7)["id"].sort().values.tolist() == list(range(30))


def test_sample_is_uniform() -> None:
    """Chi-square of ten bins over many seeds, far tail."""
    counts = torch.zeros(10)
    for seed in range(100):
        counts += torch.bincount(
            passed(RowSample(20, seed=seed), 200, 30)["id"] // 20, minlength=10
        )
    assert float(((counts - 200) ** 2 / 200).sum()) < 33  # p = 1e-4 at 9 degrees of freedom


def test_keys_are_uniform_and_distinct() -> None:
    keys = positional_keys(torch.arange(100_000), seed=5)
    assert float(keys.mean()) == pytest.approx(0.5, abs=0.005)
    assert float(keys.var()) == pytest.approx(1 / 12, abs=0.002)
    assert len(keys.unique()) == 100_000


def test_rows_that_were_offered_and_never_came_are_not_counted() -> None:
    sample = RowSample(20)
    sample.offer(10)
    rows = sample.offer(10)
    sample.put({"id": rows})
    assert len(sample) == 10
    assert sample.seen == 20
    sample.reset()
    assert sample.gather() == {}


def test_uneven_ranks_give_as_many_rows_as_one() -> None:
    keys = torch.rand(60, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parts = [keys[:4].sort().values, keys[4:4], keys[4:].sort().values]
    counts = [survivors(parts, rank, 20) for rank in range(3)]
    kept = torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
    torch.testing.assert_close(kept.sort().values, keys.sort().values[:20])


def test_sample_refuses_rows_that_change_or_are_huge() -> None:
    sample = RowSample(20)
    sample.put({"a": torch.zeros(len(sample.offer(4)), 3)})
    rows = sample.offer(4)
    with pytest.raises(InputError, match="`a` has rows of shape"):
        sample.put({"a": torch.zeros(len(rows), 5)})
    sample = RowSample(1000)
    sample.offer(1)
    with pytest.raises(InputError, match="GiB"):
        sample.put({"a": torch.zeros(1, 1000, 1000)})


def test_layers_by_name_and_pattern() -> None:
    model = nn.ModuleDict(
        {"enc": nn.Sequential(nn.Linear(2, 2), nn.ReLU()), "dec": nn.Linear(2, 2)}
    )
    assert list(find_layers(model, ["dec", "enc.*"])) == ["enc.0", "enc.1", "dec"]
    with pytest.raises(InputError, match=r"'encode\.0'.*'enc\.0'"):
        find_layers(model, ["encode.0"])


def test_hooks_take_the_first_call_and_go() -> None:
    layer = nn.Linear(3, 2)
    outputs = LayerOutputs()
    outputs.attach({"a": layer}, torch.tensor([1]), 4)
    x = torch.randn(4, 3)
    expected = layer(x)[1:2]
    layer(2 * x)
    outputs.detach()
    torch.testing.assert_close(outputs.outputs["a"], expected)
    assert not outputs.outputs["a"].requires_grad
    assert not layer._forward_hooks
    outputs.attach({"a": layer}, torch.tensor([1]), 9)
    with pytest.raises(InputError, match="batch of 9 rows"):
        layer(x)
    outputs.detach()
