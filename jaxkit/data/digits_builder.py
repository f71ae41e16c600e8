"""The digits of scikit-learn as a TFDS data set. Imports TFDS: imported only to prepare or to read."""

import hashlib
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from jaxkit.data import prepared


def held_out(labels: np.ndarray) -> np.ndarray:
    """Which examples are test: bool[size], a fixed fifth, stratified.

    The examples are put into a fixed random order, then class after class, and every fifth is held out:
    of each class a fifth, give or take one.

    Example:
        >>> held_out(np.arange(20) % 2).sum()
        np.int64(4)
    """
    # By a hash of their numbers, and not by what shuffles the streams: that may change, the split must not.
    digests = [hashlib.sha256(f"digits {number}".encode()).digest() for number in range(len(labels))]
    order = np.array(sorted(range(len(labels)), key=digests.__getitem__))
    by_class = order[np.argsort(labels[order], kind="stable")]
    test = np.zeros(len(labels), bool)
    test[by_class[::5]] = True
    return test


class Digits(tfds.core.GeneratorBasedBuilder):
    """1,797 handwritten digits, 8 x 8 pixels of 0..16, with 10 classes: 1,437 train, 360 test.

    Of the classes 0 to 9, train has 142, 146, 141, 147, 144, 146, 145, 143, 139, 144 and test has
    36, 36, 36, 36, 37, 36, 36, 36, 35, 36.
    Source: the test part of UCI's "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998),
    as scikit-learn ships it. An example's key is its number there.
    """

    VERSION = tfds.core.Version(prepared.DIGITS_VERSION)
    RELEASE_NOTES: ClassVar = {"1.0.0": "A fixed, stratified fifth is held out."}
    # Nothing is downloaded, so TFDS need not look for checksums beside this file, for which it would
    # import a package that it does not declare.
    code_path = None

    def _info(self) -> tfds.core.DatasetInfo:
        # A Tensor, since TFDS encodes an Image with TensorFlow.
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8),
                "label": tfds.features.ClassLabel(num_classes=10),
            }
        )
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten digits of 8 x 8 pixels.",
            features=features,
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        from sklearn import datasets

        digits = datasets.load_digits()
        test = held_out(digits.target)
        return {
            "train": self._generate_examples(digits, ~test),
            "test": self._generate_examples(digits, test),
        }

    def _generate_examples(self, digits: Any, chosen: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
        for number in np.flatnonzero(chosen).tolist():
            image = digits.images[number].astype(np.uint8)[:, :, None]
            yield number, {"image": image, "label": int(digits.target[number])}
