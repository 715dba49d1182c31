"""The pages under `docs`: every block of code runs, every link leads somewhere."""

from __future__ import annotations

import re
import shlex
import socket
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from flashmi_reg.cli import main

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.glob("*.md"))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def blocks(page: Path, language: str) -> list[str]:
    return [code for kind, code in BLOCK.findall(page.read_text("utf-8")) if kind == language]


def with_blocks(language: str) -> pytest.MarkDecorator:
    pages = [page for page in PAGES if blocks(page, language)]
    return pytest.mark.parametrize("page", pages, ids=[page.stem for page in pages])


@with_blocks("python")
def test_python_blocks_run(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, in one namespace, as the only process of a group where they ask."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in (("ADDR", "127.0.0.1"), ("PORT", str(port))):
        monkeypatch.setenv(f"MASTER_{name}", value)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    space: dict[str, object] = {"__name__": page.stem}
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        for number, code in enumerate(blocks(page, "python"), 1):
            exec(compile(code, f"{page.name}, block {number}", "exec"), space)


@with_blocks("sh")
def test_commands_run(
    page: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rng = np.random.default_rng(0)
    age, height, weight = rng.standard_normal((3, 200))
    lines = [
        f"{a},{h},{h + w},{('no', 'se', 'fi')[i % 3]}"
        for i, (a, h, w) in enumerate(zip(age, height, weight, strict=True))
    ]
    (tmp_path / "samples.csv").write_text("\n".join(["age,height,weight,country", *lines]))
    monkeypatch.chdir(tmp_path)
    for block in blocks(page, "sh"):
        for line in block.strip().splitlines():
            program, *arguments = shlex.split(line)
            assert program == "flashmi", line
            code = main(arguments)
            captured = capsys.readouterr()
            assert code == 0, f"{line}: {captured.err}"
            assert captured.out


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text("utf-8")):
        name, _, anchor = link.partition("#")
        if name.startswith("http"):
            continue
        target = page.parent / name if name else page
        assert target.is_file(), link
        if not anchor:
            continue
        titles = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
        assert anchor in anchors, link


def test_every_page_is_in_the_index() -> None:
    linked = set(LINK.findall((DOCS / "README.md").read_text("utf-8")))
    assert linked == {page.name for page in PAGES} - {"README.md"}
