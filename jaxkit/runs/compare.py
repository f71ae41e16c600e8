"""What two runs differ in: config, code, data, versions, devices, what they recorded and what they came to."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxkit import configs
from jaxkit.runs import code, directory, evaluations, files, rows

# What a run was made with beside its config, code and data. Not its command: the config says what that came to.
_ENVIRONMENT = ("python", "platform", "devices", "driver", "form")


def pair(a: Path, b: Path) -> dict[str, Any]:
    """Everything that two runs differ in, as plain data; what `jaxkit compare A B --json` prints.

    Raises:
        UsageError: not run directories, or damaged ones.
    """
    records = [rows.read(run / directory.METRICS) for run in (a, b)]
    summaries = [directory.summary(run, record) for run, record in zip((a, b), records)]
    origins = [files.read_json(run / directory.PROVENANCE) or {} for run in (a, b)]
    codes = [code.state(run, origin) for run, origin in zip((a, b), origins)]
    return {
        "runs": [summary["run"] for summary in summaries],
        "status": [summary["status"] for summary in summaries],
        "steps": [summary["step"] for summary in summaries],
        "fingerprints": [summary["fingerprint"] for summary in summaries],
        "params_sha256": [summary["params_sha256"] for summary in summaries],
        "record": record(*records),
        "config": [
            {"path": path, "a": x, "b": y}
            for path, (x, y) in differing_config([directory.read_config(run) for run in (a, b)]).items()
        ],
        "code": {
            "commits": [found["commit"] for found in codes],
            "dirty": [found["dirty"] for found in codes],
            **code.difference(a, b, (codes[0], codes[1])),
        },
        "data": data(*(files.part(origin, "data") for origin in origins)),
        "packages": differing(*(files.part(origin, "packages") for origin in origins)),
        "environment": differing(*(environment(origin) for origin in origins)),
        "metrics": beside([metrics(summary) for summary in summaries]),
        "timing": beside([summary["timing"] for summary in summaries]),
    }


def differing_config(trees: Sequence[configs.Frozen]) -> dict[str, list[str | None]]:
    """Where several configs differ, {path: values}, each value as Python writes it, None for what is not there.

    Example:
        >>> differing_config([configs.freeze({"seed": 1}), configs.freeze({"seed": 1.0}), configs.freeze({})])
        {'seed': ['1', '1.0', None]}
    """
    said = lambda value: None if value is configs.MISSING else repr(configs.thaw(value))
    return {path: list(map(said, values)) for path, values in configs.differing(trees).items()}


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The entries of two dicts that differ, both values of each; None for what is not there.

    Example:
        >>> differing({"jax": "0.10", "numpy": "2"}, {"jax": "0.11", "numpy": "2"})
        {'jax': ['0.10', '0.11']}
    """
    return {name: [a.get(name), b.get(name)] for name in dict.fromkeys((*a, *b)) if a.get(name) != b.get(name)}


def data(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, dict[str, list[Any]]]:
    """The entries of the data manifests that differ, split by split.

    Example:
        >>> data({"train": {"size": 3, "sha256": "a"}}, {"train": {"size": 4, "sha256": "a"}})
        {'train': {'size': [3, 4]}}
    """
    found = {split: differing(files.part(a, split), files.part(b, split)) for split in dict.fromkeys((*a, *b))}
    return {split: entries for split, entries in found.items() if entries}


def record(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Up to which step two records are identical, their digests and their values, and what differs first.

    Returns:
        {"identical_rows": how many, "rows": [of a, of b], "up_to": the last step that is the same (None for none),
        "first": None where one record is the beginning of the other, else
        {"steps": [a, b], "values": {name: [a, b]}}}

    Example:
        >>> one, other = [{"step": 5, "digest": "0", "loss": 1.0}], [{"step": 5, "digest": "1", "loss": 2.0}]
        >>> record(one, other)["first"]
        {'steps': [5, 5], 'values': {'loss': [1.0, 2.0]}}
    """
    # The values too: a hand that changes one leaves the digest.
    said = lambda row: {name: value for name, value in row.items() if name not in ("wall", "speed")}
    same = 0
    for x, y in zip(a, b):
        if said(x) != said(y):
            break
        same += 1
    first = None
    if same < min(len(a), len(b)):
        x, y = a[same], b[same]
        values = lambda row: {name: value for name, value in row.items() if name not in rows.BESIDE}
        first = {"steps": [x["step"], y["step"]], "values": differing(values(x), values(y))}
    return {
        "identical_rows": same,
        "rows": [len(a), len(b)],
        "up_to": a[same - 1]["step"] if same else None,
        "first": first,
    }


def metrics(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What a run came to, flat: that of the last evaluation, of a run without one what it recorded last."""
    found = {
        name: value
        for split, values in summary["evaluation"].items()
        for name, value in evaluations.flat(values, f"{split}/").items()
    }
    return found or {name: value for name, value in summary["newest"].items() if name not in rows.BESIDE}


def beside(columns: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The values of several dicts by name; None for what one does not have."""
    names = dict.fromkeys(name for column in columns for name in column)
    return {name: [column.get(name) for column in columns] for name in names}


def origin(provenance: Mapping[str, Any]) -> dict[str, str]:
    """What a run was made with beside its config, each thing as a text: code, data, versions, devices, flags.

    Example:
        >>> origin({"git": {"commit": "0" * 40}, "patch": {"bytes": 0}, "packages": {"jax": "0.10.2"}})
        {'code': '000000000000', 'jax': '0.10.2'}
    """
    said = lambda start: (
        f"{str(files.part(start, 'git').get('commit'))[:12]}{_patched(files.part(start, 'patch'))}"
    )
    starts = [provenance, *files.parts(provenance, "resumed")]
    code = ", then ".join(dict.fromkeys(map(said, starts)))
    data = files.part(provenance, "data")
    manifests = {f"data.{split}": str(files.part(data, split).get("sha256"))[:12] for split in data}
    packages = {name: str(version) for name, version in files.part(provenance, "packages").items()}
    return {"code": code, **manifests, **packages, **{k: str(v) for k, v in environment(provenance).items()}}


def _patched(patch: Mapping[str, Any]) -> str:
    return f" with changes {str(patch.get('sha256'))[:8]}" if patch.get("bytes") else ""


def environment(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What a run was made with beside its config, code, data and packages, flat."""
    flags = {f"${name}": value for name, value in files.part(provenance, "environment").items()}
    return {name: provenance[name] for name in _ENVIRONMENT if name in provenance} | flags
