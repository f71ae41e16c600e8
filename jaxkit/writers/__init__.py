"""Writers: where the rows of a run go beside its own record, chosen in its config, any number at once.

    config.writers = (
        {"call": "jaxkit.writers.tensorboard"},
        {"call": "jaxkit.writers.mlflow", "uri": "http://127.0.0.1:5000", "experiment": "digits"},
        {"call": "jaxkit.writers.wandb", "project": "digits", "mode": "online"},
    )

Your own is a function that returns a `types.Writer`. The libraries are imported when the first row is sent, in
the process that sends it, with their telemetry off. No file has the name of its function: importing it would
hide the function.
"""

import importlib
from typing import Any

_MODULE_OF = {"mlflow": "mlflow_runs", "tensorboard": "event_files", "wandb": "wandb_runs"}

__all__ = [*_MODULE_OF]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"jaxkit.writers.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'jaxkit.writers' has no attribute {name!r}; it has: {', '.join(_MODULE_OF)}")


def __dir__() -> list[str]:
    return [*_MODULE_OF]
