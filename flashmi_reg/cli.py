"""The command line: `flashmi demo | info | estimate | test | matrix | pretrain | maniskill`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from .errors import FlashMIError

__all__ = ["main"]

EXAMPLES = """\
examples:
  flashmi demo
  flashmi info
  flashmi estimate samples.csv --x age,height --y weight
  flashmi test samples.csv --x age,height --y weight
  flashmi matrix samples.csv --plot heatmap.png
  flashmi pretrain --help
  flashmi maniskill --help
"""
DEMO_EXAMPLES = """\
examples:
  flashmi demo
  flashmi demo --output figures --repeats 5
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code: 0, 2 after an error, 130 if interrupted.

    Args:
        argv: the arguments, those of the process if not given.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments[:1] == ["pretrain"]:  # its options are its own, --help included
            return _pretrain(arguments[1:])
        if arguments[:1] == ["maniskill"]:
            return _maniskill(arguments[1:])
        options = _parser().parse_args(arguments)
        return int(options.run(options))
    except FlashMIError as error:
        print(f"flashmi: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("flashmi: interrupted.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    from .table_commands import add_commands

    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="flashmi",
        description="Mutual information from one forward pass of a pretrained network.",
        epilog=EXAMPLES,
        formatter_class=raw,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    demo = commands.add_parser(
        "demo",
        help="train a small classifier with and without the term; writes flashmi_demo.png",
        description=(
            "Trains a classifier of digits whose ground colour betrays the label, with and without "
            "a mutual-information term, prints what each learned and writes flashmi_demo.png."
        ),
        epilog=DEMO_EXAMPLES,
        formatter_class=raw,
    )
    demo.add_argument("--seed", type=int, default=0, help="seed of the first repeat (default 0)")
    demo.add_argument("--repeats", type=int, default=3, help="repeats to average (default 3)")
    demo.add_argument("--epochs", type=int, help="training steps, one class-balanced batch each")
    demo.add_argument("--output", default=".", metavar="DIR", help="folder for the figure")
    demo.set_defaults(run=_demo)

    info = commands.add_parser(
        "info",
        help="show the weights, the ranges they were trained for, and versions",
        description="Shows the weights, the ranges they were trained for, and versions.",
    )
    info.add_argument("--weights", default="base", help="name or file (default base)")
    info.set_defaults(run=_info)

    add_commands(commands)

    commands.add_parser(
        "pretrain", help="train weights of your own; takes the options of flashmi pretrain --help"
    )
    commands.add_parser(
        "maniskill", help="robot demonstrations and their key states: flashmi maniskill --help"
    )
    return parser


def _demo(options: argparse.Namespace) -> int:
    from .demo import EPOCHS, run_demo

    epochs = EPOCHS if options.epochs is None else options.epochs
    run_demo(seed=options.seed, output=options.output, epochs=epochs, repeats=options.repeats)
    return 0


def _info(options: argparse.Namespace) -> int:
    import platform
    from dataclasses import asdict, replace

    import torch

    from . import FlashMI, __version__

    model = FlashMI.from_pretrained(options.weights)
    python = platform.python_version()
    print(f"flashmi_reg {__version__}, torch {torch.__version__}, Python {python}")
    print(f"weights {options.weights}")
    told = asdict(replace(model.header, calibration=None))
    del told["calibration"]
    for key, value in told.items():
        print(f"  {key}: {value if isinstance(value, str) else json.dumps(value)}")
    calibration = model.header.calibration
    sets = "none" if calibration is None else f"on {calibration.sets:,} data sets"
    print(f"  calibration of intervals: {sets}")
    return 0


def _pretrain(arguments: list[str]) -> int:
    from flashmi_reg.pretrained.train import main as train

    train(arguments)
    return 0


def _maniskill(arguments: list[str]) -> int:
    from flashmi_reg.integrations.maniskill.commands import main as maniskill

    return maniskill(arguments)


if __name__ == "__main__":
    sys.exit(main())
