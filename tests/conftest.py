"""Fixtures: a small untrained model for contracts, and the packaged one for accuracy."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flashmi_reg import FlashMI
from flashmi_reg.checkpoint import PREPROCESSING, Header, available, load_weights, save_weights
from flashmi_reg.hypernet import Architecture, HyperNetwork

# Tests run in several processes, which would otherwise stall each other with threads of their own.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--weights",
        help="name or path of the weights whose accuracy is tested (default: all packaged ones)",
    )


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def header() -> Header:
    return Header(
        architecture=Architecture(
            hidden=32, features=16, side=16, variates=4, context=32, rounds=2
        ),
        preprocessing=PREPROCESSING,
        trained_n=(50, 8192),
        trained_width=(1, 10),
        trained_mi=4.0,
        steps=0,
        seed=0,
        training={},
    )


@pytest.fixture(scope="session")
def tiny(header: Header) -> FlashMI:
    """An untrained model: every contract but accuracy can be tested on it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FlashMI(HyperNetwork(header.architecture), header)


@pytest.fixture(scope="session")
def tiny_path(tiny: FlashMI, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    tiny.save_pretrained(path)
    return path


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "trained" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--weights")
        names = available() if chosen is None else [chosen]
        metafunc.parametrize("trained", names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def trained(request: pytest.FixtureRequest) -> FlashMI:
    """The packaged weights, one after the other, or those given by `--weights`."""
    return FlashMI.from_pretrained(request.param)


@pytest.fixture
def other_weights(tmp_path: Path) -> Path:
    """A network that is wrong in a way of its own."""
    state, header = load_weights("base")
    state = {name: 1.5 * tensor for name, tensor in state.items()}
    path = tmp_path / "other.safetensors"
    save_weights(path, state, replace(header, steps=123))
    return path
