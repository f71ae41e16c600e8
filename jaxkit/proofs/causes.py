"""What a walk through a program has seen, read backwards: from a result to what made it so."""

from collections.abc import Sequence

from jaxkit.proofs.walking import Node


def origin(nodes: Sequence[Node], result: int) -> list[int]:
    """The way back from a result that is not finite to the operation, or the input, that made it so.

    Returns:
        Node numbers, the result first; the last has nothing but finite inputs, or is an input itself.
    """
    path = [result]
    while True:
        node = nodes[path[-1]]
        # An infinity that is written in the program (a mask) is no cause.
        bad = sorted(n for n in node.inputs if nodes[n].bad and not nodes[n].constant)
        # What is nan came from a nan where there is one; only else was it made of infinities.
        wanted = [number for number in bad if nodes[number].nan] if node.nan else bad
        candidates = wanted or bad
        if not candidates:
            return path
        path.append(candidates[0])


def turning_points(nodes: Sequence[Node], path: Sequence[int]) -> list[int]:
    """Of the way back to an origin: the origin, and where its infinity became a nan."""
    first = path[-1]
    if nodes[first].nan or not any(nodes[n].nan for n in path):
        return [first]
    return [first, next(n for n in reversed(path) if nodes[n].nan)]


def magnitudes(nodes: Sequence[Node], number: int, *, most: int = 6) -> list[int]:
    """The operations before one, each time the input with the largest magnitude; nearest first."""
    found: list[int] = []
    while len(found) < most:
        inputs = [n for n in nodes[number].inputs if nodes[n].shape or nodes[n].largest]
        if not inputs:
            break
        number = max(inputs, key=lambda n: (nodes[n].bad, nodes[n].largest))
        found.append(number)
    return found


def nearest_input(nodes: Sequence[Node], number: int, prefix: str) -> str:
    """The input with a name that begins so which an operation is nearest to; "" where it depends on none."""
    seen, front = {number}, [number]
    while front:
        for n in front:
            if nodes[n].name.startswith(prefix) and not nodes[n].made_by:
                return nodes[n].name.removeprefix(prefix)
        front = [n for node in front for n in nodes[node].inputs if n not in seen and not seen.add(n)]  # type: ignore[func-returns-value]
    return ""


def named(nodes: Sequence[Node]) -> dict[str, int]:
    """What the program itself has given a name (`checkpoint_name`): {name: the last node of that name}."""
    return {node.name: number for number, node in enumerate(nodes) if node.made_by == "name"}
