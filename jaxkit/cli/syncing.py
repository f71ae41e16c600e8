"""`jaxkit sync`: what the writers of a run have missed, sent."""

import argparse
import json
from pathlib import Path

from jaxkit.errors import UsageError
from jaxkit.runs.text import printable

# A config from elsewhere may name these; others only if `--allow` does.
ALLOWED = ("jaxkit.writers.*",)


def sync(arguments: argparse.Namespace) -> int:
    """Sends what each writer of a run has not been given; 0 where nothing is missing afterwards."""
    from jaxkit.runs import directory, rows, tracking

    run = Path(arguments.run)
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
