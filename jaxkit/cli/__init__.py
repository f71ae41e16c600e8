"""The command `jaxkit`: look at an experiment before it runs, and at runs afterwards."""

import argparse
import io
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
    # A table in a locale of ASCII has "?" for its lines.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
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
            if sys.stdout is not None:
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

    planning.add(verb)
    pinning.add(verb)
    syncing.add(verb)
    reading.add(verb)
    proving.add(verb)
    return parser, verbs.choices
