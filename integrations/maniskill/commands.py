"""The command line `flashmi maniskill`: collect demonstrations, find and draw their key states."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from flashmi_reg.errors import InputError

from .demonstrations import load_demonstrations
from .key_states import KeyStateExtractor

__all__ = ["main"]

POINTS = 24  # of the drawn timeline

EXAMPLES = """\
examples:
  flashmi maniskill collect PickCube-v1 -n 100
  flashmi maniskill keys PickCube-v1 --count 2
  flashmi maniskill keys demos/StackCube-v1.h5 --count 3 --output keys
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `flashmi maniskill` and returns its exit code.

    Args:
        argv: the arguments after `flashmi maniskill`, those of the process if not given.

    Raises:
        FlashMIError: what the functions behind the commands raise.
    """
    options = _parser().parse_args(argv)
    return int(options.run(options))


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="flashmi maniskill",
        description="Key states of robot demonstrations, found by mutual information.",
        epilog=EXAMPLES,
        formatter_class=raw,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    collect = commands.add_parser("collect", help="make demonstrations by motion planning")
    collect.add_argument("task", help="e.g. PickCube-v1")
    _collecting(collect)
    collect.set_defaults(run=_collect)

    keys = commands.add_parser("keys", help="find key states and draw them")
    keys.add_argument(
        "demonstrations", help="a .h5 or .npz file; or a task, whose demonstrations are made first"
    )
    keys.add_argument("--count", type=int, default=3, help="key states, the end included")
    keys.add_argument("--criterion", choices=("least", "most"), default="least")
    keys.add_argument("--source", choices=("obs", "env_states"), default="obs")
    keys.add_argument("--seed", type=int, default=0, help="seed of the extractor (default 0)")
    keys.add_argument(
        "--frames", metavar="TASK", help="also draw a demonstration's key states in this task"
    )
    _collecting(keys)
    keys.set_defaults(run=_keys)
    return parser


def _collecting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-n", type=int, default=100, help="demonstrations to make (default 100)")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first episode")
    parser.add_argument("--output", type=Path, default=Path(), metavar="DIR", help="folder")


def _collect(options: argparse.Namespace) -> int:
    from .collect import collect

    path = options.output / f"{options.task}.npz"
    print("wrote", collect(options.task, options.n, path, first_seed=options.first_seed))
    return 0


def _keys(options: argparse.Namespace) -> int:
    from .plots import draw_timeline, timeline

    source = Path(options.demonstrations)
    if options.frames and source.suffix not in (".h5", ".npz"):
        raise InputError(
            "`--frames` needs demonstrations that lie there already: make them with `flashmi "
            "maniskill collect` and give the file."
        )
    if source.suffix not in (".h5", ".npz"):
        from .collect import collect

        source = options.output / f"{options.demonstrations}.npz"
        collect(options.demonstrations, options.n, source, first_seed=options.first_seed)
    demonstrations = load_demonstrations(source, source=options.source)
    extractor = KeyStateExtractor(options.count, criterion=options.criterion, seed=options.seed)
    extractor.fit(demonstrations)
    found = timeline(extractor, demonstrations, points=POINTS)
    events = {}
    if all("is_grasped" in d.flags for d in demonstrations):
        first = [d.flags["is_grasped"].int().argmax() / (len(d) - 1) for d in demonstrations]
        events["grasp"] = torch.stack(first)
    stem = options.output / source.stem
    print("wrote", extractor.save(f"{stem}.keys.safetensors"))
    print("wrote", draw_timeline(found, f"{stem}.keys.png", events=events))
    for k, places in enumerate(found.key_places.T):
        low, middle, high = places.quantile(torch.tensor([0.1, 0.5, 0.9])).tolist()
        print(f"key state {k + 1}: at {middle:.0%} of the length ({low:.0%} to {high:.0%})")
    if options.frames:
        from .frames import draw_frames

        one = demonstrations[0]
        wanted = f"{stem}.frames.png"
        print("wrote", draw_frames(options.frames, one, extractor.transform(one), wanted))
    return 0
