"""The preflight: the whole experiment traced on shapes alone, before data is opened or a device is used."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxkit import checks, contracts, costs, notes, updates
from jaxkit.data import schema
from jaxkit.types import Metrics, Recipe, State

__all__ = ["Plan", "Recipe", "abstract_batch", "plan"]


class Plan(NamedTuple):
    """What a recipe comes to, in numbers.

    parameters:  {path: ShapeDtypeStruct} of every parameter
    num_parameters, parameter_bytes
    state_bytes: parameters, optimizer and batch statistics
    batch_bytes: one training batch
    flops:       of one update, over all devices, what is rematerialised included (`costs.flops`)
    model_flops: 3 x those of the model forward (Chowdhery et al. 2022, "PaLM"), for utilisation; None where no
                 split is held out to evaluate on
    intermediate_bytes: of all that one update computes (`costs.intermediate_bytes`)
    slow_in_a_loop: whether this backend runs the update slowly inside a loop
    metrics:     {split: {name: abstract additive}} of what training and evaluation measure
    predictions: {name: ShapeDtypeStruct} of what `predict` returns
    state:       the abstract State
    notes:       what the update decided while it was traced: which attention, and why; metrics that count padding
    """

    parameters: Mapping[str, jax.ShapeDtypeStruct]
    num_parameters: int
    parameter_bytes: int
    state_bytes: int
    batch_bytes: int
    flops: float
    model_flops: float | None
    intermediate_bytes: float
    slow_in_a_loop: bool
    metrics: Mapping[str, Metrics]
    predictions: Mapping[str, jax.ShapeDtypeStruct]
    state: State
    notes: tuple[str, ...]


def plan(recipe: Recipe, *, batch_size: int) -> Plan:
    """Traces init, update, evaluate and predict on abstract arrays, and checks what they return.

    Raises:
        UsageError: names the part that broke its contract, and how.

    Example:
        >>> import optax
        >>> from jaxkit import data, metrics, models, objectives, parallel, updates
        >>> import numpy as np
        >>> model, loss = models.mlp(num_classes=3), optax.softmax_cross_entropy_with_integer_labels
        >>> objective = objectives.classification(model, loss, num_classes=3, inputs="x", targets="y")
        >>> optimizer, layout = optax.sgd(0.1), parallel.jit()
        >>> source = data.arrays({"x": np.zeros((9, 4), np.float32), "y": np.zeros(9, np.int32)})
        >>> recipe = Recipe(
        ...     data={"train": source, "test": source},
        ...     init=lambda key: updates.init_state(*model.init(key, np.zeros((1, 4))), optimizer),
        ...     update=updates.step(layout.across(updates.gradients(objective)), optimizer),
        ...     evaluate=objectives.evaluation(model, loss, inputs="x", targets="y"),
        ...     predict=lambda params, extra, batch: {"logits": model.apply(params, extra, batch["x"])[0]},
        ...     layout=layout)
        >>> plan(recipe, batch_size=8).num_parameters
        67843
    """
    contracts.recipe(recipe)
    schema.check_sources(recipe.data)
    layout = recipe.layout
    if batch_size % layout.divisor:
        raise checks.UsageError(
            f"config.batch_size: {batch_size} does not divide over the {layout.divisor} parts of"
            f" config.layout; use a multiple of {layout.divisor}"
        )
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = contracts.named("init", jax.eval_shape, recipe.init, key)
    contracts.state(state)
    if layout.shardings is not None:
        layout.shardings(state)  # rules that do not fit are said now

    batch = abstract_batch(recipe, "train", batch_size)
    compiled = layout.compile(recipe.update)
    update = lambda state, batch, key: compiled(state, layout.put_batch(batch), key)
    make_jaxpr = jax.make_jaxpr(contracts.pair(update, "(state, metrics)"), return_shape=True)
    with notes.collect() as noted:
        jaxpr, (new_state, train_metrics) = contracts.named("update", make_jaxpr, state, batch, key)
    contracts.same("update: state", state, new_state)
    if layout.sums_by and not updates.mentions(jaxpr, layout.sums_by):
        raise checks.UsageError(
            f"update: config.layout splits the batch over {layout.num_devices} devices, and nothing sums over"
            " them; compose it with layout.across(gradients)"
        )
    contracts.measured("update", train_metrics)
    metrics, forward = {"train": train_metrics}, None
    for split in recipe.data:
        if split == "train":
            continue
        batch = abstract_batch(recipe, split, batch_size)
        mask = jax.ShapeDtypeStruct((batch_size,), jnp.bool_)
        came, wanted = (checks.describe(x) for x in (batch.get("mask", mask), mask))
        if came != wanted:
            raise checks.UsageError(
                f"config.data.{split}: mask: came {came}, wanted {wanted}: one for each example"
            )
        batch["mask"] = mask
        # Uncompiled: what a layout adds is a sum, which changes no shape.
        make_jaxpr = jax.make_jaxpr(recipe.evaluate, return_shape=True)
        forward, metrics[split] = contracts.named("evaluate", make_jaxpr, state.params, state.extra, batch)
        contracts.measured("evaluate", metrics[split])
        noted += _unmasked(split, forward, (state.params, state.extra, batch), metrics[split])
    predictions = contracts.named("predict", jax.eval_shape, recipe.predict, state.params, state.extra, batch)
    contracts.predictions(predictions, batch_size)
    leaves = jax.tree_util.tree_leaves_with_path(state.params)
    parameters = {checks.path_of(path): leaf for path, leaf in leaves}
    return Plan(
        parameters=parameters,
        num_parameters=sum(math.prod(leaf.shape) for leaf in parameters.values()),
        parameter_bytes=nbytes(state.params),
        state_bytes=nbytes(state),
        batch_bytes=nbytes(abstract_batch(recipe, "train", batch_size)),
        flops=costs.flops(jaxpr),
        model_flops=3 * costs.flops(forward) if forward is not None else None,
        intermediate_bytes=costs.intermediate_bytes(jaxpr),
        slow_in_a_loop=updates.slow_in_a_loop(jaxpr),
        metrics=metrics,
        predictions=predictions,
        state=state,
        notes=tuple(noted),
    )


def _unmasked(split: str, forward: Any, given: tuple[Any, ...], found: Metrics) -> list[str]:
    """A line for each metric of a held-out split that is made of its examples, whatever their mask says."""
    *before, batch = (jax.tree_util.tree_leaves_with_path(part) for part in given)
    is_mask = [checks.path_of(path) == "mask" for path, _ in batch]
    outside = [False] * sum(map(len, before))
    of_mask = _reached(forward.jaxpr, [*outside, *is_mask])
    of_others = _reached(forward.jaxpr, [*outside, *(not on for on in is_mask)])
    names = [name for name in sorted(found) for _ in jax.tree.leaves(found[name])]
    masked = {name for name, on in zip(names, of_mask) if on}
    counted = dict.fromkeys(name for name, on in zip(names, of_others) if on and name not in masked)
    return [
        f"warning: {split}: metric {name!r} does not look at its mask: in padded batches it counts padding;"
        " means.mean(values, mask) leaves it out"
        for name in counted
    ]


def _reached(jaxpr: Any, marked: list[bool]) -> list[bool]:
    """Which outputs of a program are computed from its marked inputs."""
    seen = {variable for variable, on in zip(jaxpr.invars, marked) if on}
    for equation in jaxpr.eqns:
        # A number that is written into the program has a value.
        given = [not hasattr(x, "val") and x in seen for x in equation.invars]
        inner = equation.params.get("jaxpr") if equation.primitive.name in ("jit", "pjit") else None
        made = _reached(inner.jaxpr, given) if inner is not None else [any(given)] * len(equation.outvars)
        seen.update(x for x, on in zip(equation.outvars, made) if on)
    return [not hasattr(x, "val") and x in seen for x in jaxpr.outvars]


class Memory(NamedTuple):
    """The bytes of one update on one device, as its compiler planned them.

    arguments, outputs, aliases (outputs that reuse arguments), temporaries
    """

    arguments: int
    outputs: int
    aliases: int
    temporaries: int

    @property
    def total(self) -> int:
        """What must fit at once: arguments + outputs - aliases + temporaries."""
        return self.arguments + self.outputs - self.aliases + self.temporaries

    @property
    def moved(self) -> int:
        """The least that is read and written: each argument once, each output once."""
        return self.arguments + self.outputs


def memory(recipe: Recipe, found: Plan, *, batch_size: int) -> Memory:
    """Compiles one update on abstract arrays and reads what it will take; nothing is allocated.

    Example:
        >>> Memory(arguments=8, outputs=6, aliases=6, temporaries=2).total
        10
    """
    layout = recipe.layout
    compiled = layout.compile(recipe.update)
    update = lambda state, batch, key: compiled(state, layout.put_batch(batch), key)
    state = found.state
    if layout.shardings is not None:
        place = lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
        state = jax.tree.map(place, state, layout.shardings(state))
    batch, key = abstract_batch(recipe, "train", batch_size), jax.eval_shape(lambda: jax.random.key(0))
    analysis: Any = jax.jit(update, donate_argnums=0).lower(state, batch, key).compile().memory_analysis()
    return Memory(
        analysis.argument_size_in_bytes,
        analysis.output_size_in_bytes,
        analysis.alias_size_in_bytes,
        analysis.temp_size_in_bytes,
    )


def abstract_batch(recipe: Recipe, split: str, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes and dtypes of a batch of one split, from the schema alone."""
    return {
        name: jax.ShapeDtypeStruct((batch_size, *field.shape), field.dtype)
        for name, field in recipe.data[split].schema.items()
    }


def nbytes(tree: Any) -> int:
    """The bytes of a pytree of (abstract) arrays.

    Example:
        >>> nbytes({"w": jax.ShapeDtypeStruct((3, 2), jnp.float32)})
        24
    """
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
