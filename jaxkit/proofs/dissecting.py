"""One update, taken apart: which arrays are not finite, what made them so, and what each layer did."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxkit import checks
from jaxkit.proofs import causes, walking
from jaxkit.proofs.walking import Node

_PARAMS, _GRADIENT = "state.params.", "gradient "


class Layer(NamedTuple):
    """One array of parameters at a step: its norm, those of its gradient and its change, and the step before.

    gradient is None where the update does not name its gradients (`updates.step` does)
    """

    path: str
    parameter: float
    gradient: float | None
    update: float
    gradient_before: float | None
    update_before: float | None


class Operation(NamedTuple):
    """One operation: its name, where it stands, and what it made; an input has its path for a name.

    largest: the largest magnitude of the finite values of its result
    """

    name: str
    where: str
    shape: tuple[int, ...]
    nan: int
    inf: int
    largest: float


class Findings(NamedTuple):
    """What an update was made of.

    finite:   whether gradients, metrics and parameters are
    first:    the first array that is not: of the gradients, the metrics, the new parameters; "" where all are
    made_by:  the operation, or input, that made it so; where that was an infinity, also what made a nan of it
    layer:    the array of parameters nearest to it
    culprits: the numbers of the examples in whose rows it is, where its rows are those of a batch
    way:      the operations before it, nearest first, each with the largest magnitude that went into the next
    layers:   those that stand out first
    """

    finite: bool
    first: str
    made_by: tuple[Operation, ...]
    layer: str
    culprits: tuple[int, ...]
    way: tuple[Operation, ...]
    layers: tuple[Layer, ...]


def take_apart(
    update: Callable[..., Any], now: tuple[Any, Any, Any], before: tuple[Any, Any, Any] | None, indices: np.ndarray
) -> Findings:
    """Takes an update apart, beside the one before it.

    Args:
        update: the recipe's, not compiled.
        now: (state, batch, key) that it is given.
        before: what it was given a step earlier; None where that is not known.
        indices: the numbers of the batch's examples, i32[batch].
    """
    seen, earlier = _seen(update, now), _seen(update, before) if before is not None else None
    nodes, bad, layers = seen.nodes, _bad(seen), tuple(_layers(seen, earlier))
    if not bad:
        return Findings(True, "", (), "", (), (), layers)
    # Of all that is not finite, what goes back to the earliest operation.
    ways = [causes.origin(nodes, number) for number in bad.values()]
    chain = causes.turning_points(nodes, min(ways, key=lambda way: way[-1]))
    return Findings(
        finite=False,
        first=next(iter(bad)),
        made_by=tuple(_operation(nodes[n]) for n in chain),
        layer=causes.nearest_input(nodes, chain[0], _PARAMS),
        culprits=_culprits(nodes[chain[0]], indices),
        way=tuple(_operation(nodes[n]) for n in causes.magnitudes(nodes, chain[0])),
        layers=layers,
    )


class _Seen(NamedTuple):
    """One update, walked: its nodes, what it was given by name, and {name of a result: (node, value)}."""

    nodes: Sequence[Node]
    given: Mapping[str, Any]
    results: Mapping[str, tuple[int, Any]]


def _seen(update: Callable[..., Any], arguments: tuple[Any, Any, Any]) -> _Seen:
    program, shapes = jax.make_jaxpr(update, return_shape=True)(*arguments)
    names = _names(arguments, ("state", "batch", "key"))
    leaves = [jax.numpy.asarray(leaf) for leaf in jax.tree.leaves(arguments)]
    with walking.eagerly():
        walked = walking.walk(program, leaves, names)
    results = zip(_names(shapes, ("state", "metrics")), zip(walked.results, walked.values))
    return _Seen(walked.nodes, dict(zip(names, leaves)), dict(results))


def _names(tree: Sequence[Any], parts: Sequence[str]) -> list[str]:
    found = jax.tree_util.tree_leaves_with_path(tuple(tree))
    return [".".join(filter(None, [parts[path[0].idx], checks.path_of(path[1:])])) for path, _ in found]


def _bad(seen: _Seen) -> dict[str, int]:
    """{name: node} of the gradients, metrics and parameters that are not finite, in that order."""
    found = {name: node for name, node in causes.named(seen.nodes).items() if name.startswith(_GRADIENT)}
    for prefix in ("metrics.", _PARAMS):
        found |= {name: node for name, (node, _) in seen.results.items() if name.startswith(prefix)}
    return {name: node for name, node in found.items() if node >= 0 and seen.nodes[node].bad}


def _operation(node: Node) -> Operation:
    name = node.made_by or node.name
    return Operation(name, node.where or "given to the update", node.shape, node.nan, node.inf, node.largest)


def _culprits(node: Node, indices: np.ndarray) -> tuple[int, ...]:
    """The examples whose rows are not finite, where the rows are those of a batch, or of a part of one."""
    size = node.shape[0] if node.shape else 0
    if size == len(indices):
        return tuple(indices[list(node.rows)].tolist())
    for number, length in node.loops:
        if size and size * length == len(indices):
            return tuple(indices[[number * size + row for row in node.rows]].tolist())
    return ()


def _layers(seen: _Seen, earlier: _Seen | None) -> list[Layer]:
    """Norms by array of parameters, what stands out most against the step before first."""
    before = _norms(earlier) if earlier is not None else {}
    found = []
    for path, (gradient, update) in _norms(seen).items():
        parameter = float(np.linalg.norm(_wide(seen.given[_PARAMS + path])))
        found.append(Layer(path, parameter, gradient, update, *before.get(path, (None, None))))
    return sorted(found, key=_stands_out, reverse=True)


def _norms(seen: _Seen) -> dict[str, tuple[float | None, float]]:
    """{path: (norm of the gradient, norm of the change)} of every array of parameters."""
    gradients, found = causes.named(seen.nodes), {}
    for name, given in seen.given.items():
        if name.startswith(_PARAMS):
            path, after = name.removeprefix(_PARAMS), seen.results[name][1]
            node = gradients.get(_GRADIENT + path)
            found[path] = (
                None if node is None else seen.nodes[node].norm,
                float(np.linalg.norm(_wide(after) - _wide(given))),
            )
    return found


def _wide(array: Any) -> np.ndarray:
    return np.asarray(array).astype(np.complex128 if np.iscomplexobj(array) else np.float64).reshape(-1)


def _stands_out(layer: Layer) -> tuple[bool, float]:
    known = layer.gradient is not None
    size, before = (layer.gradient, layer.gradient_before) if known else (layer.update, layer.update_before)
    assert size is not None
    return not math.isfinite(size), size / before if before else size
