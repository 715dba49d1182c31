"""Weights on disk: safetensors with a strict JSON header and a checksum; no pickle."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from .calibration import Calibration
from .errors import CheckpointError
from .hypernet import Architecture

__all__ = [
    "PREPROCESSING",
    "Header",
    "available",
    "from_bytes",
    "load_weights",
    "save_weights",
    "to_bytes",
    "weights_path",
]

FORMAT = 1
# Names the data path that the weights were trained behind. A change to copula, canonical
# coordinates, shuffling or critic that alters what the network sees needs a new name.
PREPROCESSING = "normal-scores/canonical-2"
# Sizes that an architecture gained later. As they were before, they are left out of the header, so
# that older weights keep the checksum by which results name them.
LATER = ("radial_hidden", "auditioned", "auditions")


@dataclass(frozen=True)
class Header:
    """What a weights file says of itself.

    Attributes:
        architecture: sizes of the network.
        preprocessing: name of the data path, see `PREPROCESSING`.
        trained_n: least and greatest sample size in training.
        trained_width: least and greatest width of a side in training.
        trained_mi: greatest mutual information, in nats, of all but 1 % of the training data.
        steps: training steps taken.
        seed: seed of the training data.
        training: further settings of the training run, for the record.
        calibration: numbers for intervals; None before they were found.
    """

    architecture: Architecture
    preprocessing: str
    trained_n: tuple[int, int]
    trained_width: tuple[int, int]
    trained_mi: float
    steps: int
    seed: int
    training: dict[str, Any]
    calibration: Calibration | None = None


def available() -> list[str]:
    """Names of the packaged weights."""
    folder = _folder()
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return sorted(n.removesuffix(".safetensors") for n in names if n.endswith(".safetensors"))


def save_weights(path: str | Path, state: dict[str, Tensor], header: Header) -> None:
    """Writes weights with their header; a file that exists is replaced in one move."""
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(to_bytes(state, header))
    partial.replace(path)


def to_bytes(state: dict[str, Tensor], header: Header) -> bytes:
    """Weights and header as the content of a safetensors file.

    The calibration stands apart with a checksum of its own, which covers that of the weights: they
    keep the one by which results name them.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    content = asdict(header) | {"format": FORMAT}
    del content["calibration"]
    for name in LATER:
        if content["architecture"][name] == getattr(Architecture, name):
            del content["architecture"][name]
    text = json.dumps(content, sort_keys=True)
    metadata = {"flashmi": text, "sha256": _checksum(text, state)}
    if header.calibration is not None:
        told = header.calibration.to_json()
        metadata |= {"calibration": told, "calibration_sha256": _seal(metadata["sha256"], told)}
    return save(state, metadata)


def load_weights(name_or_path: str | Path) -> tuple[dict[str, Tensor], Header]:
    """Reads and verifies weights.

    Args:
        name_or_path: a packaged name (see :func:`available`) or the path of a file.

    Raises:
        CheckpointError: the file is missing, truncated, altered, foreign or of another version.
    """
    path = weights_path(name_or_path)
    try:
        return from_bytes(path.read_bytes(), str(path))
    except OSError as error:
        raise CheckpointError(f"`{path}` cannot be read: {error}.") from error


def from_bytes(content: bytes, origin: str = "the content") -> tuple[dict[str, Tensor], Header]:
    """Reads and verifies what :func:`to_bytes` made; errors as in :func:`load_weights`."""
    try:
        state = load(content)
        # safetensors: eight bytes of length, then a JSON header that holds the metadata.
        length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"`{origin}` is no readable safetensors file ({error}): it is truncated or foreign; "
            "install the package again or copy the file anew."
        ) from error
    text = metadata.get("flashmi")
    if text is None:
        raise CheckpointError(f"`{origin}` has no flashmi header: it is another model's file.")
    if metadata.get("sha256") != _checksum(text, state):
        raise CheckpointError(
            f"`{origin}` does not match its checksum: it was altered or damaged; copy it anew."
        )
    return state, replace(_parse(text, origin), calibration=_calibration(metadata, origin))


def weights_path(name_or_path: str | Path) -> Path:
    """The file of packaged weights of a name, or the one at a path.

    Raises:
        CheckpointError: there is none.
    """
    if isinstance(name_or_path, str) and name_or_path in available():
        return Path(str(_folder() / f"{name_or_path}.safetensors"))
    path = Path(name_or_path)
    if not path.is_file():
        raise CheckpointError(
            f"`name_or_path` {str(name_or_path)!r} is neither a packaged name "
            f"({', '.join(available()) or 'none is packaged'}) nor a file."
        )
    return path


def _folder() -> Any:
    return files("flashmi_reg.pretrained") / "weights"


def _checksum(text: str, state: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(state):
        tensor = state[name]
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _seal(checksum: str, told: str) -> str:
    return hashlib.sha256(f"{checksum}{told}".encode()).hexdigest()


def _calibration(metadata: dict[str, str], origin: str) -> Calibration | None:
    if metadata.keys() == {"flashmi", "sha256"}:
        return None
    if metadata.keys() != {"flashmi", "sha256", "calibration", "calibration_sha256"}:
        raise CheckpointError(f"`{origin}` has malformed metadata: {sorted(metadata)}.")
    told = metadata["calibration"]
    if metadata["calibration_sha256"] != _seal(metadata["sha256"], told):
        raise CheckpointError(
            f"`{origin}` has a calibration that does not match its checksum, or that of other "
            "weights: calibrate anew, or copy the file anew."
        )
    try:
        return Calibration.from_json(told)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"`{origin}` has a malformed calibration: {error}.") from error


def _parse(text: str, origin: str) -> Header:
    try:
        content = json.loads(text)
        if content.pop("format") != FORMAT:
            raise CheckpointError(f"`{origin}` is of another format version than {FORMAT}.")
        if content.keys() != {field.name for field in fields(Header)} - {"calibration"}:
            raise ValueError(f"fields {sorted(content)}")
        architecture = content["architecture"]
        least = {name: int(name != "rounds") for name in architecture}
        if not all(isinstance(s, int) and s >= least[name] for name, s in architecture.items()):
            raise ValueError(f"architecture {architecture}")
        content["architecture"] = Architecture(**architecture)
        for pair in ("trained_n", "trained_width"):
            low, high = content[pair]
            content[pair] = (int(low), int(high))
        content["trained_mi"] = float(content["trained_mi"])
        content["steps"], content["seed"] = int(content["steps"]), int(content["seed"])
        header = Header(**content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"`{origin}` has a malformed flashmi header: {error}.") from error
    if header.preprocessing != PREPROCESSING:
        raise CheckpointError(
            f"`{origin}` was trained behind {header.preprocessing!r}, this version computes "
            f"{PREPROCESSING!r}: use the version of flashmi_reg that made the file."
        )
    return header
