"""How numbers and names are shown: short, and unable to move a terminal's cursor."""

import time
from typing import Any

from jaxkit.runs import rows


def printable(text: str) -> str:
    r"""The text with every character that a terminal would act on replaced; lines stay lines.

    Example:
        >>> printable("run\x1b[2J\tone")
        'run\ufffd[2J\tone'
    """
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def number(value: Any) -> str:
    """A number in a few digits, anything else as it is.

    Example:
        >>> number(0.99444444), number(12345), number(17862.45), number(3.2e-07), number("nan"), number(10**400)
        ('0.9944', '12,345', '17,862', '3.2e-07', 'nan', 'inf')
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return printable(str(value))
    found = rows.number(value) or 0.0
    whole = isinstance(value, int) and abs(value) < 10**15
    return f"{value:,}" if whole else f"{found:,.0f}" if 1e4 <= abs(found) < 1e12 else f"{found:.4g}"


def moment(wall: Any) -> str:
    """A moment in seconds since the epoch as date and time here; "" for what is none.

    Example:
        >>> len(moment(1.7e9)), moment(1e18), moment(10**400), moment("nan"), moment(None)
        (16, '', '', '', '')
    """
    found = rows.finite(wall)
    try:
        return "" if found is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(found))
    except (ValueError, OverflowError, OSError):  # beyond what a calendar has
        return ""


def seconds(value: float) -> str:
    """A duration.

    Example:
        >>> seconds(0.0213), seconds(75), seconds(7260)
        ('0.021 s', '1 min 15 s', '2 h 1 min')
    """
    if value < 59.5:
        return f"{value:.2g} s" if value < 9.5 else f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
