"""`jaxkit sync`: what the writers of a run have missed, sent."""

import argparse
import json
from collections.abc import Callable

from jaxkit.cli import parsing
from jaxkit.errors import UsageError
from jaxkit.runs.text import printable

# A config from elsewhere may name these; others only if `--allow` does.
ALLOWED = ("jaxkit.writers.*",)


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the verb to a command line; `verb(name, function, text)` makes its parser."""
    parser = verb("sync", sync, "send what the writers of a run have missed")
    parser.add_argument("run", help="a run directory")
    parser.add_argument("--seconds", type=float, default=300.0, help="how long it may take (default: 300)")
    parser.add_argument(
        "--allow", action="append", default=[], metavar="MODULE", help="a module of your own that has a writer"
    )


def sync(arguments: argparse.Namespace) -> int:
    """Sends what each writer of a run has not been given; 0 where nothing is missing afterwards."""
    from jaxkit.runs import directory, rows, tracking

    run = parsing.path(arguments.run)
    config = directory.read_config(run)
    rows.read(run / directory.METRICS)  # what is no record is said here, not by the process that sends
    if directory.status(run)["status"] == "running":
        raise UsageError(f"{run}: is running, and sends as it goes; wait for its end")
    writers = config.get("writers", ())
    allow = (*ALLOWED, *arguments.allow)
    found = tracking.sync(run, writers, seconds=arguments.seconds, allow=allow)
    if arguments.json:
        print(json.dumps({"run": str(run), "writers": found}, indent=1))
    elif not found:
        print(f"{run}: has no writers in its config; its record is all there is")
    else:
        for row in found:
            state = (
                f"all is there, to step {row['step']}"
                if not row["error"]
                else f"{row['missing']} rows are missing"
            )
            error = f": {row['error']}" if row["error"] else ""
            print(printable(f"{row['writer']}: {row['sent']} rows sent, {state}{error}"))
    return int(any(row["error"] for row in found))
