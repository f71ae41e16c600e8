"""Layouts: how one and the same update is spread over devices.

Whatever the layout, `put_batch` takes the same global batch and the numbers are the same: to rounding under
`jit`, `pmap` and `mesh`, to the bit on any number of devices under `exact`.
"""

from jaxkit.parallel.activations import by_axis, constrain
from jaxkit.parallel.exactly import exact
from jaxkit.parallel.meshes import mesh
from jaxkit.parallel.replicated import jit, pmap
from jaxkit.parallel.rules import by_path, by_size

__all__ = ["by_axis", "by_path", "by_size", "constrain", "exact", "jit", "mesh", "pmap"]
