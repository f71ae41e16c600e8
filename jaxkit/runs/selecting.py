"""Which runs, in which order, and what of them: the filters, sorting and columns of `jaxkit runs`."""

import ast
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxkit.configs import MISSING
from jaxkit.errors import UsageError, did_you_mean
from jaxkit.runs import rows

_CONDITION = re.compile(r"\s*(.+?)\s*(>=|<=|!=|==|=|>|<|~)\s*(.*?)\s*")
_SUMMARY = ("experiment", "status", "step", "num_steps", "fingerprint", "digest", "params_sha256", "error")
_NAMES = ("run", *_SUMMARY, "commit", "updated")


class Condition(NamedTuple):
    """One filter: the value under a name, an operator, and the text it is held against."""

    name: str
    operator: str
    text: str


def condition(text: str) -> Condition:
    """Reads a filter such as "status=finished" or "test/accuracy>=0.99".

    Raises:
        UsageError: no operator; no number where an order is asked for; no regular expression behind "~".

    Example:
        >>> condition("config.optimizer.learning_rate > 1e-3")
        Condition(name='config.optimizer.learning_rate', operator='>', text='1e-3')
    """
    found = _CONDITION.fullmatch(text)
    if not found:
        raise UsageError(f"--where: came {text!r}, wanted NAME, one of = != > >= < <= ~, and a value")
    name, operator, value = found.groups()
    made = Condition(name, "=" if operator == "==" else operator, value)
    if operator != "~" and value[:1] in tuple("=<>"):
        raise UsageError(f"--where: came {text!r}, wanted one of = != > >= < <= ~ before the value")
    if made.operator[0] in "<>" and not _is_number(made.text):
        raise UsageError(f"--where: came {text!r}, wanted a number behind {made.operator!r}, not {made.text!r}")
    if made.operator == "~":
        try:
            re.compile(made.text)
        except re.error as error:
            raise UsageError(f"--where: {made.text!r} is no regular expression: {error}") from error
    return made


def select(
    entries: Sequence[Mapping[str, Any]], conditions: Sequence[Condition], sort: Sequence[str] = ()
) -> list[Mapping[str, Any]]:
    """The entries of `index.runs` for which all conditions hold, sorted by names ("-NAME" from the largest).

    What a run does not have fails every condition but "!=", and is sorted last, with nan before it.

    Raises:
        UsageError: a name that no run has, with the nearest one.
    """
    check_names(entries, [c.name for c in conditions] + [name.removeprefix("-") for name in sort])
    found = [entry for entry in entries if all(_holds(value(entry, c.name), c) for c in conditions)]
    # The least of the names first: sorting is stable.
    for name in reversed(sort):
        plain, sign = name.removeprefix("-"), -1 if name.startswith("-") else 1
        texts = sorted({str(value(entry, plain)) for entry in found})
        rank = {text: place for place, text in enumerate(texts)}
        found.sort(key=lambda entry: _order(value(entry, plain), sign, rank))
    return found


def check_names(entries: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Raises a UsageError for a name that none of the runs has."""
    for name in names:
        if entries and name not in _NAMES and all(value(entry, name) is MISSING for entry in entries):
            known = list(dict.fromkeys(each for entry in entries for each in names_of(entry)))
            near = did_you_mean(name, known)
            # Where no name is like it, the first of those that a run has say what kind of names there are.
            there = f" There are: {', '.join(known[:12])}, ..." if near == "." else ""
            raise UsageError(f"no run has {name!r}{near}{there}")


def value(entry: Mapping[str, Any], name: str) -> Any:
    """What a run has under a name ("status", "config.seed", "timing.total", "test/accuracy"), or MISSING.

    Example:
        >>> entry = {"name": "a", "summary": {}, "config": {"seed": 3}, "values": {"loss": 0.5}}
        >>> value(entry, "run"), value(entry, "config.seed"), value(entry, "loss"), value(entry, "config.sed")
        ('a', 3, 0.5, (missing))
    """
    if name == "run":
        return entry["name"]
    if name in _SUMMARY:
        found = entry["summary"].get(name)
    elif name.startswith("config."):
        return _at(entry["config"], name.split(".")[1:])
    elif name.startswith("timing."):
        found = entry["summary"].get("timing", {}).get(name.removeprefix("timing."))
    else:
        found = entry.get(name) if name in ("commit", "updated") else entry["values"].get(name)
    return MISSING if found is None else found


def names_of(entry: Mapping[str, Any]) -> list[str]:
    """The names under which a run has a value."""
    timing = [f"timing.{name}" for name in entry["summary"].get("timing", {})]
    return [*_NAMES, *entry["values"], *timing, *_paths(entry["config"], "config")]


def _paths(tree: Any, where: str) -> list[str]:
    if not isinstance(tree, Mapping):
        return [where]
    return [path for key, below in tree.items() for path in _paths(below, f"{where}.{key}")]


def _at(tree: Any, path: Sequence[str]) -> Any:
    for key in path:
        if isinstance(tree, list) and key.isdecimal() and int(key) < len(tree):
            tree = tree[int(key)]
        elif isinstance(tree, Mapping) and key in tree:
            tree = tree[key]
        else:
            return MISSING
    if isinstance(tree, Mapping) and list(tree) == ["$float"]:
        return float(tree["$float"])
    return tree


_ORDERS: dict[str, Callable[[float, float], bool]] = {
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
}


def _holds(found: Any, wanted: Condition) -> bool:
    if wanted.operator in ("=", "!="):
        return (found is not MISSING and _equal(found, wanted.text)) == (wanted.operator == "=")
    if found is MISSING:
        return False
    if wanted.operator == "~":
        return re.search(wanted.text, str(found)) is not None
    number = rows.number(found)
    return number is not None and _ORDERS[wanted.operator](number, float(wanted.text))


def _equal(found: Any, text: str) -> bool:
    if str(found) == text or (isinstance(found, bool) and str(found).lower() == text.lower()):
        return True
    number = rows.number(found)
    if number is not None and _is_number(text):
        return number == float(text)
    if isinstance(found, list):
        try:
            return list(ast.literal_eval(text)) == found
        except (ValueError, TypeError, SyntaxError):
            return False
    return False


def _order(found: Any, sign: int, rank: Mapping[str, int]) -> tuple[int, float]:
    number = rows.number(found)
    if found is MISSING:
        return 3, 0.0
    if number is None:
        return 1, sign * rank[str(found)]
    return (2, 0.0) if math.isnan(number) else (0, sign * number)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
