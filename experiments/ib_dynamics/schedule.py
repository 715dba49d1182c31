"""All runs of the experiment, one after the other or in several processes."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from functools import cache
from multiprocessing import get_context
from typing import Any, NamedTuple

import torch

from experiments.ib_dynamics.features import Features, tfidf
from experiments.ib_dynamics.newsgroups import Corpus
from experiments.ib_dynamics.training import Perceptron, Recipe, Run, train

__all__ = ["Task", "Workshop", "complete"]


class Task(NamedTuple):
    """One run to train: how, for which size of the vocabulary, from which seed."""

    recipe: Recipe
    words: int
    repeat: int


class Workshop:
    """Trains tasks on one corpus, in as many processes as it is told.

    Args:
        corpus: the texts.
        jobs: how many processes; 1 for this one alone. Each takes as many threads as this one.
    """

    def __init__(self, corpus: Corpus, jobs: int = 1) -> None:
        self.corpus, self.jobs = corpus, jobs
        self._features = cache(lambda words: tfidf(corpus, words))

    def features(self, words: int) -> Features:
        """Those of a vocabulary of so many words, computed once."""
        return self._features(words)

    def model(self, task: Task, state: dict[str, torch.Tensor]) -> Perceptron:
        """The perceptron of a task with trained weights."""
        classes = len(self.corpus.classes)
        model = Perceptron(task.words, classes, task.recipe.learning_rate, task.repeat)
        model.load_state_dict(state)
        return model.eval()

    def train(
        self, tasks: Sequence[Task], advance: Callable[[], object]
    ) -> Iterator[tuple[Task, Run, dict[str, torch.Tensor]]]:
        """Yields each task with its run and trained weights, in the order in which they end.

        Args:
            tasks: what to train.
            advance: is called after each epoch of each.
        """
        if self.jobs == 1:
            for task in tasks:
                run, model = train(self.features(task.words), task.recipe, task.repeat, advance)
                yield task, run, model.state_dict()
            return
        context = get_context("spawn")
        ticks: Any = context.Queue()
        given = (self.corpus, ticks, torch.get_num_threads())
        with ProcessPoolExecutor(self.jobs, context, _begin, given) as pool:
            pending: dict[Future, Task] = {pool.submit(_train, task): task for task in tasks}
            while pending:
                done = wait(pending, timeout=1).done
                _drain(ticks, advance)
                for future in done:
                    yield pending.pop(future), *future.result()


def complete(runs: Sequence[Run], words: Sequence[int]) -> list[Run]:
    """The runs of those repeats that are there for all sizes of the vocabulary, in order."""
    there = {(run.words, run.repeat) for run in runs}
    whole = {run.repeat for run in runs if all((size, run.repeat) in there for size in words)}
    kept = [run for run in runs if run.repeat in whole]
    return sorted(kept, key=lambda run: (run.words, run.repeat))


# --- in the processes ---------------------------------------------------------------------------

_here: tuple[Workshop, Callable[[], object]]


def _begin(corpus: Corpus, ticks: Any, threads: int) -> None:
    global _here
    torch.set_num_threads(threads)
    _here = Workshop(corpus), lambda: ticks.put(None)


def _train(task: Task) -> tuple[Run, dict[str, torch.Tensor]]:
    workshop, advance = _here
    ((_, run, state),) = workshop.train([task], advance)
    return run, state


def _drain(ticks: Any, advance: Callable[[], object]) -> None:
    while True:
        try:
            ticks.get_nowait()
        except queue.Empty:
            return
        advance()
