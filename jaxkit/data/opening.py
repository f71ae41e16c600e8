"""Opening the sources of a run; what cannot be opened is named by its place in the config."""

from collections.abc import Mapping

from jaxkit.errors import UsageError
from jaxkit.types import Examples, Source


def opened(sources: Mapping[str, Source]) -> dict[str, Examples]:
    """{split: Examples} of {split: source}.

    Raises:
        UsageError: names the split, and why it cannot be opened.

    Example:
        >>> import numpy as np
        >>> from jaxkit import data
        >>> opened({"train": data.arrays({"x": np.arange(3)})})["train"].size
        3
    """
    found = {}
    for split, source in sources.items():
        try:
            found[split] = source.open()
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
