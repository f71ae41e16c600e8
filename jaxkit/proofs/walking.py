"""A program walked operation by operation: what each made of what it was given.

`jax.debug_nans` stops at the first nan, also at one that a `where` throws away, and does not know the way there;
`checkify` has to be written into the program. So the traced program is evaluated here, equation by equation, into
calls and loops, and what reached the result can be followed back.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import source_info_util

# Calls that only wrap a program; the name of what they hold differs.
_CALLS = ("jit", "pjit", "closed_call", "core_call", "remat2", "checkpoint", "custom_jvp_call", "custom_vjp_call")
_INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr")


class Node(NamedTuple):
    """One array that was made on the way: an input, or a result of one operation.

    made_by: the operation, or "" for an input
    name:    of an input, its path: "state.params.dense_0.kernel"; of a `checkpoint_name`, that
    where:   the file, line and function that asked for it, and the iteration of the loops around it
    inputs:  the nodes that it was made of, those that gave it something not finite only where that is known
    nan, inf: how many of its values are
    largest: the largest magnitude of its finite values
    norm:    the Euclidean norm of all
    shape:   of the array
    rows:    which of its leading rows are not finite
    loops:   the iteration and length of each loop around it
    constant: whether it is made of nothing but what is written in the program
    """

    made_by: str
    name: str
    where: str
    inputs: tuple[int, ...]
    nan: int
    inf: int
    largest: float
    norm: float
    shape: tuple[int, ...]
    rows: tuple[int, ...]
    loops: tuple[tuple[int, int], ...]
    constant: bool

    @property
    def bad(self) -> bool:
        """Whether a value of it is not finite."""
        return self.nan + self.inf > 0


class Held(NamedTuple):
    """A value on its way, and the number of its node; -1 for a constant that is written in the program."""

    value: Any
    node: int


class Walk(NamedTuple):
    """What a walk saw: every node, in the order they were made; the nodes and the values of the results."""

    nodes: list[Node]
    results: tuple[int, ...]
    values: tuple[Any, ...]


def walk(program: Any, arguments: Sequence[Any], names: Sequence[str]) -> Walk:
    """Evaluates a closed jaxpr operation by operation.

    Example:
        >>> program = jax.make_jaxpr(lambda x: jnp.log(x) * 2)(1.0)
        >>> found = walk(program, [jnp.float32(-1)], ["x"])
        >>> [(node.made_by, node.nan) for node in found.nodes]
        [('', 0), ('log', 1), ('mul', 1)]
    """
    nodes: list[Node] = []
    inputs = [Held(value, _add(nodes, value, name=name)) for value, name in zip(arguments, names)]
    results = _evaluate(nodes, program.jaxpr, program.consts, inputs, "", ())
    return Walk(nodes, tuple(held.node for held in results), tuple(held.value for held in results))


def _evaluate(nodes, jaxpr, constants, inputs, within: str, loops: tuple[tuple[int, int], ...]) -> list[Held]:
    """`within` names the scopes around the program, `loops` the iteration and length of each loop around it."""
    known: dict[Any, Held] = {}
    read = lambda atom: known[atom] if not hasattr(atom, "val") else Held(atom.val, -1)
    known.update(zip(jaxpr.constvars, (Held(value, -1) for value in constants)))
    known.update(zip(jaxpr.invars, inputs))
    for equation in jaxpr.eqns:
        held = [read(atom) for atom in equation.invars]
        scope = "/".join(filter(None, [within, str(equation.source_info.name_stack)]))
        made = _inside(nodes, equation, held, scope, loops)
        if made is None:
            made = _operation(nodes, equation, held, scope, loops)
        known.update(zip(equation.outvars, made))
    return [read(atom) for atom in jaxpr.outvars]


def _inside(nodes, equation, held, scope, loops) -> list[Held] | None:
    """Walks into calls, loops and branches; None for a plain operation."""
    parameters, name = equation.params, equation.primitive.name
    into = lambda closed, inputs, loops=loops: _evaluate(
        nodes, getattr(closed, "jaxpr", closed), getattr(closed, "consts", ()), inputs, scope, loops
    )
    if name in _CALLS:
        return into(next(parameters[key] for key in _INNER if key in parameters), held)
    if name == "cond":
        return into(parameters["branches"][int(held[0].value)], held[1:])
    # A loop that is several at once, or none, is an operation like any other.
    if name == "while" and not parameters["cond_jaxpr"].out_avals[0].shape:
        return _while(into, parameters, held, loops)
    if name == "scan" and parameters["length"]:
        return _scan(nodes, into, parameters, held, scope, loops)
    return None


def _while(into, parameters, held, loops) -> list[Held]:
    first, second = parameters["cond_nconsts"], parameters["cond_nconsts"] + parameters["body_nconsts"]
    carry, number = held[second:], 0
    while bool(into(parameters["cond_jaxpr"], [*held[:first], *carry])[0].value):
        carry = into(parameters["body_jaxpr"], [*held[first:second], *carry], (*loops, (number, 0)))
        number += 1
    return carry


def _scan(nodes, into, parameters, held, scope, loops) -> list[Held]:
    length = parameters["length"]
    constants, carry, stacked = _parts_of(parameters, held)
    made: dict[int, list[Held]] = {}
    for number in reversed(range(length)) if parameters["reverse"] else range(length):
        # A slice is what it was cut from: its own numbers, the same origin.
        parts = [Held(whole.value[number], _part(nodes, whole, number)) for whole in stacked]
        results = into(parameters["jaxpr"], [*constants, *carry, *parts], (*loops, (number, length)))
        carry, made[number] = results[: len(carry)], results[len(carry) :]
    columns = zip(*(made[number] for number in range(length)))
    together = [Held(jnp.stack([x.value for x in column]), _stack(nodes, column)) for column in columns]
    return [*carry, *together]


def _parts_of(parameters, held) -> list[list[Held]]:
    """The constants, the carry and what is stacked, of all that a scan is given."""
    if "ft_in" in parameters:  # since jax 0.12 a tree says so
        return [list(part) for part in parameters["ft_in"].update(held).unpack()]
    first = parameters["num_consts"]
    second = first + parameters["num_carry"]
    return [held[:first], held[first:second], held[second:]]


def _part(nodes, whole: Held, number: int) -> int:
    return _add(nodes, whole.value[number], made_by="slice", inputs=(whole.node,)) if whole.node >= 0 else -1


def _stack(nodes, column: Sequence[Held]) -> int:
    value = jnp.stack([held.value for held in column])
    return _add(nodes, value, made_by="stack", inputs=tuple(held.node for held in column if held.node >= 0))


def _operation(nodes, equation, held, scope: str, loops) -> list[Held]:
    primitive = equation.primitive
    with equation.ctx.manager:
        results = primitive.bind(*(x.value for x in held), **primitive.get_bind_params(equation.params))
    results = results if primitive.multiple_results else [results]
    where = _place(equation, scope, loops)
    name = equation.params.get("name", "") if primitive.name == "name" else ""
    # A `where` passes on a part of what it is given: what it throws away is nobody's cause.
    sources = _chosen(held) if primitive.name == "select_n" else held
    inputs = tuple(dict.fromkeys(x.node for x in sources if x.node >= 0))
    made = {"made_by": primitive.name, "name": name, "where": where, "inputs": inputs, "loops": loops}
    return [Held(value, _add(nodes, value, **made)) for value in results]


def _chosen(held: Sequence[Held]) -> list[Held]:
    """Of a selection, the cases from which something that is not finite came through; all where nothing did."""
    which, *cases = held
    index = np.asarray(which.value).astype(np.int32)
    bad = [case for n, case in enumerate(cases) if np.any(_not_finite(case.value) & (index == n))]
    return bad or list(held)


def _place(equation, scope: str, loops) -> str:
    said = source_info_util.summarize(equation.source_info)
    said = "" if said == "unknown" else said
    # Which backward pass and which call it is in; the transformations' own scopes say it.
    iterations = "".join(f", iteration {number}" for number, _ in loops)
    return " ".join(filter(None, [said, f"[{scope}]" if scope else ""])) + iterations


def _add(nodes, value, *, made_by="", name="", where="", inputs=(), loops=()) -> int:
    nan = inf = 0
    largest = norm = 0.0
    rows: tuple[int, ...] = ()
    if jnp.issubdtype(value.dtype, jnp.inexact):
        host = np.asarray(value)
        host = host.astype(np.complex128 if np.iscomplexobj(host) else np.float64)
        finite = np.isfinite(host)
        nan, inf = int(np.isnan(host).sum()), int(np.isinf(host).sum())
        magnitudes = np.abs(np.where(finite, host, 0))
        largest, norm = float(magnitudes.max(initial=0.0)), float(np.linalg.norm(magnitudes.reshape(-1)))
        if nan + inf:
            norm = float("nan") if nan else float("inf")
            rows = _rows(~finite)
    constant = bool(made_by) and all(nodes[n].constant for n in inputs)
    seen = (tuple(inputs), nan, inf, largest, norm, tuple(value.shape), rows, loops, constant)
    nodes.append(Node(made_by, name, where, *seen))
    return len(nodes) - 1


def _rows(bad: np.ndarray) -> tuple[int, ...]:
    if bad.ndim == 0:
        return ()
    return tuple(np.flatnonzero(bad.reshape(bad.shape[0], -1).any(axis=1)).tolist())


def _not_finite(value: Any) -> np.ndarray:
    if not jnp.issubdtype(value.dtype, jnp.inexact):
        return np.zeros(np.shape(value), bool)
    return ~np.isfinite(np.asarray(value).astype(np.complex128))


@contextlib.contextmanager
def eagerly() -> Iterator[None]:
    """Evaluating operation by operation is not a program of the user's: what tests forbid those is not judged."""
    with jax.debug_key_reuse(False), jax.numpy_rank_promotion("allow"):
        yield
