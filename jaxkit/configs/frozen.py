"""A config: an immutable tree of plain, typed data, and the one text that stands for it.

It holds None, bool, int, float, str, tuples and dicts with str keys, nothing else. A list becomes a tuple: a
config cannot change, so the two would mean the same.
"""

import functools
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from jaxkit.configs.leaves import came, check_key, check_text, is_mapping
from jaxkit.errors import UsageError, did_you_mean

# Python writes no int of more than 4,300 digits, and reads none.
_MOST_BITS = 14_000


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
        >>> hasattr(config, "sed"), config == {"seed": 0.0, "model": config.model}
        (False, False)
    """

    __slots__ = ("_items", "_where")

    def __init__(self, tree: Any, where: str = "config") -> None:
        keys = list(tree.keys())
        for key in keys:
            check_key(key, where)
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
            return text(self) == text(freeze(other))
        except UsageError:
            return False

    def __hash__(self) -> int:
        return hash(text(self))

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


def frozen_value(value: Any, where: str) -> Any:
    """The value with every dict in it a `Frozen` and every list a tuple."""
    # Exact types: numpy.float64 is a float, and an IntEnum an int, that JSON would not give back.
    if type(value) is int and value.bit_length() > _MOST_BITS:
        raise UsageError(
            f"{where}: came an int of {value.bit_length():,} bits, wanted one of {_MOST_BITS:,} at most"
        )
    if value is None or type(value) in (bool, int, float):
        return value
    if type(value) is str:
        check_text(value, where)
        return value
    if type(value) in (tuple, list):
        return tuple(frozen_value(item, f"{where}.{index}") for index, item in enumerate(value))
    if isinstance(value, Frozen) and place(value) == where:
        return value
    if is_mapping(value):
        return Frozen(value, where)
    raise UsageError(f"{where}: came {came(value)}")


def freeze(tree: Any, *, where: str | None = None) -> Frozen:
    """The immutable config of dicts (ml_collections.ConfigDict too), tuples, lists and plain values.

    Args:
        tree: what to freeze; what is frozen already stays as it is.
        where: its path, for messages; "config" where it is not said.

    Raises:
        UsageError: names the path of what a config cannot hold, and what to write instead.

    Example:
        >>> freeze({"model": {"features": [16, 32]}}).model["features"]
        (16, 32)
    """
    if where is None:
        where = place(tree) if isinstance(tree, Frozen) else "config"
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
    return text(freeze(config)) + "\n"


def text(value: Any, newline: str = "\n") -> str:
    """The canonical JSON of one frozen value, without the line's end; `newline` ends with the indent."""
    if isinstance(value, Frozen):
        inner = newline + "  "
        rows = [f"{inner}{json.dumps(key)}: {text(item, inner)}" for key, item in value.items()]
        return "{" + ",".join(rows) + newline + "}" if rows else "{}"
    if type(value) is tuple:
        return "[" + ", ".join(text(item, newline) for item in value) + "]"
    if type(value) is float and not math.isfinite(value):
        return f'{{"$float": "{value}"}}'
    return json.dumps(value)


def from_json(document: str) -> Frozen:
    """The config whose canonical JSON this is, with every type as it was.

    Raises:
        UsageError: not JSON, or not of a config.

    Example:
        >>> from_json('{"rate": 1.0, "features": [16]}')
        Frozen({'features': (16,), 'rate': 1.0})
    """
    try:
        tree = json.loads(document, object_pairs_hook=_object)
    except UsageError:
        raise
    except (ValueError, TypeError) as error:
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
