"""`jaxkit plan`: the preflight, printed."""

import argparse
import json
import math
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxkit import configs
from jaxkit.cli import parsing
from jaxkit.errors import UsageError, did_you_mean

# What `models.attention` says where another backend may not hold the scores, as cuDNN does not.
_HELD = "attention by xla: the backend is"

# Of an array: path, dtype, shape, how it is split, its bytes on one device (None: not known).
_Row = tuple[str, str, list[int], str, int | None]


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the verb to a command line; `verb(name, function, text)` makes its parser."""
    text = "trace an experiment on shapes, as for a CPU: parameters, FLOPs, bytes; no data, no accelerator"
    parser = verb("plan", plan, text)
    add_experiment(parser)
    parser.add_argument(
        "--devices", type=int, help="how many devices to pretend (default: what the layout asks for)"
    )
    parser.add_argument(
        "--device",
        help="the least time of a step on one, and whether it fits: h200, a100, tpu-v5e, ...; by the FLOPs and"
        " bytes of the program for a CPU",
    )
    parser.add_argument("--shardings", action="store_true", help="how each array is split, and its bytes a device")
    parser.add_argument(
        "--memory", action="store_true", help="compile the step for a CPU, and say what it takes on one device"
    )


def add_experiment(parser: argparse.ArgumentParser) -> None:
    """Adds what each verb takes that looks at an experiment: its file, and a config."""
    parser.add_argument("experiment", help="the experiment's file: experiments/NAME.py")
    parser.add_argument(
        "--config", required=True, help="configs/X.py[:VARIANTS]; --config.PATH=VALUE changes a value"
    )


def plan(arguments: argparse.Namespace) -> int:
    """Traces an experiment on shapes and prints what it comes to."""
    if arguments.devices is not None and arguments.devices < 1:
        raise UsageError(f"--devices: came {arguments.devices}, wanted at least 1")
    config = configs.check_fields(configs.read(arguments.config, arguments.overrides))
    # Shapes need no accelerator, and as many devices as the layout asks for can be pretended.
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    jax.config.update("jax_num_cpu_devices", arguments.devices or _devices_of(config.layout))
    from jaxkit import costs, recipe
    from jaxkit.runs import feeding
    from jaxkit.runs.command import compose

    made = compose(recipe_of(parsing.path(arguments.experiment)), config)
    on = costs.device(arguments.device) if arguments.device else None
    found = recipe.plan(made, batch_size=config.batch_size)
    feeding.check(made, found)
    # The table of bytes on one device, and with it the least time of a step, need the compiler.
    memory = (
        recipe.memory(made, found, batch_size=config.batch_size) if arguments.memory or arguments.device else None
    )
    number = made.layout.num_devices
    numbers = {
        "parameters": found.num_parameters,
        "parameter_bytes": found.parameter_bytes,
        "state_bytes": found.state_bytes,
        "batch_bytes": found.batch_bytes,
        "flops_per_step": found.flops,
        "model_flops_per_step": found.model_flops,
        "num_devices": number,
        "notes": list(found.notes),
        "backend": jax.default_backend(),
        "metrics": {split: list(metrics) for split, metrics in found.metrics.items()},
        "fingerprint": configs.fingerprint(config),
    }
    if memory:
        held = any(note.startswith(_HELD) for note in found.notes)
        numbers["memory_per_device"] = {**memory._asdict(), "total": memory.total, "upper_bound": held}
        numbers["flops_per_byte"] = found.flops / number / memory.moved
    if on and memory:
        floor = costs.floor_seconds(on, flops=found.flops / number, moved=memory.moved)
        numbers["floor_seconds"] = {
            "device": arguments.device,
            "seconds": floor,
            "fits": memory.total <= on.memory,
        }
    rows = _rows(found.state, made.layout) if arguments.shardings else []
    activations = _activations(made.layout) if arguments.shardings else []
    if arguments.json:
        shapes = {path: [str(leaf.dtype), list(leaf.shape)] for path, leaf in found.parameters.items()}
        tables = {"shardings": rows, "activations": activations} if rows else {}
        print(json.dumps({**numbers, "arrays": shapes} | {k: _named(v) for k, v in tables.items()}, indent=1))
        return 0
    _print(found, numbers, rows, activations)
    return 0


def _devices_of(layout: Any) -> int:
    """How many devices a layout of ours asks for by its arguments."""
    names = ("num_devices",) if "num_devices" in layout else ("data", "fsdp", "tensor")
    sizes = [layout[name] for name in names if name in layout]
    return math.prod(size for size in sizes if isinstance(size, int) and size > 0)


def _rows(state: Any, layout: Any) -> list[_Row]:
    import jax

    from jaxkit import checks

    leaves = jax.tree_util.tree_leaves_with_path(state)
    shardings = jax.tree.leaves(layout.shardings(state)) if layout.shardings else [None] * len(leaves)
    return [_row(checks.path_of(path), leaf, sharding) for (path, leaf), sharding in zip(leaves, shardings)]


def _activations(layout: Any) -> list[_Row]:
    """What the update constrained, by the names of its axes; of how many there are at a time nothing is known."""
    rows = []
    for axes, x in layout.activations() if layout.activations else ():
        path, dtype, shape, split, size = _row(" ".join(axis or "-" for axis in axes), x, x.sharding)
        chosen = (split, size) if x.sharding else ("the compiler's choice", None)
        rows.append((path, dtype, shape, *chosen))
    return rows


def _row(path: str, leaf: Any, sharding: Any) -> _Row:
    shape = sharding.shard_shape(leaf.shape) if sharding else leaf.shape
    axes = [(names,) if isinstance(names, str) else names for names in sharding.spec] if sharding else []
    split = ["+".join(names) if names else "-" for names in axes]
    said = " ".join(split) if any(names != "-" for names in split) else "whole"
    return path, str(leaf.dtype), list(leaf.shape), said, math.prod(shape) * leaf.dtype.itemsize


def _named(rows: list[_Row]) -> list[dict[str, Any]]:
    return [dict(zip(("path", "dtype", "shape", "sharding", "bytes_per_device"), row)) for row in rows]


def _print(found: Any, numbers: dict[str, Any], rows: list[Any], activations: list[Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)
    if rows:
        table = Table("array", "dtype", "shape", "split", "bytes a device")
        for path, dtype, shape, split, size in rows:
            table.add_row(path, dtype, str(tuple(shape)), split, f"{size:,}")
        table.add_section()
        table.add_row("all", "", "", "", f"{sum(row[-1] for row in rows):,}")
        table.add_section()
        for path, dtype, shape, split, size in activations:
            table.add_row(path, dtype, str(tuple(shape)), split, "" if size is None else f"{size:,}")
    else:
        table = Table("parameter", "dtype", "shape", "size")
        for path, leaf in found.parameters.items():
            table.add_row(path, str(leaf.dtype), str(leaf.shape), f"{leaf.size:,}")
        table.add_section()
        table.add_row("all", "", "", f"{found.num_parameters:,}")
    table.columns[0].overflow = "fold"
    table.columns[-1].justify = "right"
    console.print(table)
    for line in _lines(found, numbers):
        console.print(line, soft_wrap=True)


def _lines(found: Any, numbers: dict[str, Any]):
    yield f"state {_bytes(found.state_bytes)}, of it parameters {_bytes(found.parameter_bytes)}"
    yield f"batch {_bytes(found.batch_bytes)} over {numbers['num_devices']} device(s)"
    backend = numbers["backend"].upper()
    yield f"one step {found.flops:.4g} FLOPs in matmuls and convolutions, as traced for a {backend}" + (
        f"; 3 x forward is {found.model_flops:.4g}" if found.model_flops is not None else ""
    )
    if "memory_per_device" in numbers:
        memory = numbers["memory_per_device"]
        parts = ", ".join(
            f"{name} {_bytes(memory[name])}" for name in ("arguments", "outputs", "aliases", "temporaries")
        )
        yield f"on a device {_bytes(memory['total'])}: {parts} (as compiled for a {backend})"
        if memory["upper_bound"]:
            yield "an upper bound: attention holds its scores in this program, and by cuDNN on a GPU it would not"
        yield f"{numbers['flops_per_byte']:,.0f} FLOPs for each byte of state and batch that is read or written"
    if "floor_seconds" in numbers:
        floor = numbers["floor_seconds"]
        fits = "fits" if floor["fits"] else "does not fit"
        yield (
            f"on {floor['device']}: at least {floor['seconds'] * 1e3:,.3g} ms a step; its memory: {fits}"
            f" (both by the program for a {backend})"
        )
    for note in found.notes:
        yield f"{note} (for a {backend}; a run says what holds for its own devices)"
    for split, metrics in found.metrics.items():
        yield f"{split} measures {', '.join(metrics)}"


def check_file(path: Path) -> None:
    """Raises a UsageError, with the nearest name, where there is no such experiment."""
    if not path.is_file():
        near = did_you_mean(str(path), map(str, path.parent.glob("*.py"))).removesuffix(".")
        raise UsageError(f"{path}: there is no such experiment{near}")


def recipe_of(path: Path) -> Callable[[Any], Any]:
    """The function `recipe` of an experiment's file.

    Raises:
        UsageError: there is no such file, or no such function in it; it cannot be imported.
    """
    check_file(path)
    # As when the experiment is run: its own directory first, and the one that the command is given in.
    sys.path[:0] = [str(path.parent)]
    sys.path.append(os.getcwd())
    try:
        recipe = runpy.run_path(str(path)).get("recipe")
    except (SyntaxError, ImportError) as error:
        line = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
        raise UsageError(f"{path}{line}: {type(error).__name__}: {error.msg}") from error
    if not callable(recipe):
        raise UsageError(f"{path}: has no function recipe(config)")
    return recipe


def _bytes(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024 or unit == "GiB":
            return f"{number:,.0f} {unit}" if unit == "B" else f"{number:,.1f} {unit}"
        number /= 1024
    raise AssertionError
