"""The fields that every config has, and those that it may have."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxkit.configs.frozen import Frozen, freeze, place, thaw
from jaxkit.errors import UsageError, did_you_mean


class _Field(NamedTuple):
    wanted: str
    fits: Callable[[Any], bool]


def _whole(minimum: int) -> _Field:
    # Steps are counted in int32, on the devices too.
    fits = lambda value: type(value) is int and minimum <= value < 2**31
    return _Field(f"an int from {minimum} to 2**31 - 1", fits)


def _is_component(value: Any) -> bool:
    return isinstance(value, Frozen) and ("call" in value) != ("function" in value)


_COMPONENT = _Field("a dict with 'call' or 'function'", _is_component)

WRITERS = _Field(
    "a tuple of dicts with 'call' or 'function'",
    lambda value: type(value) is tuple and all(map(_is_component, value)),
)

_FIELDS = {
    # jax.random.key keeps 32 bits of a seed: 2**32 would give the numbers of 0.
    "seed": _Field("an int from 0 to 2**32 - 1", lambda value: type(value) is int and 0 <= value < 2**32),
    "num_steps": _whole(1),
    "batch_size": _whole(1),
    "log_every": _whole(1),
    "eval_every": _whole(1),
    "checkpoint_every": _whole(1),
    "data": _Field("a dict", lambda value: isinstance(value, Frozen)),
    "model": _COMPONENT,
    "loss": _COMPONENT,
    "optimizer": _COMPONENT,
    "layout": _COMPONENT,
    "writers": WRITERS,
}


def _is_stop_rule(value: Any) -> bool:
    if not isinstance(value, Frozen) or set(value) - {"nonfinite", "spike"}:
        return False
    spike = value.get("spike")
    number = isinstance(spike, int | float) and type(spike) is not bool and spike > 1
    return type(value.get("nonfinite", True)) is bool and (spike is None or number)


# What a config may have; where it has not, what holds is said by who reads it.
_OPTIONAL = {
    "stop_on": _Field('{"nonfinite": True or False, "spike": None or a number above 1}', _is_stop_rule),
}

# The likeness of two names of 7 letters, as difflib has it, when one is changed, swapped, missing or too much.
_A_LETTER_AWAY = 0.85


def check_fields(config: Any) -> Frozen:
    """The config, frozen, after a look that it has the fields of every config, each of its type.

    Raises:
        UsageError: names the path, what came and what was wanted; a field of the experiment's own whose name is a
            letter away from one that the config may have, and has not.

    Example:
        >>> check_fields({"seed": 0, "num_step": 100})
        Traceback (most recent call last):
        jaxkit.errors.UsageError: config has no 'num_steps'; is it the 'num_step' there? Every config has: ...
    """
    config = freeze(config)
    where = place(config)
    for name, field in _FIELDS.items():
        if name not in config:
            near = did_you_mean(name, set(config) - set(_FIELDS))
            near = near.replace("did you mean", "is it the").replace("?", " there?")
            raise UsageError(f"{where} has no {name!r}{near} Every config has: {', '.join(_FIELDS)}")
        if not field.fits(config[name]):
            raise UsageError(f"{where}.{name}: came {thaw(config[name])!r}, wanted {field.wanted}")
    for name, field in _OPTIONAL.items():
        if name in config and not field.fits(config[name]):
            raise UsageError(f"{where}.{name}: came {thaw(config[name])!r}, wanted {field.wanted}")
        if name not in config:
            _check_not_misspelt(config, name, where)
    return config


def _check_not_misspelt(config: Frozen, name: str, where: str) -> None:
    """Nobody would miss a field that a config need not have: what is a letter away from it is taken for it."""
    import difflib

    own = set(config) - set(_FIELDS) - set(_OPTIONAL)
    for near in difflib.get_close_matches(name, own, n=1, cutoff=_A_LETTER_AWAY):
        raise UsageError(
            f"{where} has no {name!r}; is it the {near!r} there? If that is a field of the experiment's own,"
            f" name it otherwise, or say {name!r} too"
        )
