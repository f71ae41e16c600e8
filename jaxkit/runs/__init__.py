"""The shell of a run: the command line, the loop, and what is written beside it.

Only here (and in `data`) are disk, clock, processes and environment touched.
"""

import importlib


def __getattr__(name: str):
    if name == "main":
        return importlib.import_module("jaxkit.runs.command").main
    try:
        return importlib.import_module(f"jaxkit.runs.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"jaxkit.runs.{name}":
            raise
        raise AttributeError(f"module 'jaxkit.runs' has no attribute {name!r}") from None
