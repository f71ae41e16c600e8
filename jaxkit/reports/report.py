"""The report of some runs: one HTML file that asks nothing of any network."""

import base64
import hashlib
import importlib.resources
from collections.abc import Sequence
from pathlib import Path

from jaxkit.errors import UsageError
from jaxkit.reports import gather, page, pictures
from jaxkit.reports.html import Markup, element, joined, script_json

# Nothing is loaded, and no script runs but those whose hashes stand in the page.
_POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {hashes};"
    " base-uri 'none'; form-action 'none'"
)


def html(workdirs: Sequence[Path]) -> str:
    """The report of some runs as a page that is whole in itself: curves, config, provenance, calibration, timing.

    Raises:
        UsageError: not run directories, or damaged ones; plotly is not installed.
    """
    runs = gather.runs(workdirs)
    scripts = [plotly(), static("charts.js"), static("report.js")]
    parts = (page.results, pictures.curves, pictures.calibration, pictures.mistakes)
    found = [part(runs) for part in (*parts, page.config, page.provenance, page.timing)]
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    head = joined(
        Markup('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">'),
        element("title", f"{title} - jaxkit"),
        element("style", Markup(static("style.css"))),
    )
    body = joined(
        element("main", element("header", page.headline(runs)), *found, class_="report"),
        script_json("data", pictures.charts(runs)),
        *(element("script", Markup(script)) for script in scripts),
    )
    whole = f"<!DOCTYPE html>\n{element('html', element('head', head), element('body', body), lang='en').text}\n"
    # A name on disk may be any bytes, and JSON can say half a character: neither goes into a page.
    return whole.encode(errors="replace").decode()


def plotly() -> str:
    """The script of Plotly, as the package has it.

    Raises:
        UsageError: the package is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise UsageError("curves need Plotly: pip install jaxkit[report]") from None
    return get_plotlyjs()


def static(name: str) -> str:
    """A file of the package, as text."""
    return importlib.resources.files("jaxkit.reports").joinpath("static", name).read_text(encoding="utf-8")


def _policy(scripts: Sequence[str]) -> str:
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    return _POLICY.format(hashes=" ".join(f"'sha256-{digest}'" for digest in digests))
