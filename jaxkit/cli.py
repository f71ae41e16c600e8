"""The command `jaxkit`: look at an experiment before it runs, and at runs afterwards."""

import argparse
import json
import os
import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxkit import __version__, configs
from jaxkit.errors import UsageError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit code: 0 only on success, 2 for a mistake that one line explains."""
    from jaxkit.runs.command import explained

    rest, overrides = _parser().parse_known_args(argv)
    with explained(debug=rest.debug):
        unknown, changes = configs.split_overrides(overrides)
        if unknown:
            raise UsageError(f"there is no flag {unknown[0]} (see jaxkit {rest.verb} --help)")
        rest.overrides = changes
        try:
            code = rest.function(rest)
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader had enough (`| head`); the interpreter flushes once more on its way out.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        return code
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jaxkit",
        description="Look at an experiment before it runs, and at runs afterwards.",
        epilog="Training is the experiment's own command: python experiments/NAME.py --config=configs/X.py",
    )
    parser.add_argument("--version", action="version", version=f"jaxkit {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, function: Callable[[Any], int], text: str) -> argparse.ArgumentParser:
        found = verbs.add_parser(name, help=text, description=text)
        found.add_argument("--json", action="store_true", help="print JSON, for machines")
        found.add_argument("--debug", action="store_true", help="show tracebacks for mistakes too")
        found.set_defaults(function=function)
        return found

    plan = verb("plan", _plan, "trace an experiment on shapes: parameters, FLOPs, bytes; no data, no accelerator")
    plan.add_argument("experiment", help="the experiment's file: experiments/NAME.py")
    plan.add_argument(
        "--config", required=True, help="configs/X.py[:VARIANTS]; --config.PATH=VALUE changes a value"
    )
    runs = verb("runs", _runs, "list the runs in a directory")
    runs.add_argument("directory", nargs="?", default="runs", help="where to look (default: runs)")
    show = verb("show", _show, "show one run: status, results, timing")
    show.add_argument("run", help="a run directory")
    return parser


def _plan(arguments: argparse.Namespace) -> int:
    config = configs.check_fields(configs.read(arguments.config, arguments.overrides))
    # Shapes need no accelerator, and as many devices as the layout asks for can be pretended.
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax

    wanted = config.layout["num_devices"] if "num_devices" in config.layout else 1  # noqa: SIM401  # no .get on a config
    jax.config.update("jax_num_cpu_devices", wanted if isinstance(wanted, int) and wanted > 0 else 1)
    from jaxkit.recipe import plan
    from jaxkit.runs.command import compose

    recipe = compose(_recipe_of(Path(arguments.experiment)), config)
    found = plan(recipe, batch_size=config.batch_size, count_flops=True)
    numbers = {
        "parameters": found.num_parameters,
        "parameter_bytes": found.parameter_bytes,
        "state_bytes": found.state_bytes,
        "batch_bytes": found.batch_bytes,
        "flops_per_step": found.flops,
        "num_devices": recipe.layout.num_devices,
        "metrics": {split: list(metrics) for split, metrics in found.metrics.items()},
        "fingerprint": configs.fingerprint(config),
    }
    shapes = {path: [str(leaf.dtype), list(leaf.shape)] for path, leaf in found.parameters.items()}
    if arguments.json:
        print(json.dumps({**numbers, "arrays": shapes}, indent=1))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table("parameter", "dtype", "shape", "size")
    table.columns[-1].justify = "right"
    for path, leaf in found.parameters.items():
        table.add_row(path, str(leaf.dtype), str(leaf.shape), f"{leaf.size:,}")
    table.add_section()
    table.add_row("all", "", "", f"{found.num_parameters:,}")
    console = Console(highlight=False, markup=False)
    console.print(table)
    console.print(f"state {_bytes(found.state_bytes)}, of it parameters {_bytes(found.parameter_bytes)}")
    console.print(f"batch {_bytes(found.batch_bytes)} over {recipe.layout.num_devices} device(s)")
    console.print(f"one step {found.flops:,.0f} FLOPs a device (a loop inside the step is counted once)")
    for split, metrics in found.metrics.items():
        console.print(f"{split} measures {', '.join(metrics)}")
    return 0


def _recipe_of(path: Path) -> Callable[[Any], Any]:
    if not path.is_file():
        raise UsageError(f"{path}: there is no such experiment")
    # As when the experiment is run: its own directory first, and the one that the command is given in.
    sys.path[:0] = [str(path.parent)]
    sys.path.append(os.getcwd())
    recipe = runpy.run_path(str(path)).get("recipe")
    if not callable(recipe):
        raise UsageError(f"{path}: has no function recipe(config)")
    return recipe


def _bytes(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024 or unit == "GiB":
            return f"{number:,.0f} {unit}" if unit == "B" else f"{number:,.1f} {unit}"
        number /= 1024
    raise AssertionError


def _runs(arguments: argparse.Namespace) -> int:
    from jaxkit.runs import directory

    top = Path(arguments.directory)
    if not top.is_dir():
        raise UsageError(f"{top}: there is no such directory; name the one that holds the runs")
    found = [_summary_or_damage(path) for path in sorted(top.iterdir()) if directory.is_run(path)]
    if arguments.json:
        print(json.dumps(found, indent=1))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table("run", "status", "step", "evaluation")
    for run in found:
        if "error" in run:
            table.add_row(Path(run["run"]).name, "damaged", "", run["error"])
            continue
        results = [
            f"{split}/{name} {value:.4g}"
            for split, metrics in run["evaluation"].items()
            for name, value in metrics.items()
            if isinstance(value, int | float)
        ]
        step = f"{run['step']:,}/{run['num_steps']:,}"
        table.add_row(Path(run["run"]).name, run["status"], step, ", ".join(results))
    Console(highlight=False, markup=False).print(table if found else f"no runs in {top}")
    return 0


def _summary_or_damage(path: Path) -> dict[str, Any]:
    """A run's summary; of a damaged one, which must not hide the others, what is wrong with it."""
    from jaxkit.runs import directory

    try:
        return directory.summary(path)
    except (UsageError, OSError) as error:
        return {"run": str(path), "status": "damaged", "error": str(error)}


def _show(arguments: argparse.Namespace) -> int:
    from jaxkit.runs import directory

    found = directory.summary(Path(arguments.run))
    if arguments.json:
        print(json.dumps(found, indent=1))
        return 0
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    for name, value in _flat(found):
        console.print(f"{name:32} {value}", soft_wrap=True)
    return 0


def _flat(tree: Any, prefix: str = ""):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


if __name__ == "__main__":
    sys.exit(main())
