"""What a run was run in, beside what is here now."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxkit.errors import UsageError
from jaxkit.proofs import children
from jaxkit.runs import provenance

# What of the environment is set as it was; which of a machine's devices are free is another matter.
_SET_AS_RECORDED = provenance.NUMBERS
# Whose versions matter first: they make the numbers.
_FIRST = ("jax", "jaxlib", "numpy", "optax", "flax", "jaxkit", "ml_dtypes", "orbax-checkpoint", "grain")


def recorded(noted: Mapping[str, Any], code: Path) -> dict[str, str]:
    """The environment of a process that runs `code` with the flags that a run has noted."""
    was = noted.get("environment", {})
    made = children.environment(code, *(path for path in [code / "src"] if path.is_dir()))
    rest = {name: value for name, value in made.items() if name not in _SET_AS_RECORDED}
    return {**rest, **{name: was[name] for name in _SET_AS_RECORDED if name in was}}


def here(environment: Mapping[str, str], top: Path) -> dict[str, Any]:
    """The provenance that a run would note now, asked of a process of its own: devices are not for this one."""
    script = "import json; from jaxkit.runs import provenance as p; print(json.dumps(p.collect("
    script += "fingerprint='', seed=0, manifests={})))"
    # Asked of this jaxkit: that of the run may be an older one.
    environment = {**environment, "PYTHONPATH": children.environment()["PYTHONPATH"]}
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True, env=environment, cwd=top
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise UsageError(f"environment: jax does not start with the recorded flags: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def differences(noted: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line for each thing that is not as recorded: versions, Python, devices, driver, flags.

    Example:
        >>> differences({"packages": {"jax": "0.10.1"}}, {"packages": {"jax": "0.10.2"}})
        ['jax: recorded 0.10.1, here 0.10.2']
    """
    lines = []
    old, new = noted.get("packages", {}), now.get("packages", {})
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    first = [name for name in _FIRST if name in changed]
    others = [f"{name} {old.get(name)}, {new.get(name)}" for name in sorted({*changed} - {*_FIRST})]
    said = lambda a, b: f"recorded {a if a is not None else 'none'}, here {b if b is not None else 'none'}"
    lines += [f"{name}: {said(old.get(name), new.get(name))}" for name in first]
    if others:
        lines.append(f"{len(others)} other packages: recorded and here: {'; '.join(others)}")
    for name in ("python", "platform", "devices", "driver"):
        if name in noted and noted[name] != now.get(name):
            lines.append(f"{name}: {said(noted[name], now.get(name))}")
    flags = noted.get("environment", {}), now.get("environment", {})
    for name in sorted({*flags[0], *flags[1]}):
        if "environment" in noted and flags[0].get(name) != flags[1].get(name):
            lines.append(f"{name}: {said(flags[0].get(name), flags[1].get(name))}")
    return lines
