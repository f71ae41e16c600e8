"""Opening the sources of a run; what cannot be opened is named by its place in the config."""

from collections.abc import Callable, Mapping

import numpy as np

from jaxkit import checks
from jaxkit.data import schema
from jaxkit.errors import UsageError, place
from jaxkit.types import Examples, Source

_MANIFEST = ("name", "version", "split", "size", "schema", "sha256")


def opened(sources: Mapping[str, Source]) -> dict[str, Examples]:
    """{split: Examples} of {split: source}, held to what the sources promise.

    What is in memory is looked at; of the rest the first and the last example, and each batch as it is read.

    Raises:
        UsageError: names the split, and why it cannot be opened, or what in it is not as promised.

    Example:
        >>> import numpy as np
        >>> from jaxkit import data
        >>> opened({"train": data.arrays({"x": np.arange(3)})})["train"].size
        3
    """
    found = {}
    for split, source in sources.items():
        try:
            found[split] = _held(source, source.open())
        except UsageError as error:
            # Pinned data opens all splits together, and has said which one it is.
            if str(error).startswith("config."):
                raise
            raise UsageError(f"config.data.{split}: {error}") from error
        except OSError as error:
            raise UsageError(
                f"config.data.{split}: {source.name}: cannot be read ({error}); is it there, and may it be read?"
            ) from error
        except Exception as error:  # whatever a source of one's own raises
            raise UsageError(
                f"config.data.{split}: {source.name}: open: {type(error).__name__}: {error}{place(error)}"
            ) from error
    return found


def _held(source: Source, examples: Examples) -> Examples:
    """The examples, if they are what the source promised; a source of one's own may be off in any of it."""
    where = source.name
    if not all(hasattr(examples, name) for name in Examples._fields):
        raise UsageError(
            f"{where}: open: came {checks.describe(examples)}, wanted types.Examples(size=, read=, ...)"
        )
    missing = [name for name in _MANIFEST if name not in (examples.manifest or {})]
    if missing:
        raise UsageError(f"{where}: its manifest lacks {missing[0]!r}; jaxkit.data.manifests.manifest makes one")
    if type(examples.size) is bool or not isinstance(examples.size, int | np.integer) or examples.size < 1:
        raise UsageError(f"{where}: size: came {examples.size!r}, wanted an int >= 1")
    # Of numpy's narrow ints those of a long run would pass the largest.
    examples = examples._replace(size=int(examples.size))
    if examples.arrays is None:
        examples = examples._replace(read=_checked(source, examples))
        ends = examples.read(np.array([0, examples.size - 1]))
        # What else it gives is for the experiment to use.
        schema.check({name: ends[name] for name in source.schema}, source.schema, where=f"{where}: read")
    else:
        schema.check(examples.arrays, source.schema, where=where)
        sizes = {len(array) for array in examples.arrays.values()}
        if sizes != {examples.size}:
            raise UsageError(f"{where}: size: came {examples.size}, but its arrays have {sizes.pop()} examples")
    return examples


def _checked(source: Source, examples: Examples) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """The function that reads, held to giving what was asked for."""

    def read(indices: np.ndarray) -> dict[str, np.ndarray]:
        try:
            batch = examples.read(indices)
        except (UsageError, OSError):
            raise
        except Exception as error:
            asked = f"{len(indices)} examples, {indices[0]} the first and {indices[-1]} the last"
            line = " ".join(str(error).split())
            raise UsageError(
                f"{source.name}: read: {type(error).__name__}: {line}{place(error)}; it was asked for {asked}"
            ) from error
        if not isinstance(batch, Mapping) or not all(hasattr(array, "dtype") for array in batch.values()):
            raise UsageError(
                f"{source.name}: read: came {checks.describe(batch)}, wanted {{name: array[{len(indices)}, ...]}}"
            )
        for name in source.schema:
            came = checks.describe(batch[name]) if name in batch else "nothing"
            if name not in batch or batch[name].shape[:1] != (len(indices),):
                raise UsageError(f"{source.name}: read: {name}: came {came}, wanted {len(indices)} examples")
        return batch

    return read
