"""Writers of a test's own, by name as a config names them."""

import json
import os
import time
from pathlib import Path

from jaxkit.types import Writer


def lines(*, path: str, fail_until: str = "", hang: bool = False, flushes: bool = True) -> Writer:
    """Appends JSON lines to a file; fails until another file exists, or hangs."""

    def open_(run):
        if hang:
            time.sleep(3600)

    def write(step, values, wall):
        if fail_until and not os.path.exists(fail_until):
            raise ConnectionError("nobody there")
        with Path(path).open("a") as file:
            print(json.dumps([step, values]), file=file)

    return Writer(write, lambda: None, open_, dict if flushes else lambda: None)


def ten_lines(*, path: str) -> Writer:
    """What a user writes."""
    write = lambda step, values, wall: print(step, values["loss"], file=Path(path).open("a"))  # noqa: SIM115
    return Writer(write, lambda: None)


def policy(*, path: str) -> Writer:
    """Notes when the system lets its thread run, and in which session: Linux gives each a share of its own."""
    write = lambda step, values, wall: Path(path).write_text(f"{os.sched_getscheduler(0)} {os.getsid(0)}")
    return Writer(write, lambda: None)


def nothing() -> None:
    """No writer at all."""
