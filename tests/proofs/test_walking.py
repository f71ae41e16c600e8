"""A program walked operation by operation: its own numbers, and the way back to what spoiled them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkit import models, objectives, random, updates
from jaxkit.proofs import causes, dissecting, walking


def walked(function, *arguments, names=None):
    program = jax.make_jaxpr(function)(*arguments)
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(arguments)]
    with walking.eagerly():
        return walking.walk(program, leaves, names or [f"x{n}" for n in range(len(leaves))])


def made_by(function, *arguments) -> list[str]:
    """The operations that spoiled the first result: the first one, and what made a nan of its infinity."""
    found = walked(function, *arguments)
    path = causes.origin(found.nodes, found.results[0])
    return [found.nodes[n].made_by or found.nodes[n].name for n in causes.turning_points(found.nodes, path)]


@jax.custom_vjp
def squared(x):
    return x * x


squared.defvjp(lambda x: (squared(x), x), lambda x, g: (2 * x * g,))


def looped(x):
    """Calls, loops, branches and derivatives of one's own, around the same arithmetic."""
    x = jax.lax.fori_loop(0, 3, lambda n, y: y * 1.5 + n, x)
    x, ys = jax.lax.scan(lambda carry, y: (carry + jnp.sin(y), carry * y), x, jnp.arange(4.0))
    _, zs = jax.lax.scan(lambda carry, y: (carry + y, carry), 0.0, ys, reverse=True)
    x = jax.lax.cond(x > 0, lambda y: jnp.sqrt(y), lambda y: -y, x)
    x = jax.lax.while_loop(lambda y: y < 100, lambda y: y * 3, x)
    return jax.checkpoint(lambda y: squared(jax.nn.relu(y)))(x) + ys.sum() + zs[1]


def test_what_a_walk_comes_to_is_what_the_program_does():
    found = walked(jax.jit(looped), 0.7)
    np.testing.assert_allclose(found.values[0], looped(0.7), rtol=1e-6)
    assert not any(node.bad for node in found.nodes)


def test_the_operation_is_named_with_its_place_and_the_magnitudes_on_the_way():
    found = walked(lambda x: jnp.exp(x * 100.0) + 1, jnp.array([0.5, 2.0]))
    path = causes.origin(found.nodes, found.results[0])
    node = found.nodes[path[-1]]
    assert (node.made_by, node.inf, node.rows, node.shape) == ("exp", 1, (1,), (2,))
    assert "test_walking.py" in node.where
    way = [found.nodes[n] for n in causes.magnitudes(found.nodes, path[-1])]
    assert [(step.made_by or step.name, step.largest) for step in way] == [("mul", 200.0), ("x0", 2.0)]


MASKED = jnp.array([True, False])
CASES = {
    # log(-1) is the first; the sum only passes it on.
    "a nan": (lambda x: jnp.sum(jnp.log(x)), ["log"]),
    "an infinity that becomes a nan": (lambda x: jnp.exp(1000 * x[1:]) * 0.0, ["exp", "mul"]),
    "a nan that is thrown away is no cause": (
        lambda x: jnp.where(x > 0, jnp.log(x), 0.0).sum() / (x[0] - x[0]),
        ["div"],
    ),
    "a mask of minus infinity is no cause": (
        lambda x: jax.nn.softmax(jnp.where(MASKED, x, -jnp.inf)).sum() + jnp.sqrt(x[0]),
        ["sqrt"],
    ),
    "a row that is masked out whole": (lambda x: jnp.where(x > 9, x, -jnp.inf) + jnp.inf, ["add"]),
    "what was given": (lambda x: x[1] + jnp.array([jnp.inf, 1.0]), ["add"]),
    "in a loop": (lambda x: jax.lax.scan(lambda c, y: (c - 1.0, jnp.log(c)), x[1], None, length=5)[1], ["log"]),
    "in a branch": (lambda x: jax.lax.cond(x[0] < 0, jnp.sqrt, jnp.abs, x[0]), ["sqrt"]),
    "in several loops at once": (
        lambda x: jax.vmap(lambda y: jax.lax.while_loop(lambda z: z < 4, lambda z: z * 2 + 3, y))(x) * jnp.log(x),
        ["log"],
    ),
    "after a loop of no iterations": (
        lambda x: jax.lax.scan(lambda c, y: (c, y * 2), x, jnp.zeros((0, 2)))[1].sum() + jnp.log(x),
        ["log"],
    ),
    "in a call": (lambda x: jax.jit(jax.checkpoint(jnp.log1p))(x * 2), ["log1p"]),
}


@pytest.mark.parametrize("name", CASES)
def test_the_first_operation_is_found(name):
    function, wanted = CASES[name]
    assert made_by(function, jnp.array([-1.0, 2.0])) == wanted


def test_an_input_that_is_not_finite_is_named():
    assert made_by(lambda x: x * 2, jnp.array([1.0, jnp.nan])) == ["x0"]


def test_an_iteration_is_named():
    found = walked(lambda x: jax.lax.scan(lambda c, y: (c - 1.0, jnp.log(c)), x, None, length=5)[1], 2.5)
    path = causes.origin(found.nodes, found.results[0])
    # 2.5, 1.5, 0.5, -0.5: the fourth.
    assert found.nodes[path[-1]].where.endswith("iteration 3")


def test_a_spike_is_seen_in_the_norms_beside_those_of_the_step_before():
    model = models.mlp(num_classes=2, features=(4,))
    loss = optax.softmax_cross_entropy_with_integer_labels
    objective = objectives.classification(model, loss, num_classes=2)
    optimizer = optax.sgd(0.5)
    update = updates.step(updates.gradients(objective), optimizer)
    state = updates.init_state(*model.init(jax.random.key(0), jnp.zeros((1, 3))), optimizer)
    batch = {"image": np.ones((8, 3), np.float32), "label": np.arange(8, dtype=np.int32) % 2}
    key = random.named(jax.random.key(0), "update")
    large = {**batch, "image": batch["image"] * 50}
    found = dissecting.take_apart(update, (state, large, key), (state, batch, key), np.arange(8))
    assert found.finite
    (first, *_) = found.layers
    # The gradient of a kernel grows with what goes in, and that of the next layer with what comes out.
    assert first.path in ("dense_0.kernel", "output.kernel")
    assert first.gradient > 5 * first.gradient_before
    assert first.update == pytest.approx(0.5 * first.gradient, rel=1e-5)
