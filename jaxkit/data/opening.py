"""Opening the sources of a run; what cannot be opened is named by its place in the config."""

from collections.abc import Mapping

from jaxkit import checks
from jaxkit.data import schema
from jaxkit.errors import UsageError
from jaxkit.types import Examples, Source

_MANIFEST = ("name", "version", "split", "size", "schema", "sha256")


def opened(sources: Mapping[str, Source]) -> dict[str, Examples]:
    """{split: Examples} of {split: source}, held to what the sources promise.

    What is in memory is looked at; of anything else, only what it says of itself.

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
    if examples.arrays is not None:
        schema.check(examples.arrays, source.schema, where=where)
        sizes = {len(array) for array in examples.arrays.values()}
        if sizes != {examples.size}:
            raise UsageError(f"{where}: size: came {examples.size}, but its arrays have {sizes.pop()} examples")
    return examples
