"""Where the time of the library's step goes, on one core: `python benchmarks/gpt_sides/breakdown.py [options]`.

Milliseconds of one step by what XLA calls the operation and by the shape of its result; products, alone or with
what is fused to them, are named so. Each operation has its shortest time of several steps, which what else the
machine does disturbs least. With `options`, Eigen computes the products that stand alone.
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
STEPS = 8


def main(options: dict[str, str] | None) -> None:
    """Profiles the step after some others."""
    memory.keep_freed()
    update, state, batch, key = in_jax.made(options)
    step = update.lower(state, batch, key).compile()
    profiles = []
    for number in range(2 + STEPS):
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder):
                state, _ = jax.block_until_ready(step(state, batch, key))
            (path,) = Path(folder).rglob("*.xplane.pb")
            if number >= 2:
                profiles.append(read(jax.profiler.ProfileData.from_file(str(path))))
    kinds: collections.Counter[tuple[bool, str]] = collections.Counter()
    known = operations(step.as_text())
    for name in profiles[0]:
        shape, product = known.get(name, ("", False))
        kinds[product, f"{re.sub('[.0-9]+$', '', name)} {shape}"] += min(profile[name] for profile in profiles)
    products = sum(spent for (product, _), spent in kinds.items() if product)
    print(f"{sum(kinds.values()):.0f} ms in operations, {products:.0f} of them in products")
    for (product, kind), milliseconds in kinds.most_common(SHOWN):
        print(f"{milliseconds:8.1f}  {'product' if product else '':8}{kind}")


def operations(program: str) -> dict[str, tuple[str, bool]]:
    """The shape of each operation's result, and whether it is a product or a fusion with one in it."""
    bodies = dict(re.findall(r"^%([\w.-]+) \([^\n]*\{\n(.*?)^\}", program, re.MULTILINE | re.DOTALL))
    found = {}
    for name, line in re.findall(r"^\s*(?:ROOT )?%([\w.-]+) = (.*)$", program, re.MULTILINE):
        called = re.search(r"calls=%([\w.-]+)", line)
        found[name] = line.partition("{")[0], " dot(" in line + bodies.get(called[1] if called else "", "")
    return found


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
