"""What a config calls, looked at before anything is called."""

from collections.abc import Iterator, Sequence
from typing import Any

from jaxkit.configs.frozen import Frozen, freeze
from jaxkit.configs.resolving import Outside, resolve
from jaxkit.errors import UsageError


def check_calls(config: Any, *, allow: Sequence[str]) -> None:
    """Checks that a config from elsewhere calls only into `allow`; what is allowed is imported, nothing is called.

    Raises:
        UsageError: names the path and what it calls.

    Example:
        >>> check_calls({"loss": {"function": "os.system"}}, allow=("optax",))
        Traceback (most recent call last):
        jaxkit.configs.resolving.Outside: config.loss.function: 'os.system' is outside what ...
    """
    for where, name in _calls(freeze(config), "config"):
        try:
            resolve(name, where=where, allow=allow)
        except Outside:
            raise
        except UsageError:
            continue  # there is no such function here: whoever builds the config, with the code it is for, says so


def _calls(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    if type(value) is tuple:
        for index, item in enumerate(value):
            yield from _calls(item, f"{where}.{index}")
    elif isinstance(value, Frozen):
        yield from ((f"{where}.{word}", value[word]) for word in ("call", "function") if word in value)
        for key, item in value.items():
            yield from _calls(item, f"{where}.{key}")
