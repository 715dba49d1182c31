"""Success of cloned policies with and without key states.

`python -m experiments.key_states.rollouts DATA` needs the extra `maniskill` and writes
results/key_states_policy.json; runs already there are kept, so that an interrupted comparison goes
on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from experiments.key_states.events import EVENTS, TASKS, load_task
from experiments.report import RESULTS, circumstances, table, write_json
from flashmi_reg.integrations.maniskill import Demonstration, KeyStateExtractor
from flashmi_reg.integrations.maniskill.policy import KeyStatePolicy, train_policy
from flashmi_reg.integrations.maniskill.simulator import make, number

__all__ = ["ARMS", "main", "success"]

ARMS = ("none", "uniform", "ours, least", "ours, most (MaxMI)")
UNSEEN = 10_000  # the first seed of episodes that no demonstration began with
SLACK = 1.5  # an episode may take so many times the longest demonstration


def key_times(
    arm: str, demos: Sequence[Demonstration], count: int, seed: int
) -> list[torch.Tensor] | None:
    """Times of the key states in each demonstration; None for plain cloning."""
    if arm == "none":
        return None
    if arm == "uniform":
        shares = torch.arange(1, count + 1) / count
        return [(shares * (len(d) - 1)).round().long() for d in demos]
    criterion = "least" if "least" in arm else "most"
    extractor = KeyStateExtractor(count, criterion=criterion, seed=seed).fit(demos)
    return [extractor.transform(d) for d in demos]


def success(env: Any, policy: KeyStatePolicy, seed: int, limit: int) -> bool:
    """Whether the policy reaches the goal from the state that the seed draws."""
    state, _ = env.reset(seed=seed)
    for _ in range(limit):
        state, _, _, _, info = env.step(policy.act(state.float())[0].numpy())
        if number(info["success"]):
            return True
    return False


def main(argv: list[str] | None = None) -> None:
    """Command line of the experiment."""
    parser = argparse.ArgumentParser(prog="python -m experiments.key_states.rollouts")
    parser.add_argument("data", type=Path, help="folder with demonstrations")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--episodes", type=int, default=100, help="of seen and of unseen seeds")
    parser.add_argument("--seeds", type=int, default=3, help="training seeds")
    parser.add_argument("--steps", type=int, default=3000, help="of training")
    parser.add_argument("--out", type=Path, default=RESULTS / "key_states_policy.json")
    chosen = parser.parse_args(argv)
    content = json.loads(chosen.out.read_text()) if chosen.out.is_file() else {"rows": []}
    for task in chosen.tasks:
        demos = load_task(chosen.data, task)
        limit = int(SLACK * max(len(d) for d in demos))
        env = make(task, max_episode_steps=limit + 1)
        for seed in range(chosen.seeds):
            for arm in chosen.arms:
                row: dict[str, Any] = {"task": task, "arm": arm, "seed": seed}
                row |= {"steps": chosen.steps, "episodes": chosen.episodes}
                if any(row.items() <= r.items() for r in content["rows"]):
                    continue
                keys = key_times(arm, demos, len(EVENTS[task]), seed)
                policy = train_policy(demos, keys, steps=chosen.steps, seed=seed)
                seen = [demos[i % len(demos)].seed for i in range(chosen.episodes)]
                unseen = [UNSEEN + i for i in range(chosen.episodes)]
                for name, starts in (("seen", seen), ("unseen", unseen)):
                    label = f"{task}, {arm}, #{seed}, {name}"
                    done = [
                        success(env, policy, start, limit)
                        for start in tqdm(starts, desc=label, disable=None)
                    ]
                    row[name] = sum(done) / len(done)
                content["rows"].append(row)
                write_json(chosen.out, content | circumstances("mani-skill"))
                print({k: row[k] for k in ("task", "arm", "seed", "seen", "unseen")}, flush=True)
        env.close()
    print(_table(content["rows"]))


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
