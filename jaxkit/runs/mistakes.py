"""`mistakes.json`: the examples that a classifier was most wrong about, small enough to look at in a report."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxkit.runs import files

NAME = "mistakes.json"
MOST = 24
# Pixels on the longer side.
_LARGEST = 96
PNG = b"\x89PNG\r\n\x1a\n"


def write(path: Path, batch: Mapping[str, Any], probabilities: np.ndarray) -> None:
    """Writes those with the least probability on their label.

    batch: "image" [n, h, w, 1 or 3] and "label" i[n]; probabilities: f32[n, classes].

    Raises:
        OSError: it cannot be written.
    """
    images, labels = np.asarray(batch["image"]), np.asarray(batch["label"])
    on_label = probabilities[np.arange(len(labels)), labels]
    guesses = probabilities.argmax(axis=1)
    found = [
        {
            "index": int(n),
            "label": int(labels[n]),
            "guess": int(guesses[n]),
            "probability": round(float(probabilities[n, guesses[n]]), 4),
            "image": base64.b64encode(png(images[n], low=images.min(), high=images.max())).decode(),
        }
        for n in np.argsort(on_label, kind="stable")[:MOST]
    ]
    wrong = int(np.sum(guesses != labels))
    files.write_json(path, {"wrong": wrong, "examples": len(labels), "worst": found})


def png(image: np.ndarray, *, low: Any, high: Any) -> bytes:
    """A picture [h, w, 1 or 3] of numbers between `low` and `high`, no larger than one looks at.

    Example:
        >>> png(np.zeros((8, 8, 1)), low=0, high=1).startswith(PNG)
        True
    """
    from PIL import Image

    span = float(high) - float(low) or 1.0
    scaled = np.clip((np.asarray(image, np.float64) - float(low)) * (255 / span), 0, 255).astype(np.uint8)
    made = Image.fromarray(scaled[..., 0] if scaled.shape[-1] == 1 else scaled)
    made.thumbnail((_LARGEST, _LARGEST))
    content = io.BytesIO()
    made.save(content, format="PNG")
    return content.getvalue()


def read(workdir: Path) -> dict[str, Any]:
    """What a run wrote; {} where it wrote none. What is not as it was written is left out.

    Raises:
        UsageError: the file is damaged.

    Example:
        >>> read(Path("there_is_no_such_directory"))
        {}
    """
    found = files.read_json(workdir / NAME) or {}
    worst = found.get("worst")
    kept = [each for each in worst if isinstance(each, dict) and _image(each)] if isinstance(worst, list) else []
    return {**found, "worst": kept} if kept else {}


def _image(entry: Mapping[str, Any]) -> bool:
    try:
        return base64.b64decode(entry.get("image", ""), validate=True).startswith(PNG)
    except (ValueError, TypeError):
        return False
