"""Where the time of the library's step goes, on one core: `python benchmarks/gpt_sides/breakdown.py [options]`.

Milliseconds of one step by what XLA calls the operation and by the shape of its result; products are named so.
With `options`, Eigen computes the products that stand alone.
"""

import collections
import os
import re
import sys
import tempfile
from pathlib import Path

os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import in_jax  # noqa: E402
import jax  # noqa: E402

from jaxkit.runs import memory  # noqa: E402

SHOWN = 40


def main(options: dict[str, str] | None) -> None:
    """Profiles the step after some others."""
    memory.keep_freed()
    update, state, batch, key = in_jax.made(options)
    step = update.lower(state, batch, key).compile()
    for _ in range(5):
        state, _ = jax.block_until_ready(step(state, batch, key))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(step(state, batch, key))
        (path,) = Path(folder).rglob("*.xplane.pb")
        spent = read(jax.profiler.ProfileData.from_file(str(path)))
    lines = dict(re.findall(r"^\s*(?:ROOT )?%([\w.-]+) = (.*)$", step.as_text(), re.MULTILINE))
    kinds: collections.Counter[tuple[bool, str]] = collections.Counter()
    for name, milliseconds in spent.items():
        line = lines.get(name, "")
        product = name.startswith("dot") or "dot_general" in line
        kinds[product, f"{re.sub('[.0-9]+$', '', name)} {line.partition('{')[0]}"] += milliseconds
    products = sum(spent for (product, _), spent in kinds.items() if product)
    print(f"{sum(spent.values()):.0f} ms in operations, {products:.0f} of them in products")
    for (product, kind), milliseconds in kinds.most_common(SHOWN):
        print(f"{milliseconds:8.1f}  {'product' if product else '':8}{kind}")


def read(profile) -> dict[str, float]:
    """Milliseconds of each operation of a program."""
    spent: collections.Counter[str] = collections.Counter()
    for plane in profile.planes:
        for line in plane.lines:
            for event in line.events:
                name = dict(event.stats).get("hlo_op")
                if name is not None:
                    spent[name] += event.duration_ns / 1e6
    return spent


if __name__ == "__main__":
    main(in_jax.OPTIONS if "options" in sys.argv[1:] else None)
