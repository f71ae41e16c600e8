"""What the benchmarks share: the machine in words, medians, pinning to one core."""

import importlib.metadata
import os
import platform
import statistics
from collections.abc import Mapping, Sequence


def pin_to_one_core() -> None:
    """To be called before jax is imported: its thread pools are as large as the cores it sees."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")


def environment(**changes: str) -> dict[str, str]:
    """The variables for a process that starts as a user's does: Python keeps what it has compiled."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | changes


def machine() -> str:
    """The processor, the cores in use and the versions that matter."""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), model)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "optax", "numpy"))
    return f"{model}, {len(os.sched_getaffinity(0))} core(s), Python {platform.python_version()}, {versions}"


def table(title: str, rows: Mapping[str, Sequence[float]], unit: str, reference: str) -> None:
    """Prints the median of each row's rounds, and the median of its paired ratios to the reference."""
    print(f"\n{title}\n  {'':48} {'median ' + unit:>14} {'x reference':>12}  (rounds: {len(rows[reference])})")
    for name, values in rows.items():
        ratio = statistics.median(value / base for value, base in zip(values, rows[reference]))
        print(f"  {name:48} {statistics.median(values):14.2f} {ratio:12.3f}")
