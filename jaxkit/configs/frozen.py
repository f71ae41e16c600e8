"""A config: an immutable tree of plain, typed data, and the one text that stands for it.

It holds None, bool, int, float, str, tuples and dicts with str keys, nothing else. A list becomes a tuple: a
config cannot change, so the two would mean the same.
"""

import functools
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from jaxkit.errors import UsageError, did_you_mean


class MissingField(UsageError, AttributeError, KeyError):
    """A config has no such field; an AttributeError and a KeyError, so `hasattr` and `in` work."""

    __str__ = Exception.__str__  # KeyError's own shows the repr of the message


# A class of our own, because ml_collections.FrozenConfigDict raises on {"a": (), "b": []} and on dicts in
# tuples, and holds 1 and 1.0 to be equal.
class Frozen(Mapping[str, Any]):
    """An immutable config, read as `config.optimizer.weight_decay` or `config["optimizer"]`.

    A key with the name of a method of dicts ("values", "items") is read by item. Two are equal when their
    canonical JSON is: 1, 1.0 and True differ, nan equals nan. Keys are sorted, so a config and what was
    read back from its JSON give the same order to whoever iterates.

    Example:
        >>> config = Frozen({"seed": 0, "model": {"call": "jaxkit.models.cnn", "features": [32, 64]}})
        >>> config.model.features
        (32, 64)
        >>> config.sed
        Traceback (most recent call last):
        jaxkit.configs.frozen.MissingField: config has no 'sed'; did you mean 'seed'? It has: model, seed
    """

    __slots__ = ("_items", "_where")

    def __init__(self, tree: Any, where: str = "config") -> None:
        keys = list(tree.keys())
        for key in keys:
            _check_key(key, where)
        items = {key: frozen_value(tree[key], f"{where}.{key}") for key in sorted(keys)}
        object.__setattr__(self, "_items", items)
        object.__setattr__(self, "_where", where)

    def __getitem__(self, key: str) -> Any:
        try:
            return self._items[key]
        except KeyError:
            # From None: the line says it all.
            raise MissingField(no_field(self, key)) from None

    def __getattr__(self, name: str) -> Any:
        return self[name]

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise TypeError(f"{place(self)} is frozen; configs.replace(config, {{path: value}}) makes another")

    def __delattr__(self, name: str) -> NoReturn:
        self.__setattr__(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._items]

    def __eq__(self, other: object) -> bool:
        if not is_mapping(other):
            return NotImplemented
        try:
            return to_json(self) == to_json(other)
        except UsageError:
            return False

    def __hash__(self) -> int:
        return hash(to_json(self))

    def __repr__(self) -> str:
        return f"Frozen({thaw(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(Frozen, where=place(self)), (thaw(self),)


def place(config: Frozen) -> str:
    """Where in its tree a config stands, for messages: "config.optimizer"."""
    return object.__getattribute__(config, "_where")


def no_field(config: Frozen, key: Any) -> str:
    """The message that `config` has no such field."""
    return f"{place(config)} has no {key!r}{did_you_mean(str(key), config)} It has: {', '.join(config)}"


def is_mapping(value: Any) -> bool:
    """Whether it is a dict of some kind; ml_collections.ConfigDict is no Mapping, but has `keys`."""
    return isinstance(value, Mapping) or (
        hasattr(type(value), "keys") and hasattr(type(value), "__getitem__")
    )


def frozen_value(value: Any, where: str) -> Any:
    """The value with every dict in it a `Frozen` and every list a tuple."""
    # Exact types: numpy.float64 is a float, and an IntEnum an int, that JSON would not give back.
    if value is None or type(value) in (bool, int, float):
        return value
    if type(value) is str:
        _check_text(value, where)
        return value
    if type(value) in (tuple, list):
        return tuple(frozen_value(item, f"{where}.{index}") for index, item in enumerate(value))
    if isinstance(value, Frozen) and place(value) == where:
        return value
    if is_mapping(value):
        return Frozen(value, where)
    raise UsageError(f"{where}: came {_came(value)}")


