"""What a run keeps beside its parameters: the files that it needs (a tokenizer), and what its model writes."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxkit import data, random, updates
from jaxkit.errors import UsageError
from jaxkit.recipe import abstract_batch, nbytes
from jaxkit.runs import directory, files, record
from jaxkit.types import Examples, Extra, Key, Params, Recipe, State

ASSETS = "assets"
SAMPLES = "samples.txt"
_LINES_SHOWN = 24
# A picture is given all of its examples at once: of a split that is not in memory, so many bytes of the first.
MAX_BYTES_DRAWN = 2**30


def check(folder: Path, assets: Callable[[], Mapping[str, bytes]] | None) -> dict[Path, bytes]:
    """Finds that the assets in a run directory are those of this start; gives what is not there yet, by its place.

    Raises:
        UsageError: they are others; a name that is no file name.
    """
    missing: dict[Path, bytes] = {}
    for name, content in (assets() if assets is not None else {}).items():
        path = folder / ASSETS / name
        if Path(name).name != name:
            raise UsageError(f"assets: came {name!r}, wanted the name of a file")
        if not path.exists():
            missing[path] = content
        elif files.content(path) != content:
            raise UsageError(
                f"assets: the {Path(name).stem} of this config and data does not match that of the run ({path});"
                " restore the data and the packages that the run was started with, or start afresh with another"
                " --workdir=DIR"
            )
    return missing


def keep(missing: Mapping[Path, bytes]) -> None:
    """Writes the assets that are not there yet.

    Raises:
        OSError: they cannot be written.
    """
    for path, content in missing.items():
        path.parent.mkdir(exist_ok=True)
        files.write_bytes(path, content)


def leave(
    recipe: Recipe, config: Any, state: State, examples: Mapping[str, Examples], folder: Path, console: Any
) -> None:
    """The picture and the samples of a run that is done, where its recipe has them; neither may fail it."""
    wanted: dict[str, Callable[[], None]] = {}
    if recipe.picture is not None and len(examples) > 1:
        wanted["picture"] = lambda: draw(recipe, config, state, examples, folder)
    if recipe.samples is not None:
        samples = recipe.samples
        wanted["samples"] = lambda: write_samples(folder, samples, state, config.seed)
    for name, make in wanted.items():
        try:
            make()
        except Exception as error:
            console.print(f"warning: no {name}: {type(error).__name__}: {error}")


def write_samples(folder: Path, samples: Callable[[Params, Extra, Key], str], state: State, seed: int) -> None:
    """Writes what the (averaged) model writes into `samples.txt`.

    Raises:
        OSError: it cannot be written.
    """
    # On one device, whatever the layout.
    params, extra = jax.device_get((jax.jit(updates.averaged)(state), state.extra))
    files.write_text(folder / SAMPLES, samples(params, extra, random.named(jax.random.key(seed), "samples")))


def shortened(folder: Path) -> str:
    """The beginning of a run's samples, as it is shown; empty where there are none.

    Example:
        >>> shortened(Path("there_is_no_such_directory"))
        ''
    """
    try:
        lines = files.content(folder / SAMPLES).decode(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    # What a model writes may hold characters that move a terminal's cursor.
    shown = ["".join(c if c.isprintable() or c == "\t" else "\ufffd" for c in line) for line in lines]
    return "\n".join([*shown[:_LINES_SHOWN], *(["..."] if len(shown) > _LINES_SHOWN else [])])


def draw(recipe: Recipe, config: Any, state: State, examples: Mapping[str, Examples], workdir: Path) -> None:
    """Hands the record and the predictions on a held-out split to the recipe's picture."""
    split = next(name for name in examples if name != "train")
    batches = data.padded(examples[split], batch_size=config.batch_size)
    params = jax.jit(updates.averaged)(state)
    predict = jax.jit(recipe.predict)
    # On one device, whatever the layout.
    params, extra = jax.device_get((params, state.extra))
    found: list[tuple[Any, Any]] = []
    stop = len(batches)
    if examples[split].arrays is None:
        stop = min(stop, max(1, MAX_BYTES_DRAWN // nbytes(abstract_batch(recipe, split, config.batch_size))))
    for batch in data.prefetch(batches, 0, stop):
        predictions = jax.device_get(predict(params, extra, batch))
        keep = lambda x, mask=batch["mask"]: np.asarray(x)[mask]
        found.append((jax.tree.map(keep, batch), jax.tree.map(keep, dict(predictions))))
    batch, predictions = jax.tree.map(lambda *parts: np.concatenate(parts), *found)
    assert recipe.picture is not None
    recipe.picture(workdir / "picture.png", record.read(workdir / directory.METRICS), batch, predictions)
