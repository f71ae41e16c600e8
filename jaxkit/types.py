"""The contracts of jaxkit, on one page: signatures of plain functions.

There is nothing to inherit from. A function (or a `NamedTuple` of functions) that fits a signature
here is a component, wherever it is defined.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import numpy as np

# The process that serves the writers does without jax.
from jaxkit.writing import Tracked as Tracked
from jaxkit.writing import Writer as Writer

Key = jax.Array
"""A typed PRNG key, shape (). Made by `jax.random.key(seed)`; whoever receives it consumes it."""

Params = Any
"""A pytree of arrays that gradients are taken of."""

Extra = Any
"""A pytree of what changes without a gradient (batch statistics); `{}` for most models."""

Batch = Mapping[str, jax.Array | np.ndarray]
"""`{name: array[batch, ...]}`; an optional "mask": bool[batch] is False where an example is padding."""


class Indexed(NamedTuple):
    """A batch by reference: data that lives on the devices, and which of its examples to take.

    arrays:  {name: array[size, ...]}, the same at every step
    indices: i32[batch]
    """

    arrays: Batch
    indices: jax.Array | np.ndarray


class Additive(Protocol):
    """A metric's state: states of disjoint examples are added, then computed once."""

    def __add__(self, other: Any) -> Any:
        """The state of both sets of examples together: the sum of each array, which layouts take for it."""

    def compute(self) -> Any:
        """The metric's value; an error on the host where no example was counted, nan in a trace."""


Metrics = Mapping[str, Additive]


class Model(NamedTuple):
    """A network as two pure functions; hyperparameters are bound by whoever made it.

    init:  (key, inputs) -> (params, extra)
    apply: (params, extra, inputs, *, key=None, train=False) -> (outputs, extra)
    """

    init: Callable[[Key, Any], tuple[Params, Extra]]
    apply: Callable[..., tuple[Any, Extra]]


class Decoder(NamedTuple):
    """A model of sequences that can go on from what it has read; its first two fields are a Model's.

    init:   (key, tokens) -> (params, extra)
    apply:  (params, extra, tokens i32[batch, length], *, key=None, train=False)
            -> (logits f32[batch, length, vocabulary_size], extra)
    cache:  (batch, length, dtype=float32) -> what is kept of the tokens read so far: empty, with `length` places
    extend: (params, tokens i32[batch, n], cache, *, lengths=None, last=False)
            -> (logits f32[batch, n, vocabulary_size], cache): reads n more tokens in each row, of which the
            first `lengths` i32[batch] are real (None: all); with last=True only the logits after each row's
            last real token, f32[batch, 1, vocabulary_size]
    vocabulary_size: tokens are 0 to vocabulary_size - 1
    max_length:      the longest sequence that can be read
    """

    init: Callable[[Key, Any], tuple[Params, Extra]]
    apply: Callable[..., tuple[Any, Extra]]
    cache: Callable[..., Any]
    extend: Callable[..., tuple[jax.Array, Any]]
    vocabulary_size: int
    max_length: int


Loss = Callable[[Any, Any], jax.Array]
"""(outputs, targets) -> f32[batch]: per example, unreduced."""

Metric = Callable[..., Additive]
"""(outputs, targets, mask: bool[batch] | None) -> Additive."""

Augmentation = Callable[[Batch, Key], Batch]
"""(batch, key) -> batch: pure, on the device, as many examples out as in."""

Objective = Callable[[Params, Extra, Batch, Key], tuple[Any, tuple[Metrics, Extra]]]
"""(params, extra, batch, key) -> (Mean of the loss, ({name: additive}, extra))."""

Gradients = Callable[[Params, Extra, Batch, Key], tuple[Any, Metrics, Extra]]
"""(params, extra, batch, key) -> (Mean of params: summed gradients and count, {name: additive}, extra)."""


class State(NamedTuple):
    """All that changes while training. What is not here is a function of (seed, name, step)."""

    step: jax.Array  # i32[]: the number of updates taken
    params: Params
    opt_state: Any
    extra: Extra


Update = Callable[[State, Any, Key], tuple[State, Metrics]]
"""(state, Batch | Indexed, key) -> (state, {name: additive}). Folds `state.step` into the key itself."""

Evaluate = Callable[[Params, Extra, Batch], Metrics]
"""(params, extra, batch) -> {name: additive}."""

F = TypeVar("F", bound=Callable[..., Any])


