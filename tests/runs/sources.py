"""Sources for tests of what is refused; a config names them: --config.data.train.call=tests.runs.sources.NAME."""

import numpy as np

from jaxkit import data
from jaxkit.types import Examples, Source


def mislabelled(*, split: str) -> Source:
    """The digits, one of them with a label that there is no class for; who opens them finds it."""
    source = data.digits(split=split)

    def opened() -> Examples:
        arrays = dict(source.open().arrays)
        arrays["label"] = np.where(np.arange(len(arrays["label"])) == 7, 12, arrays["label"])
        return data.arrays(arrays, name="mine", split=split, num_classes={"label": 10}).open()

    return source._replace(open=opened)


def unopened(*, split: str) -> Source:
    """The digits, which nobody may open."""
    return data.digits(split=split)._replace(open=refuse)


def refuse() -> Examples:
    """Instead of the opening of a source: a mistake that is seen in time comes before it."""
    raise AssertionError("data was opened")
