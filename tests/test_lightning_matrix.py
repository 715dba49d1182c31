"""The matrix by a Lightning Trainer: equal to the plain function, in one process and in two."""

from __future__ import annotations

import os
import socket
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor

from flashmi_reg import FlashMI, mutual_information_matrix
from flashmi_reg.errors import InputError, SupportWarning

pytest.importorskip("lightning")

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}


def variables() -> list[Tensor]:
    """Three columns, a pair of them, and classes."""
    x = torch.randn(80, 5, generator=torch.Generator().manual_seed(0))
    x[:, 1] += x[:, 0]
    return [x[:, :1], x[:, 1:2], (x[:, 0] > 0).long(), x[:, 2:4], x[:, 4:]]


def trainer(**settings: object) -> Any:
    from lightning.pytorch import Trainer

    return Trainer(accelerator="cpu", **QUIET, **{"devices": 1, **settings})


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_one_process_equals_the_function(tiny: FlashMI, tiny_path: Path, precision: str) -> None:
    from flashmi_reg.integrations.lightning_matrix import InformationMatrix

    expected = mutual_information_matrix(variables(), model=tiny)
    module = InformationMatrix(variables(), weights=tiny_path, chunk=3)
    assert module.matrix is None
    values = trainer(precision=precision).predict(module)
    torch.testing.assert_close(module.matrix, expected, atol=1e-5, rtol=0, equal_nan=True)
    assert [len(part) for part in values] == [3, 3, 3, 1]
    assert list(module.parameters()) == list(module.buffers()) == []


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_pairs_left_out_are_not_numbers(tiny_path: Path) -> None:
    from flashmi_reg.integrations.lightning_matrix import InformationMatrix

    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    module = InformationMatrix(x, weights=tiny_path, chunk=2)
    trainer(limit_predict_batches=1).predict(module)
    known = module.matrix.isfinite()
    assert known.sum() == 4  # two pairs, above and below the diagonal
    assert known[0, 1]
    assert known[0, 2]


def test_input_is_checked_at_once(tiny_path: Path) -> None:
    from flashmi_reg.integrations.lightning_matrix import InformationMatrix

    with pytest.raises(InputError, match="`x` must hold at least two variables"):
        InformationMatrix(torch.randn(60, 1), weights=tiny_path)
    with pytest.raises(InputError, match="`chunk` must be"):
        InformationMatrix(torch.randn(60, 2), weights=tiny_path, chunk=0)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_doubts_are_told(tiny_path: Path) -> None:
    from flashmi_reg.integrations.lightning_matrix import InformationMatrix

    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    x[:, 2] = 0
    with pytest.warns(SupportWarning, match="among the pairs: .* is constant"):
        trainer().predict(InformationMatrix(x, weights=tiny_path))


def predict_in_a_group(rank: int, path: Path, port: int) -> None:
    """One of two processes: uneven shares of the pairs, and the whole matrix on both."""
    from flashmi_reg.integrations.lightning_matrix import InformationMatrix

    torch.set_num_threads(1)
    places = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": 2}
    places |= {"LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in places.items()})
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "test"}
    module = InformationMatrix(variables(), weights=path, chunk=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = trainer(devices=2, strategy="ddp").predict(module)
    assert len(values) == (3, 2)[rank]
    expected = mutual_information_matrix(variables(), model=FlashMI.from_pretrained(path))
    torch.testing.assert_close(module.matrix, expected, atol=1e-5, rtol=0, equal_nan=True)


@pytest.mark.slow
def test_two_processes_equal_one(tiny_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(predict_in_a_group, (tiny_path, port), nprocs=2)
