"""What is installed: one import name, types, weights, extras."""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib import metadata, resources

import pytest


@pytest.mark.parametrize(
    "name",
    [
        "flashmi_reg",
        "flashmi_reg.integrations",
        "flashmi_reg.integrations.maniskill",
        "flashmi_reg.pretrained",
        "flashmi_reg.pretrained.prior",
    ],
)
def test_rooms_are_subpackages(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__


def test_types_ship() -> None:
    assert (resources.files("flashmi_reg") / "py.typed").is_file()


def test_weights_ship() -> None:
    weights = resources.files("flashmi_reg.pretrained") / "weights" / "base.safetensors"
    assert weights.is_file()


def test_metadata_names_the_extras() -> None:
    found = set(metadata.metadata("flashmi_reg").get_all("Provides-Extra") or [])
    libraries = {"lightning", "transformers", "maniskill"}
    assert found == libraries | {"demo", "tables", "experiments", "dev"}


def test_version_is_the_distribution_version() -> None:
    package = importlib.import_module("flashmi_reg")
    assert package.__version__ == metadata.version("flashmi_reg")


def test_import_needs_no_extra() -> None:
    """The package imports without its optional dependencies and without the other rooms."""
    code = (
        "import sys, flashmi_reg\n"
        "heavy = ['sklearn', 'matplotlib', 'lightning', 'transformers', 'mani_skill',"
        " 'flashmi_reg.pretrained', 'flashmi_reg.integrations']\n"
        "print(*[name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
