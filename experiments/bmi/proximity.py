"""How near the training prior comes to each family of the benchmark, beside the errors there."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from experiments.bmi.tasks import TASKS
from experiments.report import RESULTS, markdown_table, number
from flashmi_reg.pretrained.prior import PROXIMITY

__all__ = ["FAMILIES", "family_of", "markdown"]

FAMILIES: dict[str, str] = {
    "spiral-": "spiral",
    "swissroll_x-": "swiss roll",
    "1v1-additive-": "additive uniform noise",
    "1v1-bimodal-": "bimodal (normal margins through the inverse CDF of a mixture)",
    "asinh-": "asinh, half-cube, wiggly, normal CDF (coordinate by coordinate)",
    "half_cube-": "asinh, half-cube, wiggly, normal CDF (coordinate by coordinate)",
    "wiggly-": "asinh, half-cube, wiggly, normal CDF (coordinate by coordinate)",
    "normal_cdf-": "asinh, half-cube, wiggly, normal CDF (coordinate by coordinate)",
    "student-": "multivariate Student",
    "multinormal-": "multinormal, sparse or dense",
    "1v1-normal-": "multinormal, sparse or dense",
}
"""How a task's name begins, and its family, by the names of `PROXIMITY`."""


def family_of(task: str) -> str:
    """The family of a task, by its name; KeyError if it has none."""
    for start, family in FAMILIES.items():
        if task.startswith(start):
            return family
    raise KeyError(task)


def markdown(path: Path = RESULTS / "bmi.json") -> str:
    """The table for the model card: tasks of a family, our error there, and what is drawn."""
    content = json.loads(path.read_text())
    cells = [cell for cell in content["cells"] if cell["method"] == "ours" and cell["values"]]
    sizes = [n for n in content["settings"]["n"] if n in (1_000, 5_000)]
    rows = []
    for family, told in PROXIMITY.items():
        row = [family, str(sum(family_of(task) == family for task in TASKS))]
        for n in sizes:
            errors = [
                abs(value - cell["truth"])
                for cell in cells
                if cell["n"] == n and family_of(cell["task"]) == family
                for value in cell["values"]
            ]
            row.append(number(statistics.fmean(errors)) if errors else "–")
        near, _, rest = told.partition(": ") if ": " in told else told.partition(". ")
        rows.append([*row, near.rstrip("."), rest.replace("|", r"\|")])
    head = ["family of the benchmark", "tasks", *(f"MAE, n = {n:,}" for n in sizes)]
    return (
        "**How near the prior comes to the benchmark**, and the mean absolute error there (nats,"
        " the tasks in the benchmark's table above):\n\n"
        f"{markdown_table([*head, 'in the prior', 'what is drawn'], rows)}"
    )