class Layout(NamedTuple):
    """How one program is spread over devices.

    put_state:        pytree -> the same on the devices, whole on each (or sharded, where the layout says so)
    put_batch:        (batch, axis=0) -> the same global batch, split along `axis`
    across:           Gradients -> Gradients, summed over what this layout splits
    compile:          Update -> Update; donates the state it is given
    compile_evaluate: Evaluate -> Evaluate, summed over what this layout splits
    num_devices:      how many devices it uses
    divisor:          the size of a batch must be a multiple of it
    sums_by:          primitives of which an update that was composed with `across` has one; () for any update
    shardings:        abstract State -> the same tree of shardings; None on one device
    split:            axis -> the sharding of a batch along it; None where one process's devices are all it knows
    check:            () -> None; UsageError where the devices cannot do what is asked of them. It starts them, so
                      a run calls it when it has its plan
    activations:      () -> what was constrained in the programs traced so far: the names of its axes, and the
                      abstract array with its sharding (None: the compiler chooses); None where nothing is
    """

    put_state: Callable[[Any], Any]
    put_batch: Callable[..., Any]
    across: Callable[[Gradients], Gradients]
    compile: Callable[[Update], Update]
    compile_evaluate: Callable[[Evaluate], Evaluate]
    num_devices: int
    divisor: int = 1
    sums_by: tuple[str, ...] = ()
    shardings: Callable[[Any], Any] | None = None
    split: Callable[[int], jax.sharding.Sharding] | None = None
    check: Callable[[], None] = lambda: None
    activations: Callable[[], list[tuple[tuple[str | None, ...], jax.ShapeDtypeStruct]]] | None = None


Rules = Callable[[Mapping[str, jax.ShapeDtypeStruct]], Mapping[str, jax.sharding.PartitionSpec]]
"""{path: abstract parameter} -> {path: PartitionSpec}: over which axes of a mesh each parameter is split."""

Activations = Callable[[tuple[str | None, ...], jax.ShapeDtypeStruct], jax.sharding.PartitionSpec | None]
"""(names of its axes, abstract activation) -> over which axes of a mesh it is split; None: compiler's choice."""


class Field(NamedTuple):
    """One field of an example: its shape and dtype, and how many classes it names where it is a label."""

    shape: tuple[int, ...]
    dtype: Any
    num_classes: int | None = None


class Source(NamedTuple):
    """Random access to the examples of one split; nothing is read before `open`.

    name:   what to call it in messages: "digits/train"
    schema: {name: Field} of one example, known before any data is read
    open:   () -> Examples
    """

    name: str
    schema: Mapping[str, Field]
    open: Callable[[], "Examples"]


class Examples(NamedTuple):
    """An opened source.

    size:     the number of examples
    read:     i64[n] -> {name: array[n, ...]}, decoded, in that order
    manifest: what exactly is read: name, version, split, size, schema, SHA-256 over the decoded records
    arrays:   {name: array[size, ...]} where all of it is in memory, else None
    """

    size: int
    read: Callable[[np.ndarray], dict[str, np.ndarray]]
    manifest: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray] | None


class Stream(Protocol):
    """Batches by number: `stream[n]` for any n, in any order, with no history; endless, so never iterated over."""

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        """Batch `step`."""


class Recipe(NamedTuple):
    """All that a run needs, as functions of explicit arguments; what `recipe(config)` returns.

    data:     {split: Source}; "train" is trained on, every other split is evaluated
    init:     key -> State
    update:   Update, not yet compiled
    evaluate: Evaluate, not yet compiled
    predict:  (params, extra, batch) -> {name: array[batch, ...]}
    layout:   Layout
    picture:  (path, rows of the record, batch of a held-out split, its predictions) -> None, draws at the
              end of a run; None for no picture
    steps_per_call: how many steps one call takes; None: chosen by the backend and by what is in the step
    assets:   () -> {file name: content}, what the run needs beside its parameters (a tokenizer); kept in its
              directory, and the same whenever it is resumed
    samples:  (params, extra, key) -> str, what the model writes at the end of a run; None for nothing
    """

    data: Mapping[str, Source]
    init: Callable[[Key], State]
    update: Update
    evaluate: Evaluate
    predict: Callable[[Params, Extra, Batch], Mapping[str, jax.Array]]
    layout: Layout
    picture: Callable[..., None] | None = None
    steps_per_call: int | None = None
    assets: Callable[[], Mapping[str, bytes]] | None = None
    samples: Callable[[Params, Extra, Key], str] | None = None
