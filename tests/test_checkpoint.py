"""Weights on disk: what was written is read, and anything else is refused by its path."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from flashmi_reg import FlashMI, MutualInformationLoss
from flashmi_reg.checkpoint import (
    FORMAT,
    Header,
    _checksum,
    available,
    from_bytes,
    load_weights,
    save_weights,
    to_bytes,
    weights_path,
)
from flashmi_reg.errors import CheckpointError, FlashMIError
from flashmi_reg.hypernet import Architecture


@pytest.fixture
def state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "one": torch.randn(3, 4, generator=generator),
        "two": torch.randn(5, 2, generator=generator, dtype=torch.float64).T,
        "scalar": torch.tensor(2.5),
    }


@pytest.fixture
def rich(header: Header) -> Header:
    return replace(header, steps=123, seed=9, training={"rate": 7e-4, "precision": "bf16-mixed"})


def sealed(text: str, state: dict[str, Tensor]) -> bytes:
    """A file with any header text whose checksum is right."""
    dense = {name: tensor.contiguous() for name, tensor in state.items()}
    return save(dense, {"flashmi": text, "sha256": _checksum(text, state)})


def edited(header: Header, **changes: Any) -> str:
    content = asdict(header) | {"format": FORMAT} | changes
    del content["calibration"]  # has a place of its own in the file
    return json.dumps({k: v for k, v in content.items() if v != "REMOVED"}, sort_keys=True)


def refused(path: Path) -> str:
    """The message with which a file is refused; it names the path."""
    with pytest.raises(CheckpointError) as caught:
        FlashMI.from_pretrained(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


# --- the round trip ---------------------------------------------------------------------------


def test_what_is_saved_is_loaded(tmp_path: Path, state: dict[str, Tensor], rich: Header) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(path, state, rich)
    loaded, header = load_weights(path)
    assert header == rich
    assert loaded.keys() == state.keys()
    for name, tensor in state.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_saving_replaces_an_older_file(
    tmp_path: Path, state: dict[str, Tensor], rich: Header
) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(str(path), state, rich)
    save_weights(str(path), state, replace(rich, steps=124))
    assert load_weights(str(path))[1].steps == 124


def test_model_saved_and_loaded_gives_the_same_bits(tiny: FlashMI, tiny_path: Path) -> None:
    x, y = torch.randn(2, 100, 3, generator=torch.Generator().manual_seed(0))
    loaded = FlashMI.from_pretrained(tiny_path)
    assert loaded.header == tiny.header
    assert torch.equal(loaded.mutual_information(x, y), tiny.mutual_information(x, y))


def test_order_of_the_weights_does_not_matter(state: dict[str, Tensor], rich: Header) -> None:
    reordered = dict(reversed(state.items()))
    loaded, header = from_bytes(to_bytes(reordered, rich))
    assert header == rich
    assert all(torch.equal(loaded[name], state[name]) for name in state)


# --- damage -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["no-such-weights", "missing.safetensors", ""])
def test_missing_file_is_refused_with_what_there_is(tmp_path: Path, name: str) -> None:
    message = refused(tmp_path / name)
    assert "`name_or_path`" in message
    for packaged in available():
        assert packaged in message


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 9, 100, 0.25, 0.5, 0.99, -1])
def test_truncated_file_is_refused(tmp_path: Path, tiny_path: Path, kept: float) -> None:
    content = tiny_path.read_bytes()
    length = int(len(content) * kept) if 0 < kept < 1 else int(kept)
    path = tmp_path / "truncated.safetensors"
    path.write_bytes(content[:length])
    assert "truncated" in refused(path)


@pytest.mark.parametrize("part", ["length", "header", "first weight", "middle", "last"])
@pytest.mark.parametrize("bit", [0, 7])
def test_altered_byte_is_refused(tmp_path: Path, tiny_path: Path, part: str, bit: int) -> None:
    content = bytearray(tiny_path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    places = {
        "length": 1,
        "header": content.index(b"trained_n"),
        "first weight": start,
        "middle": (start + len(content)) // 2,
        "last": len(content) - 1,
    }
    content[places[part]] ^= 1 << bit
    path = tmp_path / "altered.safetensors"
    path.write_bytes(content)
    message = refused(path)
    if part in ("first weight", "middle", "last"):
        assert "checksum" in message


def test_every_altered_byte_of_the_header_is_refused_or_harmless(
    state: dict[str, Tensor], rich: Header
) -> None:
    """No byte of it can be changed so that other weights or another header are read."""
    content = to_bytes(state, rich)
    end = 8 + int.from_bytes(content[:8], "little")
    refusals = 0
    for place in range(end):
        damaged = bytearray(content)
        damaged[place] ^= 1
        try:
            loaded, header = from_bytes(bytes(damaged))
        except CheckpointError:
            refusals += 1
            continue
        assert header == rich
        assert all(torch.equal(loaded[name], state[name]) for name in state)
    assert refusals > 0.95 * end


def test_exchanged_weights_are_refused(tmp_path: Path, tiny_path: Path) -> None:
    state, header = load_weights(tiny_path)
    text = json.dumps(asdict(header) | {"format": FORMAT}, sort_keys=True)
    seal = _checksum(text, state)
    first, second = [n for n, w in state.items() if w.shape == (32, 32)][:2]
    state[first], state[second] = state[second], state[first]
    path = tmp_path / "exchanged.safetensors"
    path.write_bytes(save(state, {"flashmi": text, "sha256": seal}))
    assert "checksum" in refused(path)


# --- foreign and other versions ---------------------------------------------------------------


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_safetensors_of_another_model_are_refused(
    tmp_path: Path, state: dict[str, Tensor], metadata: dict[str, str] | None
) -> None:
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(save({"one": state["one"]}, metadata))
    assert "another model" in refused(path)


@pytest.mark.parametrize("content", [b"not a checkpoint at all", b"\x80\x04pickle", b"{}" * 20])
def test_files_of_another_kind_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.pt"
    path.write_bytes(content)
    assert "safetensors" in refused(path)


def test_pickle_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"one": torch.ones(3)}, path)
    assert "safetensors" in refused(path)


def test_folder_is_refused(tmp_path: Path) -> None:
    refused(tmp_path)


@pytest.mark.parametrize("version", [FORMAT + 1, 0, "1", None])
def test_other_format_version_is_refused(
    tmp_path: Path, state: dict[str, Tensor], rich: Header, version: Any
) -> None:
    path = tmp_path / "version.safetensors"
    path.write_bytes(sealed(edited(rich, format=version), state))
    assert f"format version than {FORMAT}" in refused(path)


def test_other_preprocessing_is_refused(
    tmp_path: Path, state: dict[str, Tensor], rich: Header
) -> None:
    path = tmp_path / "preprocessing.safetensors"
    save_weights(path, state, replace(rich, preprocessing="none/1"))
    message = refused(path)
    assert "'none/1'" in message
    assert rich.preprocessing in message


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "REMOVED"},
        {"steps": "REMOVED"},
        {"trained_n": "REMOVED"},
        {"more": 1},
        {"architecture": None},
        {"architecture": {"hidden": 32, "depth": 3}},
        {"architecture": {"hidden": "32"}},
        {"architecture": {"hidden": -1}},
        {"trained_n": 50},
        {"trained_n": [50]},
        {"trained_n": ["few", "many"]},
        {"trained_mi": None},
        {"steps": "many"},
    ],
    ids=str,
)
def test_malformed_header_is_refused(
    tmp_path: Path, state: dict[str, Tensor], rich: Header, changes: dict[str, Any]
) -> None:
    path = tmp_path / "malformed.safetensors"
    path.write_bytes(sealed(edited(rich, **changes), state))
    assert "malformed" in refused(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '"text"', "null", "\x00"])
def test_header_that_is_no_object_is_refused(
    tmp_path: Path, state: dict[str, Tensor], text: str
) -> None:
    path = tmp_path / "malformed.safetensors"
    path.write_bytes(sealed(text, state))
    refused(path)


@pytest.mark.parametrize("damage", ["lacking", "additional", "other shape"])
def test_weights_that_do_not_fit_the_architecture_are_refused(
    tmp_path: Path, tiny_path: Path, damage: str
) -> None:
    state, header = load_weights(tiny_path)
    name = next(iter(state))
    match damage:
        case "lacking":
            del state[name]
        case "additional":
            state["another"] = torch.ones(3)
        case "other shape":
            header = replace(header, architecture=Architecture(hidden=64))
    path = tmp_path / "unfit.safetensors"
    save_weights(path, state, header)
    refused(path)


def test_checkpoint_error_is_a_runtime_error_and_ours() -> None:
    assert issubclass(CheckpointError, RuntimeError)
    assert issubclass(CheckpointError, FlashMIError)


# --- the packaged weights ---------------------------------------------------------------------


def test_base_weights_are_packaged() -> None:
    assert "base" in available()
    header = FlashMI.from_pretrained("base").header
    assert header.trained_n[0] <= 50
    assert header.trained_n[1] >= 8192
    assert header.trained_width == (1, 10)
    assert header.steps > 0


@pytest.mark.parametrize("name", available())
def test_packaged_weights_keep_their_checksums_when_saved_again(tmp_path: Path, name: str) -> None:
    again = tmp_path / "again.safetensors"
    FlashMI.from_pretrained(name).save_pretrained(again)
    told = []
    for path in (weights_path(name), again):
        with safe_open(path, framework="pt") as file:
            told.append(file.metadata())
    assert told[0] == told[1]


def test_packaged_weights_are_one_shared_object() -> None:
    model = FlashMI.from_pretrained("base")
    assert FlashMI.from_pretrained() is model
    assert MutualInformationLoss("minimize")._model is model


def test_loading_leaves_the_global_random_state_alone(tiny_path: Path) -> None:
    before = torch.get_rng_state()
    FlashMI.from_pretrained(tiny_path)
    assert torch.equal(torch.get_rng_state(), before)
