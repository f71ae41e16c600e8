"""The sections of a report that are looked at: curves, calibration, mistakes."""

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any

from jaxkit.reports import gather
from jaxkit.reports.gather import Run
from jaxkit.reports.html import Markup, element, folded, joined, section
from jaxkit.runs import rows

_THINNED = (
    "Of a long record a page holds stretches: the curve is drawn through the lowest and the highest value of each,"
    " smoothed are their means."
)


def curves(runs: Sequence[Run]) -> Markup | None:
    """Places for the charts, which the page's script draws from `charts`."""
    if not any(run.curves for run in runs):
        return None
    lost = [
        f"{run.name}: {name} is not finite from step {curve['lost']:,}"
        for run in runs
        for name, curve in run.curves.items()
        if curve["lost"] is not None
    ]
    controls = Markup(
        '<div class="controls">'
        '<label>smoothing <input type="range" id="smoothing" min="0" max="0.99" step="0.01" value="0"></label>'
        '<label><input type="checkbox" id="log"> log scale</label>'
        '<label>over <select id="axis"><option value="step">steps</option>'
        '<option value="seconds">time</option></select></label></div>'
    )
    thinned = any("means" in curve for run in runs for curve in run.curves.values())
    note = element("p", _THINNED) if thinned else None
    warnings = element("p", *(element("span", line, class_="warning") for line in lost)) if lost else None
    legend = element("div", class_="legend", id="legend")
    boxes = element("div", class_="charts", id="main-charts")
    more = folded("More curves", element("div", class_="charts", id="more-charts"))
    return section("curves", "Curves", controls, note, warnings, legend, boxes, more)


def charts(runs: Sequence[Run]) -> dict[str, Any]:
    """What the page's script draws: the runs by name, their curves, their reliability diagrams."""
    return {
        "runs": [run.name for run in runs],
        "curves": [run.curves for run in runs],
        "reliability": [gather.reliability(run.evaluation) for run in runs],
    }


def calibration(runs: Sequence[Run]) -> Markup | None:
    """A place for the reliability diagrams, with how to read them."""
    if not any(gather.reliability(run.evaluation) for run in runs):
        return None
    text = (
        "Of the examples that a run is so sure of, the share that it has right; on the diagonal it is calibrated."
    )
    return section(
        "calibration", "Calibration", element("p", text), element("div", class_="charts", id="reliability-charts")
    )


def mistakes(runs: Sequence[Run]) -> Markup | None:
    """What the runs were most wrong about, and what their models write."""
    found: list[Markup] = []
    for run in runs:
        caption = element("h3", run.name) if len(runs) > 1 else None
        if run.mistakes:
            worst = [_mistake(entry) for entry in run.mistakes["worst"]]
            counts = f"{run.mistakes.get('wrong')} of {run.mistakes.get('examples')} wrong"
            wrong = f"{counts}; those with the least probability on the label:"
            found.append(joined(caption, element("p", wrong), element("div", *worst, class_="sheet")))
        elif run.picture:
            image = _image(base64.b64encode(run.picture).decode(), "Learning curves and the worst mistakes")
            found.append(joined(caption, element("figure", image)))
        if run.samples:
            found.append(joined(caption, element("pre", run.samples)))
    return section("mistakes", "Worst mistakes and samples", *found) if found else None


def _mistake(entry: Mapping[str, Any]) -> Markup:
    label, guess = entry.get("label"), entry.get("guess")
    said = f"{label} as {guess}, {_share(entry.get('probability'))}"
    caption = element("figcaption", said, class_="warning" if label != guess else None)
    return element("figure", _image(entry["image"], said), caption, title=f"example {entry.get('index')}")


def _share(value: Any) -> str:
    found = rows.finite(value)
    return "" if found is None else f"{found:.0%}"


def _image(content: str, text: str) -> Markup:
    # No element(): it has no end tag. The content was decoded once: it is nothing but base64.
    return Markup(f'<img src="data:image/png;base64,{html.escape(content)}" alt="{html.escape(text)}">')
