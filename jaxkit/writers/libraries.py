"""What the writers ask of libraries that may not be there: whether they are, and to keep quiet."""

import importlib.util
import os

from jaxkit.errors import UsageError

# To be set before a library is imported; what the user has set in the environment stays.
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_SILENT": "true",
    "WANDB_CONSOLE": "off",
    "WANDB_DISABLE_GIT": "true",
    "WANDB_DISABLE_CODE": "true",
    # Without a server that answers, a request would be tried again for minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
}


def need(writer: str, *libraries: str) -> None:
    """Checks that the libraries of a writer are installed, without importing them.

    Raises:
        UsageError: says what to install.

    Example:
        >>> need("a writer", "json", "there_is_no_such_library")
        Traceback (most recent call last):
        jaxkit.errors.UsageError: a writer needs there_is_no_such_library; pip install jaxkit[tracking]
    """
    missing = [name for name in libraries if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"{writer} needs {', '.join(missing)}; pip install jaxkit[tracking]")


def keep_quiet() -> None:
    """Turns off, for this process, what the libraries would send home, print or wait for."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
