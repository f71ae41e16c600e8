"""The shell of a run: the command line, the loop, and what is written beside it.

Only here (and in `data`) are disk, clock, processes and environment touched.
"""

import importlib

_MODULE_OF = {"main": "command", "reopen": "reopening"}


def __getattr__(name: str):
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"jaxkit.runs.{_MODULE_OF[name]}"), name)
    try:
        return importlib.import_module(f"jaxkit.runs.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"jaxkit.runs.{name}":
            raise
        raise AttributeError(f"module 'jaxkit.runs' has no attribute {name!r}") from None
