"""Pictures of a run: learning curves, and a sheet of the worst mistakes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxkit.runs import mistakes


def classification(
    path: Path, rows: Sequence[Mapping[str, Any]], batch: Mapping[str, Any], predictions: Mapping[str, Any]
) -> None:
    """Draws the loss and accuracy of a run, and the test images it was most wrong (or least sure) about.

    The report of the run shows them too: they are written beside the picture, as `mistakes.json`.

    path: where the PNG goes; rows: the record's; batch: a split with "image" [n, h, w, c] and "label" i[n];
    predictions: {"probabilities": f32[n, classes]}.

    Raises:
        ImportError: matplotlib is not installed.
    """
    mistakes.write(path.with_name(mistakes.NAME), batch, np.asarray(predictions["probabilities"]))
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    halves: Any = figure.subfigures(1, 2, width_ratios=(1.25, 1))
    curves, sheet = halves
    upper, lower = curves.subplots(2, 1, sharex=True)
    _curves(upper, rows, "loss")
    _curves(lower, rows, "accuracy")
    upper.set_yscale("log")
    lower.set_xlabel("step")
    _mistakes(sheet, batch, np.asarray(predictions["probabilities"]))
    figure.savefig(path)


def _curves(axes: Any, rows: Sequence[Mapping[str, Any]], name: str) -> None:
    """One curve for training and one for each held-out split."""
    keys = sorted({key for row in rows for key in row if key == name or key.endswith(f"/{name}")})
    for key in keys:
        points = [(row["step"], row[key]) for row in rows if isinstance(row.get(key), int | float)]
        if points:
            label = key.split("/")[0] if "/" in key else "training batches"
            axes.plot(*zip(*points), label=label, linewidth=1.2, marker="." if len(points) < 20 else None)
    axes.set_ylabel(name)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.lines:
        axes.legend(frameon=False, fontsize=8)


def _mistakes(figure: Any, batch: Mapping[str, Any], probabilities: np.ndarray) -> None:
    """A sheet of twelve: those with the least probability on the true label."""
    images, labels = np.asarray(batch["image"]), np.asarray(batch["label"])
    low, high = float(images.min()), float(images.max())
    on_truth = probabilities[np.arange(len(labels)), labels]
    wrong = int(np.sum(probabilities.argmax(axis=1) != labels))
    figure.suptitle(f"{wrong} of {len(labels)} wrong; those with the least on the truth", fontsize=10)
    cells = figure.subplots(3, 4)
    for axes in cells.flat:
        axes.set_axis_off()
    for axes, example in zip(cells.flat, np.argsort(on_truth, kind="stable")):
        image = images[example]
        # One channel is scaled by matplotlib; of three it shows what lies in [0, 1].
        image = image[..., 0] if image.shape[-1] == 1 else (image - low) / (high - low or 1.0)
        axes.imshow(image, cmap="gray_r", interpolation="nearest")
        guess = probabilities[example].argmax()
        color = "tab:red" if guess != labels[example] else "0.35"
        title = f"{labels[example]} as {guess} ({probabilities[example, guess]:.0%})"
        axes.set_title(title, fontsize=7, color=color)
