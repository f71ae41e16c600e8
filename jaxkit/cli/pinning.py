"""`jaxkit data`: what an experiment reads, by content, and how to pin it."""

import argparse
import json
from collections.abc import Callable

from jaxkit import configs
from jaxkit.cli import parsing, planning
from jaxkit.errors import UsageError


def add(verb: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the verb to a command line; `verb(name, function, text)` makes its parser."""
    parser = verb("data", data, "open the data of an experiment: its manifests, and the reference to pin it by")
    planning.add_experiment(parser)
    parser.add_argument("--write", metavar="FILE", help="write the manifests there, as JSON; a path to pin by")


def data(arguments: argparse.Namespace) -> int:
    """Opens the data of an experiment and prints its manifests and their reference."""
    from jaxkit.data import opening, pinning
    from jaxkit.runs import files
    from jaxkit.runs.command import compose

    config = configs.check_fields(configs.read(arguments.config, arguments.overrides))
    made = compose(planning.recipe_of(parsing.path(arguments.experiment)), config)
    manifests = {split: dict(found.manifest) for split, found in opening.opened(made.data).items()}
    ref = pinning.reference(manifests)
    if arguments.write:
        try:
            files.write_json(parsing.path(arguments.write), manifests)
        except OSError as error:
            raise UsageError(f"--write: {arguments.write} cannot be written ({error.strerror})") from error
    if arguments.json:
        print(json.dumps({"ref": ref, "manifests": manifests}, indent=1))
        return 0
    for split, manifest in manifests.items():
        version = f" {manifest['version']}" if manifest["version"] else ""
        print(
            f"{split}: {manifest['size']:,} examples of {manifest['name']}{version}, sha256 {manifest['sha256']}"
        )
        for name, field in manifest["schema"].items():
            classes = f" of {field['num_classes']} classes" if field["num_classes"] else ""
            print(f"  {name}: {field['dtype']}{field['shape']}{classes}")
    print(f'to pin it: config.data = {{"call": "jaxkit.data.pinned", "ref": "{ref}", "train": ..., ...}}')
    return 0
