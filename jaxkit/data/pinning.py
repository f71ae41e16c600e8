"""Pinned data: a config says by content which data it means, and a run refuses any other."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from jaxkit import errors
from jaxkit.data import manifests, opening
from jaxkit.types import Examples, Source


def reference(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The name of some data by its content: NAME@sha256:HEX, over the hashes of all splits.

    Args:
        found: {split: manifest}.

    Example:
        >>> reference({"train": {"name": "digits", "sha256": "a"}, "test": {"name": "digits", "sha256": "b"}})
        'digits@sha256:f9c0...'
    """
    text = json.dumps({split: manifest["sha256"] for split, manifest in found.items()}, sort_keys=True)
    # A config sorts its splits, and must come to the same name.
    return f"{found[min(found)]['name']}@sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def pinned(*, ref: str, **splits: Source) -> dict[str, Source]:
    """The same sources, which open only if what is in all of them is what `ref` says.

    Args:
        ref: NAME@sha256:HEX; or the path of a JSON file with the manifests, which lets a refusal say what differs.
            `jaxkit data EXPERIMENT --config=C` prints the one and writes the other.
        splits: {split: source}, each pinned.

    Raises:
        UsageError: `ref` is neither; by `open`: other data is there.

    Example:
        >>> import numpy as np
        >>> from jaxkit import data
        >>> source = data.arrays({"x": np.arange(3)}, name="mine")
        >>> ref = reference({"train": source.open().manifest})
        >>> pinned(ref=ref, train=source)["train"].open().size
        3
    """
    check = _checker(ref)

    @cache
    def opened() -> dict[str, Examples]:
        found = opening.opened(splits)
        check({split: examples.manifest for split, examples in found.items()})
        return found

    return {split: source._replace(open=partial(_one, opened, split)) for split, source in splits.items()}


def _one(opened: Callable[[], dict[str, Examples]], split: str) -> Examples:
    return opened()[split]


def _checker(ref: str) -> Callable[[Mapping[str, Mapping[str, Any]]], None]:
    if re.fullmatch(r"[^@]+@sha256:[0-9a-f]{64}", ref):
        named = lambda manifest: (manifest["name"], manifest["version"])

        def check(found: Mapping[str, Mapping[str, Any]]) -> None:
            if reference(found) != ref:
                splits = "; ".join(
                    f"{split}: {manifest['size']:,} examples of {' '.join(filter(None, named(manifest)))},"
                    f" sha256 {manifest['sha256'][:12]}"
                    for split, manifest in found.items()
                )
                raise _other(f"wanted {ref}, came {reference(found)} ({splits})")

        return check
    wanted = _read(Path(ref))

    def check_each(found: Mapping[str, Mapping[str, Any]]) -> None:
        for split in dict.fromkeys((*wanted, *found)):
            differing = manifests.differences(wanted.get(split, {}), found.get(split, {}))
            if differing:
                raise _other(f"{split}: {'; '.join(differing)}")

    return check_each


def _other(what: str) -> errors.UsageError:
    return errors.UsageError(
        f"config.data.ref: other data is here: {what}; restore the data that is pinned, or pin what is here"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not all("sha256" in manifest for manifest in found.values()):
            raise ValueError("it has no manifests")
    except (OSError, ValueError, TypeError) as error:
        raise errors.UsageError(
            f"config.data.ref: came {str(path)!r}, wanted NAME@sha256:HEX or a JSON file of manifests ({error});"
            " jaxkit data EXPERIMENT --config=C --write=FILE makes one"
        ) from error
    return found
