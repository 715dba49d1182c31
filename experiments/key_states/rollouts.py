"""Success of cloned policies with and without key states.

`python -m experiments.key_states.rollouts DATA` needs the extra `maniskill` and writes
results/key_states_policy.json; runs already there are kept, so that an interrupted comparison goes
on where it stopped. Every arm learns from the demonstrations in the folder DATA and from the same
disturbed replays of them, which are made once and kept there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from experiments.key_states.events import (
    EVENTS,
    TASKS,
    VELOCITIES,
    load_task,
    observed,
    observed_columns,
)
from experiments.key_states.extractors import EXTRACTORS, key_times
from experiments.report import RESULTS, circumstances, table, write_json
from flashmi_reg.integrations.maniskill import (
    Demonstration,
    load_demonstrations,
    save_demonstrations,
)
from flashmi_reg.integrations.maniskill.policy import Episode, KeyStatePolicy, train_policy
from flashmi_reg.integrations.maniskill.replay import JOINTS, disturbed
from flashmi_reg.integrations.maniskill.simulator import advance, make, number
from flashmi_reg.integrations.maniskill.stages import PLAYED

__all__ = ["ARMS", "main", "success"]

ARMS = ("none", "uniform", "ours, least")
SEEDS = (10, 11, 12, 13)  # of training; none had a part in what led to the policy
UNSEEN = 10_000  # the first seed of episodes that no demonstration began with
SLACK = 1.25  # an episode may take so many times the longest demonstration
# Pegs differ in size from seed to seed, so that the scene is built anew; elsewhere that would be
# most of an episode's cost.
REBUILT = ("PegInsertionSide-v1",)


def success(env: Any, policy: KeyStatePolicy, seed: int, limit: int, columns: Tensor) -> bool:
    """Whether the policy reaches the goal from the state that the seed draws.

    States are computed, and success is asked for, only where the policy is asked: between, the
    simulation alone goes on.
    """
    state, _ = env.reset(seed=seed)
    episode = Episode(policy)
    for _ in range(0, limit, PLAYED):
        *first, last = episode.act(state[0, columns].float()).numpy()
        for action in first:
            advance(env, action)
        state, _, _, _, info = env.step(last)
        if number(info["success"]):
            return True
    return False


def main(argv: list[str] | None = None) -> None:
    """Command line of the experiment."""
    parser = argparse.ArgumentParser(prog="python -m experiments.key_states.rollouts")
    parser.add_argument("data", type=Path, help="folder with demonstrations")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--arms", nargs="+", choices=("none", *EXTRACTORS), default=list(ARMS))
    parser.add_argument("--episodes", type=int, default=100, help="of seen and of unseen seeds")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, help="of training")
    parser.add_argument("--steps", type=int, default=6000, help="of training")
    parser.add_argument("--out", type=Path, default=RESULTS / "key_states_policy.json")
    chosen = parser.parse_args(argv)
    torch.set_flush_denormal(True)  # twice as fast towards the end of training
    for seed in chosen.seeds:
        for task in chosen.tasks:
            _trainings(task, seed, chosen)
    print(_table(json.loads(chosen.out.read_text())["rows"]))


def _trainings(task: str, seed: int, chosen: argparse.Namespace) -> None:
    """Trains and plays one policy an arm; those already there are kept."""
    recorded = load_task(chosen.data, task)
    demos = [observed(task, d) for d in recorded]
    replays = [observed(task, d) for d in _replays(chosen.data, task, recorded)]
    columns = torch.tensor(observed_columns(task, recorded[0].states.shape[1]))
    limit = int(SLACK * max(len(d) for d in demos))
    env = make(task, max_episode_steps=limit + 1, reconfiguration_freq=int(task in REBUILT))
    seen = [demos[i * len(demos) // chosen.episodes].seed for i in range(chosen.episodes)]
    unseen = [UNSEEN + i for i in range(chosen.episodes)]
    count = len(EVENTS[task])
    for arm in chosen.arms:
        content = json.loads(chosen.out.read_text()) if chosen.out.is_file() else {"rows": []}
        row: dict[str, Any] = {"task": task, "arm": arm, "seed": seed}
        row |= {"steps": chosen.steps, "episodes": chosen.episodes}
        row |= {"demonstrations": len(demos), "replays": len(replays)}
        if any(row.items() <= r.items() for r in content["rows"]):
            continue
        start = time.process_time()
        keys = None
        if arm != "none":
            found = key_times(arm, demos, count, seed)
            times = {d.seed: k for d, k in zip(demos, found, strict=True)}
            keys = [times[d.seed] for d in (*demos, *replays)]  # a replay keeps its original's
        extracted = time.process_time()
        policy = train_policy(
            [*demos, *replays],
            keys,
            count=count,
            relative=JOINTS,
            blurred=VELOCITIES,
            steps=chosen.steps,
            seed=seed,
        )
        row |= {"extraction_s": extracted - start, "training_s": time.process_time() - extracted}
        for name, starts in (("seen", seen), ("unseen", unseen)):
            label = f"{task}, {arm}, #{seed}, {name}"
            bar = tqdm(starts, desc=label, disable=None)
            row[name] = sum(success(env, policy, s, limit, columns) for s in bar) / len(starts)
        content["rows"].append(row)
        write_json(chosen.out, content | circumstances("mani-skill"))
        print({k: row[k] for k in ("task", "arm", "seed", "seen", "unseen")}, flush=True)
    env.close()


def _replays(data: Path, task: str, recorded: Sequence[Demonstration]) -> list[Demonstration]:
    """Disturbed replays of the demonstrations; those already there are taken."""
    path = data / f"{task}.disturbed.npz"
    if not path.is_file():
        save_demonstrations(path, disturbed(task, recorded))
    return load_demonstrations(path)


def _table(rows: Sequence[dict[str, Any]]) -> str:
    """Means over training seeds, with the least and the greatest."""
    lines = []
    for task, arm in dict.fromkeys((r["task"], r["arm"]) for r in rows):
        found = [r for r in rows if (r["task"], r["arm"]) == (task, arm)]
        cells = []
        for name in ("seen", "unseen"):
            values = [r[name] for r in found]
            mean = sum(values) / len(values)
            cells.append(f"{mean:.0%} ({min(values):.0%}–{max(values):.0%})")
        lines.append([task, arm, *cells, str(len(found))])
    return table(["task", "key states", "seen", "unseen", "trainings"], lines)


if __name__ == "__main__":
    main()
