"""`jaxkit show`: what one run came to, and where it came from."""

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from jaxkit.cli import parsing, tables
from jaxkit.runs.text import moment, number, printable, seconds

_TIMING = {
    "steps_per_second": "steps/s",
    "examples_per_second": "examples/s",
    "tokens_per_second": "tokens/s",
    "model_flops_utilisation": "of the peak FLOPs",
    "to_first_step": "to the first step",
    "evaluating_and_saving": "evaluating and saving",
    "waiting_for_data": "waiting for data",
    "total": "in all",
}
_RATES = ("steps_per_second", "examples_per_second", "tokens_per_second", "model_flops_utilisation")


def show(arguments: argparse.Namespace) -> int:
    """Prints what one run came to."""
    from jaxkit.runs import directory, files

    run = parsing.path(arguments.run)
    found = directory.summary(run)
    if arguments.json:
        print(tables.as_json(found))
        return 0
    provenance = files.read_json(run / directory.PROVENANCE) or {}
    tables.show(f"{printable(str(run))}: {_headline(found)}")
    if found["evaluation"]:
        tables.show(_results(found["evaluation"]))
    for name, text in (*_newest(found), *_timing(found["timing"]), *_origin(found, provenance)):
        tables.show(printable(f"{name:22} {text}"))
    return 0


def _headline(found: Mapping[str, Any]) -> str:
    done = f"{found['status']}, step {found['step']:,} of {found['num_steps']:,}"
    when = moment(found["newest"].get("wall"))
    return printable(", ".join(filter(None, [str(found["experiment"] or "a run"), done, when])))


def _results(evaluation: Mapping[str, Mapping[str, Any]]) -> Any:
    from jaxkit.runs import evaluations

    columns = {split: evaluations.flat(metrics) for split, metrics in evaluation.items()}
    names = dict.fromkeys(name for values in columns.values() for name in values)
    rows = [(name, *(number(values.get(name, "")) for values in columns.values())) for name in names]
    return tables.table(("evaluation", *columns), rows, right=range(1, len(columns) + 1))


def _newest(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The newest row, without what the table says already."""
    from jaxkit.runs import rows

    row, evaluated = found["newest"], tuple(f"{split}/" for split in found["evaluation"])
    values = {
        name: value for name, value in row.items() if name not in rows.BESIDE and not name.startswith(evaluated)
    }
    if values:
        yield (
            f"recorded at {row['step']:,}",
            "  ".join(f"{name} {number(value)}" for name, value in values.items()),
        )


def _timing(timing: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    from jaxkit.runs import rows

    parts = [
        f"{number(value) if name in _RATES else seconds(value)} {label}"
        for name, label in _TIMING.items()
        if (value := rows.finite(timing.get(name))) is not None
    ]
    if parts:
        yield "time", ", ".join(parts)


def _origin(found: Mapping[str, Any], provenance: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    code = provenance.get("git")
    if isinstance(code, dict) and "commit" in code:
        yield "code", f"{code['commit']}{' and dirty.patch' if code.get('dirty') else ''}"
    data = provenance.get("data")
    for split, manifest in data.items() if isinstance(data, dict) else ():
        if isinstance(manifest, dict):
            size, sha256 = manifest.get("size"), str(manifest.get("sha256"))
            yield (
                f"data, {split}",
                f"{manifest.get('name')} {manifest.get('version')}: {size} records, {sha256[:12]}",
            )
    packages = provenance.get("packages")
    if isinstance(packages, dict):
        versions = [f"{name} {packages[name]}" for name in ("jax", "flax", "optax") if name in packages]
        yield "versions", ", ".join([f"Python {provenance.get('python')}", *versions])
    devices = provenance.get("devices")
    if isinstance(devices, list):
        counts = {str(device): devices.count(device) for device in devices}
        yield "devices", ", ".join(f"{count} x {device}" for device, count in counts.items())
    command = provenance.get("command")
    if isinstance(command, list):
        yield "command", " ".join(map(str, command))
    if isinstance(provenance.get("resumed"), list) and provenance["resumed"]:
        yield "resumed", "once" if len(provenance["resumed"]) == 1 else f"{len(provenance['resumed'])} times"
    for name in ("fingerprint", "digest", "params_sha256"):
        if found[name]:
            yield name, str(found[name])
