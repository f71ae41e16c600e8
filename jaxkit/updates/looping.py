"""Loops in a program, and where they are slow."""

import jax

from jaxkit import backends


def loop(body, carry, xs, *, unroll: bool | None = None):
    """`jax.lax.scan`, unrolled where a loop is slow on this backend.

    On a CPU a convolution inside a loop runs some thirty times slower than outside of one.

    Example:
        >>> import jax.numpy as jnp
        >>> float(loop(lambda total, x: (total + x, None), 0.0, jnp.arange(4.0))[0])
        6.0
    """
    if unroll is None:
        first = jax.tree.map(lambda x: x[0], xs)
        unroll = slow_in_a_loop(jax.make_jaxpr(body)(carry, first))
    return jax.lax.scan(body, carry, xs, unroll=bool(unroll) or 1)


def slow_in_a_loop(jaxpr) -> bool:
    """Whether a (closed) jaxpr is one that this backend runs slowly inside a loop: convolutions on a CPU.

    Example:
        >>> import jax.numpy as jnp
        >>> slow_in_a_loop(jax.make_jaxpr(lambda x: x @ x)(jnp.ones((2, 2))))
        False
    """
    return backends.platform() == "cpu" and mentions(jaxpr, ("conv_general_dilated",))


def mentions(jaxpr, primitives: tuple[str, ...]) -> bool:
    """Whether a primitive whose name begins with one of these is anywhere in a (closed) jaxpr.

    Example:
        >>> import jax.numpy as jnp
        >>> mentions(jax.make_jaxpr(jax.jit(jnp.sin))(1.0), ("sin",))
        True
    """
    return any(
        equation.primitive.name.startswith(primitives)
        or any(mentions(inner, primitives) for inner in _inner(equation))
        for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns
    )


def _inner(equation):
    leaves = jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns"))
    return [getattr(leaf, "jaxpr", leaf) for leaf in leaves if hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr")]
