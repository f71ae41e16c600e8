"""The command `jaxkit`: look at an experiment before it runs, and at runs afterwards."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from jaxkit import __version__
from jaxkit.cli import parsing, pinning, planning, proving, reading, syncing
from jaxkit.errors import UsageError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit code: 0 only on success, 2 for a mistake that one line explains."""
    from jaxkit.runs.command import explained

    argv = sys.argv[1:] if argv is None else argv
    with explained(debug="--debug" in argv):
        rest, changes = parsing.parse(*_parser(), argv)
        if changes and "config" not in rest:
            path, text = changes[0]
            how = (
                f"--where config.{path}={text} lists those runs" if rest.verb == "runs" else "it is as it was run"
            )
            raise UsageError(f"--config.{path}: {rest.verb} changes no config; {how}")
        rest.overrides = changes
        try:
            code = rest.function(rest)
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader had enough (`| head`); the interpreter flushes once more on its way out.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        return code
    return 2


def _parser() -> tuple[parsing.Parser, dict[str, parsing.Parser]]:
    """The parser of the command, and that of each verb."""
    parser = parsing.Parser(
        prog="jaxkit",
        description="Look at an experiment before it runs, and at runs afterwards.",
        epilog="Training is the experiment's own command: python experiments/NAME.py --config=configs/X.py",
    )
    parser.add_argument("--version", action="version", version=f"jaxkit {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, function: Callable[[Any], int], text: str) -> argparse.ArgumentParser:
        found = verbs.add_parser(name, help=text, description=text)
        found.add_argument("--json", action="store_true", help="print JSON, for machines")
        found.add_argument("--debug", action="store_true", help="show tracebacks for mistakes too")
        found.set_defaults(function=function)
        return found

    plan = verb(
        "plan",
        planning.plan,
        "trace an experiment on shapes, as for a CPU: parameters, FLOPs, bytes; no data, no accelerator",
    )
    plan.add_argument("experiment", help="the experiment's file: experiments/NAME.py")
    plan.add_argument(
        "--config", required=True, help="configs/X.py[:VARIANTS]; --config.PATH=VALUE changes a value"
    )
    plan.add_argument(
        "--devices", type=int, help="how many devices to pretend (default: what the layout asks for)"
    )
    plan.add_argument(
        "--device",
        help="the least time of a step on one, and whether it fits: h200, a100, tpu-v5e, ...; by the FLOPs and"
        " bytes of the program for a CPU",
    )
    plan.add_argument("--shardings", action="store_true", help="how each array is split, and its bytes a device")
    plan.add_argument(
        "--memory", action="store_true", help="compile the step for a CPU, and say what it takes on one device"
    )
    data = verb(
        "data", pinning.data, "open the data of an experiment: its manifests, and the reference to pin it by"
    )
    data.add_argument("experiment", help="the experiment's file: experiments/NAME.py")
    data.add_argument(
        "--config", required=True, help="configs/X.py[:VARIANTS]; --config.PATH=VALUE changes a value"
    )
    data.add_argument("--write", metavar="FILE", help="write the manifests there, as JSON; a path to pin by")
    sync = verb("sync", syncing.sync, "send what the writers of a run have missed")
    sync.add_argument("run", help="a run directory")
    sync.add_argument("--seconds", type=float, default=300.0, help="how long it may take (default: 300)")
    sync.add_argument(
        "--allow", action="append", default=[], metavar="MODULE", help="a module of your own that has a writer"
    )
    reading.add(verb)
    proving.add(verb)
    return parser, verbs.choices