def _check_text(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{where}: came {text!r}, which is not valid Unicode text") from None


def _check_key(key: Any, where: str) -> None:
    # "." and "=" divide a flag, --config.path=value; "$" marks what JSON has no word for.
    if type(key) is not str or not key or key[0] == "$" or "." in key or "=" in key:
        raise UsageError(f"{where}: came the key {key!r}, wanted a str without '.' and '=', not starting with '$'")
    _check_text(key, where)


def _came(value: Any) -> str:
    kind = f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")
    name = getattr(value, "__name__", None)
    if callable(value) and name:
        module = getattr(value, "__module__", None) or ""
        # A private module (jax._src.nn) is not the name to write down.
        package = "PACKAGE" if not module or "._" in module or module == "__main__" else module
        kind = "class" if isinstance(value, type) else "function"
        return f"{kind} {name}; write {{'function': '{package}.{name}'}}, the name it is imported by"
    if hasattr(value, "tolist"):
        return f"{kind}; write its plain value, x.tolist()"
    if isinstance(value, os.PathLike):
        return f"{kind}; write str(path)"
    return f"{kind}; a config holds None, bool, int, float, str, tuples, lists and dicts"


def freeze(tree: Any, *, where: str = "config") -> Frozen:
    """The immutable config of a tree of dicts (also ml_collections.ConfigDict), tuples, lists and plain values.

    Raises:
        UsageError: names the path of what a config cannot hold, and what to write instead.

    Example:
        >>> freeze({"model": {"features": [16, 32]}}).model["features"]
        (16, 32)
    """
    if not is_mapping(tree):
        raise UsageError(f"{where}: came {type(tree).__name__}, wanted a dict")
    return frozen_value(tree, where)


def thaw(config: Any) -> Any:
    """A copy of plain dicts (and tuples), free to be changed and frozen again.

    Example:
        >>> thaw(freeze({"model": {"features": [16, 32]}}))
        {'model': {'features': (16, 32)}}
    """
    if isinstance(config, Frozen):
        return {key: thaw(value) for key, value in config.items()}
    return tuple(thaw(item) for item in config) if type(config) is tuple else config


def to_json(config: Any) -> str:
    r"""The canonical JSON: equal configs, types included, give equal text, and no others do.

    What JSON cannot say is an object with one key: {"$float": "nan"}. Floats have a point or an exponent.

    Raises:
        UsageError: see `freeze`.

    Example:
        >>> print(to_json({"rate": 1.0, "features": (16, 32), "limit": float("inf")}), end="")
        {
          "features": [16, 32],
          "limit": {"$float": "inf"},
          "rate": 1.0
        }
    """
    return _text(freeze(config), "\n") + "\n"


def _text(value: Any, newline: str) -> str:
    if isinstance(value, Frozen):
        inner = newline + "  "
        rows = [f"{inner}{json.dumps(key)}: {_text(item, inner)}" for key, item in value.items()]
        return "{" + ",".join(rows) + newline + "}" if rows else "{}"
    if type(value) is tuple:
        return "[" + ", ".join(_text(item, newline) for item in value) + "]"
    if type(value) is float and not math.isfinite(value):
        return f'{{"$float": "{value}"}}'
    return json.dumps(value)


def from_json(text: str) -> Frozen:
    """The config whose canonical JSON this is, with every type as it was.

    Raises:
        UsageError: not JSON, or not of a config.

    Example:
        >>> from_json('{"rate": 1.0, "features": [16]}')
        Frozen({'features': (16,), 'rate': 1.0})
    """
    try:
        tree = json.loads(text, object_pairs_hook=_object)
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"config: not the JSON of a config: {error}") from error
    return freeze(tree)


def _object(pairs: list[tuple[str, Any]]) -> Any:
    if len(pairs) == 1 and pairs[0][0] == "$float":
        return float(pairs[0][1])
    tree = dict(pairs)
    if len(tree) < len(pairs):
        raise UsageError(f"config: a key comes twice in {[key for key, _ in pairs]}")
    return tree


def fingerprint(config: Any) -> str:
    """SHA-256, in hexadecimal, of the canonical JSON: what `sha256sum config.json` prints.

    Raises:
        UsageError: see `freeze`.

    Example:
        >>> fingerprint({"a": 1}) == fingerprint({"a": 1.0})
        False
    """
    return hashlib.sha256(to_json(config).encode()).hexdigest()
