"""Writers of a test's own, by name as a config names them."""

import json
import os
import signal
import sys
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


def odd(*, path: str, how: str) -> Writer:
    """Ends its process, leaves by sys.exit, hangs when it is closed, or keeps what is no JSON."""

    def write(step, values, wall):
        if how == "dies":
            os.kill(os.getpid(), signal.SIGSEGV)
        if how == "exits":
            sys.exit("I am off")
        with Path(path).open("a") as file:
            print(json.dumps([step, values]), file=file)

    close = lambda: time.sleep(3600 if how == "hangs" else 0)
    return Writer(write, close, lambda run: None, lambda: {"where": Path(path)} if how == "keeps" else {})


def nothing() -> None:
    """No writer at all."""
