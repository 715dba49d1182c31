"""What every experiment writes: results/NAME.json with the circumstances of the run, and tables."""

from __future__ import annotations

import json
import math
import os
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from flashmi_reg import FlashMI

__all__ = [
    "RESULTS",
    "circumstances",
    "describe_weights",
    "hardware",
    "markdown_table",
    "number",
    "origin",
    "table",
    "versions",
    "write_json",
]

RESULTS = Path(__file__).resolve().parent.parent / "results"
"""The folder of all results, in the root of the repository."""


def hardware() -> dict[str, Any]:
    """Describe the machine: processor, cores, threads in use, memory and accelerators."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "memory_gib": _memory_gib(),
        "accelerators": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")


def _memory_gib() -> float | None:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
    return round(size / 2**30, 1)


def versions(*packages: str) -> dict[str, str]:
    """The versions of Python, of the project, of torch and of further packages."""
    found = {"python": platform.python_version()}
    for package in ("flashmi_reg", "torch", "numpy", *packages):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def circumstances(*packages: str) -> dict[str, Any]:
    """What a result depends on besides its settings: hardware and versions."""
    return {"hardware": hardware(), "versions": versions(*packages)}


def describe_weights(model: FlashMI, name: str | Path) -> dict[str, Any]:
    """Name, checksum and header of a model's weights; of a path only the last part is kept."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        model.save_pretrained(path)
        with safe_open(path, framework="pt") as file:
            checksum = (file.metadata() or {}).get("sha256")
    return {"name": Path(name).name, "sha256": checksum, "header": asdict(model.header)}


def write_json(path: Path, content: dict[str, Any]) -> Path:
    """Write a result as JSON; numbers that are not finite become null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_plain(content), indent=1, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value


def number(value: float | None, digits: int = 3, *, sign: bool = False) -> str:
    """Format a number for a table; a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:{'+' if sign else ''}.{digits}f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a plain-text table: first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for row in (head, ["─" * width for width in widths], *rows):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table in Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows))


def origin(hardware: dict[str, Any], *weights: dict[str, Any]) -> str:
    """Name the machine and the weights behind a table, as they are recorded in its file."""
    told = [
        f"{w['name']} {w['sha256'][:12]} ({w['header']['steps']:,} steps)" for w in weights if w
    ]
    threads = f"{hardware['processor']}, {hardware['torch_threads']} thread(s)"
    return ", ".join([threads, *(["weights " + ", ".join(told)] if told else [])])
