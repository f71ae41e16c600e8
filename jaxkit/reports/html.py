"""HTML from plain values: what is not markup already is escaped, whatever a run directory holds."""

import html
import json
from typing import Any, NamedTuple


class Markup(NamedTuple):
    """Text that is HTML already."""

    text: str


def element(tag: str, *children: Any, **attributes: Any) -> Markup:
    """An element; children that are no `Markup` are escaped, None is left out, `class_` is the attribute class.

    Example:
        >>> element("td", "<script>", element("b", 1), class_="name").text
        '<td class="name">&lt;script&gt;<b>1</b></td>'
    """
    names = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items() if value is not None}
    written = "".join(f' {name}="{html.escape(str(value))}"' for name, value in names.items())
    return Markup(f"<{tag}{written}>{joined(*children).text}</{tag}>")


def joined(*children: Any) -> Markup:
    """Children one after the other."""
    texts = (child.text if isinstance(child, Markup) else html.escape(str(child)) for child in children)
    return Markup("".join(text for child, text in zip(children, texts) if child is not None))


def script_json(identifier: str, value: Any) -> Markup:
    """Data for a page's script, which nothing in it can leave.

    Raises:
        ValueError: nan or an infinity, which JSON does not have.

    Example:
        >>> script_json("data", "</script>").text
        '<script type="application/json" id="data">"\\\\u003c/script>"</script>'
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return Markup(f'<script type="application/json" id="{html.escape(identifier)}">{text}</script>')


def table(head: Any, rows: Any, *, class_: str | None = None) -> Markup:
    """A table in a box that scrolls sideways where the window is narrow; the first cell of a row names it."""
    line = lambda cells: element(
        "tr", element("th", cells[0], scope="row"), *(element("td", c) for c in cells[1:])
    )
    top = element("thead", element("tr", *(element("th", cell, scope="col") for cell in head)))
    body = element("tbody", *map(line, rows))
    return element("div", element("table", top, body, class_=class_), class_="scroll")


def folded(title: str, *children: Any, open_: bool = False) -> Markup:
    """Something long behind a line that opens it."""
    return element("details", element("summary", title), *children, open=("" if open_ else None))


def section(identifier: str, title: str, *children: Any) -> Markup:
    """A part of a page, with its heading."""
    return element("section", element("h2", title), *children, id=identifier)
