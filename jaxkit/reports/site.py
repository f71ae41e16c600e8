"""What the dashboard answers: a function of the runs' directory and a request, without a socket."""

import json
import os
import threading
import time
import urllib.parse
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxkit import configs
from jaxkit.errors import UsageError
from jaxkit.reports import report
from jaxkit.runs import compare, directory, files, index, rows, selecting

# A reply is kept to what a browser takes at once; the rest comes with the next one. No row is longer.
CHUNK_BYTES = 2**21
_SECONDS_BETWEEN_LOOKS = 1.0
# Looking at thousands of runs is no reason to take the training's processor.
_SHARE_OF_TIME = 0.1

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_STATIC = {
    "/": ("dashboard.html", "text/html"),
    "/style.css": ("style.css", "text/css"),
    "/dashboard.css": ("dashboard.css", "text/css"),
    "/charts.js": ("charts.js", "text/javascript"),
    "/table.js": ("table.js", "text/javascript"),
    "/dashboard.js": ("dashboard.js", "text/javascript"),
}


class Reply(NamedTuple):
    """Status, content type and body of an answer, and headers beside those that all have."""

    status: int
    kind: str
    body: bytes
    headers: Mapping[str, str] = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-store"}


class Site(NamedTuple):
    """The runs' directory, and `entries()`: {name: entry}, as fresh as a look every now and then makes them."""

    top: Path
    entries: Callable[[], Mapping[str, Mapping[str, Any]]]


def site(top: Path) -> Site:
    """A site over the runs below a directory.

    Raises:
        UsageError: there is no such directory, or it is a run.
    """
    lock, found, due = threading.Lock(), {entry["name"]: entry for entry in index.runs(top)}, 0.0

    def entries() -> Mapping[str, Mapping[str, Any]]:
        nonlocal found, due
        with lock:
            began = time.monotonic()
            if began >= due:
                found = {entry["name"]: entry for entry in index.runs(top)}
                done = time.monotonic()
                due = done + max(_SECONDS_BETWEEN_LOOKS, (done - began) / _SHARE_OF_TIME)
            return found

    return Site(top, entries)


def answer(site: Site, target: str) -> Reply:
    """The reply to GET `target`, a path with a query."""
    parts = urllib.parse.urlsplit(target)
    query = urllib.parse.parse_qs(parts.query, keep_blank_values=True)
    if parts.path in _STATIC:
        name, kind = _STATIC[parts.path]
        return Reply(200, f"{kind}; charset=utf-8", report.static(name).encode())
    made = _MADE.get(parts.path)
    if made is None:
        return _error(404, "there is no such page")
    try:
        return made(site, query)
    except KeyError as error:
        return _error(404, f"there is no run {error.args[0]!r}")
    except (UsageError, OSError) as error:
        return _error(409, str(error))


def _plotly(site: Site, query: Mapping[str, list[str]]) -> Reply:
    # The address has the version of the package in it, so that it may be kept.
    body = report.plotly().encode()
    return Reply(200, "text/javascript; charset=utf-8", body, {"Cache-Control": "max-age=86400"})


def _runs(site: Site, query: Mapping[str, list[str]]) -> Reply:
    """The runs for which all of `where` holds, or that nothing changed since `version`."""
    conditions = [selecting.condition(text) for text in query.get("where", [])]
    entries = list(site.entries().values())
    listed = [_listed(entry) for entry in selecting.select(entries, conditions)]
    body = json.dumps(listed, allow_nan=False).encode()
    version = f"{zlib.crc32(body):08x}-{len(body)}"
    found = {"version": version, "directory": str(site.top), "total": len(entries)}
    return _json(found if query.get("version") == [version] else {**found, "runs": listed})


def _listed(entry: Mapping[str, Any]) -> dict[str, Any]:
    summary = entry["summary"]
    keys = ("status", "step", "num_steps", "experiment", "error")
    found = {key: summary[key] for key in keys if key in summary}
    return {"name": entry["name"], **found, "values": _numbers(entry["values"]), "spark": entry["spark"]} | {
        "updated": rows.finite(entry["updated"])
    }


def _rows(site: Site, query: Mapping[str, list[str]]) -> Reply:
    """The rows of a run behind an offset, where the one that ends there has the digest that was named.

    The digests are a chain: if the last row is the same, so is all before it. Else the rows come from the start.
    """
    path = _path(site, query["run"][0] if "run" in query else "") / directory.METRICS
    digest = query.get("digest", [""])[0]
    offset = int(query.get("offset", ["0"])[0][:18]) if query.get("offset", ["0"])[0].isdecimal() else 0
    with files.opened(path) as file:
        start = offset if _ends_with(file, offset, digest) else 0
        file.seek(start)
        content = file.read(CHUNK_BYTES)
        full = len(content) == CHUNK_BYTES
    content = content[: content.rfind(b"\n") + 1]
    found, broken = rows.parse(content)
    end = start + len(content)
    values = [[row["step"], rows.finite(row.get("wall")), _numbers(row)] for row in found]
    return _json(
        {
            "restart": start == 0,
            "rows": values,
            "offset": end,
            "digest": found[-1]["digest"] if found else (digest if start else ""),
            # Only where it has gone on: else the same would be asked again at once, without an end.
            "more": full and not broken and end > offset,
            "damaged": broken or (full and not content),
        }
    )


def _ends_with(file: Any, offset: int, digest: str) -> bool:
    if not (0 < offset <= os.fstat(file.fileno()).st_size and digest):
        return False
    begin = max(0, offset - CHUNK_BYTES)
    file.seek(begin)
    content = file.read(offset - begin)
    if not content.endswith(b"\n"):
        return False
    found, _ = rows.parse(content[content.rfind(b"\n", 0, -1) + 1 :])
    return bool(found) and found[-1]["digest"] == digest


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are numbers; nan and infinities as None, a gap."""
    return {
        name: rows.finite(value)
        for name, value in values.items()
        if name not in rows.BESIDE and rows.number(value) is not None
    }


def _config(site: Site, query: Mapping[str, list[str]]) -> Reply:
    """Of one run its config, of several where they differ."""
    names = query.get("run", [])
    trees = [directory.read_config(_path(site, name)) for name in names]
    if len(trees) == 1:
        return _json({"text": configs.to_json(trees[0])})
    differing = compare.differing_config(trees)
    return _json({"runs": names, "differences": list(differing.items())})


def _report(site: Site, query: Mapping[str, list[str]]) -> Reply:
    html = report.html([_path(site, name) for name in query.get("run", [])] or [site.top])
    # The page brings a policy of its own, with the hashes of its scripts.
    return Reply(200, "text/html; charset=utf-8", html.encode(), {"Cache-Control": "no-store"})


def _path(site: Site, name: str) -> Path:
    """The directory of a run that was found; no name that a request makes up leads anywhere."""
    if name not in site.entries():
        raise KeyError(name)
    return site.top / name


_MADE: dict[str, Callable[[Site, Mapping[str, list[str]]], Reply]] = {
    "/plotly.js": _plotly,
    "/api/runs": _runs,
    "/api/rows": _rows,
    "/api/config": _config,
    "/report": _report,
}


def _json(value: Any) -> Reply:
    return Reply(200, "application/json", json.dumps(value, allow_nan=False).encode())


def _error(status: int, text: str) -> Reply:
    return Reply(status, "application/json", json.dumps({"error": text}).encode())
