"""The Python standard library as a TFDS data set. Imports TFDS: imported only to prepare or to read."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from absl import logging

from jaxkit.data import corpora


@dataclasses.dataclass(eq=False)
class Library(tfds.core.BuilderConfig):
    """Which library: its directory, and the version of the Python whose it is."""

    root: str = ""
    python: str = ""


def builder(library: Library, directory: Path) -> "Stdlib":
    """The builder of one library, which is no list of configs that TFDS could know beforehand."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # it would warn of that
    try:
        return Stdlib(config=library, data_dir=str(directory), file_format="array_record")
    finally:
        logging.set_verbosity(before)


class Stdlib(tfds.core.GeneratorBasedBuilder):
    """The source files of the Python standard library, one example each: the text and the module's name.

    Its tests are left out. Which split a file is in, its top-level module says. An example's key is its path.
    """

    VERSION = tfds.core.Version(corpora.STDLIB_VERSION)
    RELEASE_NOTES: ClassVar = {"1.0.0": "A tenth is held out, by top-level module."}
    # Nothing is downloaded, so TFDS need not look for checksums beside this file, for which it would
    # import a package that it does not declare.
    code_path = None

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"module": tfds.features.Text(), "text": tfds.features.Text()}
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"The source files of the standard library of Python {self.builder_config.python}.",
            features=tfds.features.FeaturesDict(features),
            homepage="https://docs.python.org/3/library",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict[str, str]]]]:
        return {split: self._generate_examples(split) for split in ("train", "test")}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, str]]]:
        for module in corpora.modules(Path(self.builder_config.root)):
            if corpora.split_of(module.path) == split:
                yield module.path, {"module": module.name, "text": module.text}
