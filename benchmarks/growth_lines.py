"""Tables and a picture of how something grows."""

import statistics
from pathlib import Path

Times = dict[str, dict[int, float]]
"""{line: {where on the axis: microseconds}}."""


def medians(rounds: list[Times]) -> Times:
    """The median of every point."""
    return {
        name: {x: statistics.median(times[name][x] for times in rounds) for x in line}
        for name, line in rounds[0].items()
    }


def show(title: str, axis: str, times: Times) -> None:
    """Prints one table."""
    places = sorted({x for line in times.values() for x in line})
    print(f"\n{title}\n  {axis:22}" + "".join(f"{x:>11,}" for x in places))
    for name, line in times.items():
        print(
            f"  {name:22}" + "".join(f"{line[x]:11.1f}" if x in line else f"{'':11}" for x in places), flush=True
        )


def draw(path: Path, panels: list[tuple[str, str, Times]]) -> None:
    """Draws the tables side by side."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(panels), figsize=(5 * len(panels), 4), layout="constrained")
    for axis, (title, label, times) in zip(axes, panels):
        for name, line in times.items():
            axis.plot(list(line), list(line.values()), marker="o", label=name)
        places = sorted({x for line in times.values() for x in line})
        values = [value for line in times.values() for value in line.values()]
        scale = "log" if max(values) > 20 * min(values) else "linear"
        axis.set(title=title, xlabel=label, ylabel="microseconds", xscale="log", yscale=scale)
        axis.set_xticks(places, [f"{x:,}" for x in places])
        axis.minorticks_off()
        axis.set_ylim(bottom=min(values) / 2 if scale == "log" else 0)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    figure.savefig(path, dpi=110)
