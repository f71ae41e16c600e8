import copy
import hashlib
import importlib
import itertools
import math
import pickle
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import ml_collections
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxkit import checks, configs
from jaxkit.configs import resolving

# A slow machine is no failure.
untimed = settings(deadline=None, max_examples=60)


def trees(keys: st.SearchStrategy, leaves: st.SearchStrategy) -> st.SearchStrategy:
    """Dicts of leaves, lists, tuples and dicts."""
    inner = st.recursive(
        leaves,
        lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(keys, inner),
        max_leaves=6,
    )
    return st.dictionaries(keys, inner, max_size=4)


TREES = trees(
    st.text(min_size=1).filter(lambda key: key[0] != "$" and not set(key) & set(".=")),
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
)
# Few keys, and leaves that are easily taken for each other: two of these are often nearly the same.
LOOKALIKES = trees(
    st.sampled_from("ab"),
    st.sampled_from((0, 0.0, -0.0, False, "0", None, "None", 1, 1.0, True, math.nan, "nan", "", "[]")),
)


def typed(value: Any) -> Any:
    """An independent witness: what two values share exactly when they are the same, types included."""
    if isinstance(value, dict | configs.Frozen):
        return "dict", frozenset((key, typed(value[key])) for key in value)
    if isinstance(value, list | tuple):
        return "tuple", tuple(map(typed, value))
    # float.hex tells -0.0 from 0.0, and is "nan" for nan, which equals no other value.
    return type(value), value.hex() if isinstance(value, float) else value


def message(run: Callable[[], Any]) -> str:
    with pytest.raises(checks.UsageError) as caught:
        run()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Frozen and its JSON


@untimed
@given(TREES)
@example({"a": (), "b": []})
@example({"a": ({"b": 1},), "c": [{"d": (1.0, True)}]})
@example({"a": math.nan, "b": -math.inf, "c": -0.0, "d": 1e300, "e": 10**30})
def test_a_config_survives_json_with_its_types(tree):
    frozen = configs.freeze(tree)
    text = configs.to_json(tree)
    back = configs.from_json(text)
    assert typed(back) == typed(tree) == typed(frozen)
    assert configs.to_json(back) == text
    assert list(back) == list(frozen)


@untimed
@given(LOOKALIKES, LOOKALIKES)
@example({"a": 1}, {"a": 1.0})
@example({"a": 1}, {"a": True})
@example({"a": 1}, {"a": "1"})
@example({"a": 0.0}, {"a": -0.0})
@example({"a": math.nan}, {"a": math.nan})
@example({"a": "nan"}, {"a": math.nan})
@example({"a": ()}, {"a": {}})
@example({"a": [1]}, {"a": (1,)})
@example({"a": 1, "b": 2}, {"b": 2, "a": 1})
def test_equal_exactly_when_equal_with_types(a, b):
    same = typed(a) == typed(b)
    assert (configs.fingerprint(a) == configs.fingerprint(b)) == same
    assert (configs.freeze(a) == configs.freeze(b)) == same
    assert (configs.freeze(a) == b) == same
    assert (configs.differences(a, b) == []) == same
    if same:
        assert hash(configs.freeze(a)) == hash(configs.freeze(b))


def test_fingerprints_do_not_change_between_versions():
    assert configs.to_json({"a": 1}) == '{\n  "a": 1\n}\n'
    assert configs.fingerprint({"a": 1}) == hashlib.sha256(b'{\n  "a": 1\n}\n').hexdigest()


def test_json_is_readable():
    tree = {"model": {"features": [16, 32], "call": "m.cnn"}, "chain": ({"call": "a.b"}, {}), "rate": 1.0}
    assert configs.to_json(tree) == textwrap.dedent(
        """\
        {
          "chain": [{
            "call": "a.b"
          }, {}],
          "model": {
            "call": "m.cnn",
            "features": [16, 32]
          },
          "rate": 1.0
        }
        """
    )


def test_frozen_reads_by_attribute_and_item_and_cannot_change():
    tree = {"optimizer": {"weight_decay": 0.1}, "chain": [{"a": [1]}], "values": 3}
    config = configs.freeze(tree)
    tree["optimizer"]["weight_decay"] = 5.0
    assert config.optimizer.weight_decay == config["optimizer"]["weight_decay"] == 0.1
    assert config.chain[0].a == (1,)
    assert config["values"] == 3
    assert list(config.values()) == [config.chain, config.optimizer, 3]
    assert "sed" not in config
    assert not hasattr(config, "sed")
    with pytest.raises(TypeError, match=r"config\.optimizer is frozen"):
        config.optimizer.weight_decay = 1.0
    with pytest.raises(TypeError, match="frozen"):
        del config.chain
    with pytest.raises(TypeError):
        config["chain"] = 1
    assert message(lambda: config.optimizer.weight_decy) == (
        "config.optimizer has no 'weight_decy'; did you mean 'weight_decay'? It has: weight_decay"
    )
    assert message(lambda: config["zzz"]) == "config has no 'zzz'. It has: chain, optimizer, values"


def test_frozen_is_copied_pickled_and_keeps_its_place():
    config = configs.freeze({"model": {"features": (1, 2)}, "nan": math.nan})
    for again in (pickle.loads(pickle.dumps(config)), copy.deepcopy(config), copy.copy(config)):
        assert again == config
        assert hash(again) == hash(config)
    assert "config.model has" in message(lambda: pickle.loads(pickle.dumps(config.model)).x)
    assert configs.freeze(config.model) is config.model
    assert eval(repr(config.model), {"Frozen": configs.Frozen}) == config.model
    assert configs.thaw(config.model) == {"features": (1, 2)}


def test_config_dicts_of_ml_collections_are_taken():
    mutable = ml_collections.ConfigDict({"a": {"b": [1, {"c": 2.0}]}, "t": ()})
    mutable.again = mutable.a.get_ref("b")
    assert configs.freeze(mutable) == {"a": {"b": (1, {"c": 2.0})}, "again": (1, {"c": 2.0}), "t": ()}
    assert configs.freeze(ml_collections.FrozenConfigDict({"a": {"b": 1}})) == {"a": {"b": 1}}


def test_a_function_of_the_config_file_itself_has_no_name_to_be_imported_by(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def loss(): ...\ndef get_config():\n    return {'loss': loss}\n")
    with pytest.raises(checks.UsageError, match=r"came function loss; write {'function': 'PACKAGE\.loss'}"):
        configs.read(str(path))


@pytest.mark.parametrize(
    ("tree", "wanted"),
    [
        (3, "config: came int, wanted a dict"),
        (
            {"model": {"activation": jax.nn.relu}},
            "config.model.activation: came function relu; write {'function': 'PACKAGE.relu'}, "
            "the name it is imported by",
        ),
        (
            {"a": [textwrap.dedent]},
            "config.a.0: came function dedent; write {'function': 'textwrap.dedent'}, the name it is imported by",
        ),
        ({"a": np.float64(1)}, "config.a: came numpy.float64; write its plain value, x.tolist()"),
        ({"a": (1, np.zeros(2))}, "config.a.1: came numpy.ndarray; write its plain value, x.tolist()"),
        (
            {"a": {1}},
            "config.a: came set; a config holds None, bool, int, float, str, tuples, lists and dicts",
        ),
        (
            {"a": b"x"},
            "config.a: came bytes; a config holds None, bool, int, float, str, tuples, lists and dicts",
        ),
        (
            {"a": {1: 2}},
            "config.a: came the key 1, wanted a str without '.' and '=', not starting with '$'",
        ),
        (
            {"a": {"b.c": 2}},
            "config.a: came the key 'b.c', wanted a str without '.' and '=', not starting with '$'",
        ),
        ({"a": 10**5000}, "config.a: came an int of 16,610 bits, wanted one of 14,000 at most"),
        ({"a": "\ud800"}, "config.a: came '\\ud800', which is not valid Unicode text"),
    ],
)
def test_what_a_config_cannot_hold(tree, wanted):
    assert message(lambda: configs.freeze(tree)) == wanted


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"a": {"$float": []}}', '{"a": {"$x": 1}}', '{"a": 1, "a": 2}'])
def test_text_that_is_no_config(text):
    assert message(lambda: configs.from_json(text)).startswith("config")


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_of_several_configs_each_is_shown_with_what_it_has(order):
    schedules = [{"call": "f", "peak": peak, "steps": 9} for peak in (3e-3, 1e-3)]
    rates, peaks = [*schedules, 1e-3], [3e-3, 1e-3, configs.MISSING]
    found = configs.differing([{"rate": rates[n], "seed": 0} for n in order])
    assert found == {"rate": [rates[n] for n in order], "rate.peak": [peaks[n] for n in order]}
    # Two alike, of another number, and none at all.
    writers = [tuple({"call": name} for name in names) for names in ("f", "g", "fh", "")]
    found = configs.differing([{"writers": each} for each in writers])
    assert found == {"writers": writers, "writers.0.call": ["f", "g", "f", configs.MISSING]}
    assert configs.differing([{"seed": 0}] * 3) == configs.differing([{"seed": 0}]) == configs.differing([]) == {}


def test_differences_name_paths_and_hold_missing():
    a = {
        "seed": 1,
        "model": {"call": "m.cnn", "features": (1, 2)},
        "writers": ({"call": "w.a"},),
        "x": {"y": 1},
    }
    b = {"seed": 1.0, "model": {"call": "m.cnn", "features": (1, 3)}, "writers": ({"call": "w.b"},)}
    assert configs.differences(a, b) == [
        ("model.features", (1, 2), (1, 3)),
        ("seed", 1, 1.0),
        ("writers.0.call", "w.a", "w.b"),
        ("x", {"y": 1}, configs.MISSING),
    ]
    one, two = {"call": "w.a"}, ({"call": "w.a"}, {"call": "w.b"})
    assert configs.differences({"writers": (one,)}, {"writers": two}) == [("writers", (one,), two)]
    assert pickle.loads(pickle.dumps(configs.MISSING)) is configs.MISSING


@untimed
@given(TREES)
def test_replacing_what_differs_makes_equal(tree):
    a = configs.freeze({"x": {"y": 1}, "tree": {}})
    b = configs.replace(a, {"x.y": 2.0, "tree": tree})
    assert {difference.path.split(".")[0] for difference in configs.differences(a, b)} <= {"x", "tree"}
    assert configs.replace(a, {d: configs.thaw(b)[d] for d in ("x", "tree")}) == b


# build


def component(*, width: int, depth: int | None = None, rate: float = 0.1, sizes: tuple[int, ...] = (), on=False):
    if width < 1:
        raise ValueError(f"width: came {width},\n  wanted >= 1")
    return width, depth, rate, sizes, on


def annotated(mode: Literal["a", "b"] = "a", act: Callable | None = None, names: Sequence[str] = ()):
    return mode, act, names


def loosely_annotated(width: int = None, rate: float = 0.5):  # noqa: RUF013
    return width, rate


def array_or_schedule(rate: "float | jax.Array | Callable[[int], float]"):
    return rate


def positional(first, /, *rest, last=0, **others):
    return first, rest, last, others


def after_a_default(scale=2.0, *parts):
    return scale, parts


def unreadable(x: "no_such_name"):  # noqa: F821
    return x


@pytest.fixture(autouse=True)
def parts(monkeypatch, tmp_path):
    """The functions above as a module of the user's own, `parts`, found through sys.path."""
    source = "from test_configs_functions import *\nimport os\nfrom os import system\nNUMBER = 3\n"
    (tmp_path / "parts.py").write_text(source)
    (tmp_path / "broken.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = type(sys)("test_configs_functions")
    for function in (
        component,
        annotated,
        loosely_annotated,
        array_or_schedule,
        positional,
        after_a_default,
        unreadable,
    ):
        monkeypatch.setattr(function, "__module__", "parts")
        setattr(module, function.__name__, function)
    monkeypatch.setitem(sys.modules, "test_configs_functions", module)
    yield
    sys.modules.pop("parts", None)


def test_build_calls_the_innermost_first_and_keeps_the_rest():
    config = {
        "a": {"call": "parts.component", "width": {"call": "parts.array_or_schedule", "rate": 3}},
        "b": {"function": "parts.component"},
        "c": {"function": "parts.component", "width": 2},
        "d": [1, {"function": "textwrap.dedent"}],
        "e": 0.1,
    }
    built = configs.build(config)
    assert built["a"] == (3, None, 0.1, (), False)
    assert built["b"] is component
    assert built["c"](depth=1) == (2, 1, 0.1, (), False)
    assert built["d"] == (1, textwrap.dedent)
    assert built["e"] == configs.build(0.1) == 0.1


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({"call": "parts.component", "width": 1, "rate": 1}, (1, None, 1, (), False)),
        ({"call": "parts.component", "width": 1, "depth": None}, (1, None, 0.1, (), False)),
        ({"call": "parts.component", "width": 1, "sizes": [4, 5]}, (1, None, 0.1, (4, 5), False)),
        ({"call": "parts.component", "width": 1, "on": "anything"}, (1, None, 0.1, (), "anything")),
        ({"call": "parts.annotated", "mode": "b", "names": ["x"]}, ("b", None, ("x",))),
        ({"call": "parts.loosely_annotated", "width": None}, (None, 0.5)),
        ({"call": "parts.array_or_schedule", "rate": 1}, 1),
        ({"call": "parts.array_or_schedule", "rate": {"function": "math.sqrt"}}, math.sqrt),
        ({"call": "parts.positional", "first": 1}, (1, (), 0, {})),
        (
            {"call": "parts.positional", "first": 1, "rest": [2, 3], "last": 4, "z": 5},
            (1, (2, 3), 4, {"z": 5}),
        ),
        ({"call": "parts.after_a_default", "parts": (1, 2)}, (2.0, (1, 2))),
        ({"call": "parts.unreadable", "x": 1}, 1),
    ],
)
def test_build(config, wanted):
    assert configs.build(config) == wanted


TAKES = "It takes: width, depth, rate, sizes, on"


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        (
            {"call": "parts.component", "widht": 3},
            f"config.m: parts.component takes no argument 'widht'; did you mean 'width'? {TAKES}",
        ),
        (
            {"function": "parts.component", "zzz": 3},
            f"config.m: parts.component takes no argument 'zzz'. {TAKES}",
        ),
        ({"call": "parts.component"}, f"config.m: parts.component needs 'width'. {TAKES}"),
        (
            {"call": "jaxkit.losses.cross_entropy", "label_smoothing": 0.1},
            "config.m: jaxkit.losses.cross_entropy needs 'logits', 'labels'; write 'function' for 'call' where it"
            " is called later, with arrays. It takes: logits, labels, label_smoothing, z_loss",
        ),
        ({"call": "parts.component", "width": 1.0}, "config.m.width: came 1.0, wanted int (parts.component)"),
        (
            {"call": "parts.loosely_annotated", "rate": None},
            "config.m.rate: came None, wanted float (parts.loosely_annotated)",
        ),
        (
            {"call": "parts.component", "width": True},
            "config.m.width: came True, wanted int (parts.component)",
        ),
        (
            {"function": "parts.component", "depth": "3"},
            "config.m.depth: came '3', wanted int | None (parts.component)",
        ),
        (
            {"call": "parts.component", "width": 1, "rate": False},
            "config.m.rate: came False, wanted float (parts.component)",
        ),
        (
            {"call": "parts.component", "width": 1, "sizes": (1, "2")},
            "config.m.sizes: came (1, '2'), wanted tuple[int, ...] (parts.component)",
        ),
        (
            {"call": "parts.component", "width": {"a": 1}},
            "config.m.width: came {'a': 1}, wanted int (parts.component)",
        ),
        (
            {"call": "parts.annotated", "mode": "c"},
            "config.m.mode: came 'c', wanted 'a' | 'b' (parts.annotated)",
        ),
        (
            {"call": "parts.annotated", "act": "relu"},
            "config.m.act: came 'relu', wanted {'function': NAME} | None (parts.annotated)",
        ),
        (
            {"call": "parts.array_or_schedule", "rate": "1"},
            "config.m.rate: came '1', wanted float | array | {'function': NAME} (parts.array_or_schedule)",
        ),
        (
            {"call": "parts.positional", "first": 1, "rest": 2},
            "config.m.rest: came 2, wanted tuple[typing.Any, ...] (parts.positional)",
        ),
        # Whatever it raises: its text alone may not say what it is.
        (
            {"call": "operator.truediv", "a": 1, "b": 0},
            "config.m: operator.truediv: ZeroDivisionError: division by zero",
        ),
        (
            {"call": "os.stat", "path": "/no/such"},
            "config.m: os.stat: FileNotFoundError: [Errno 2] No such file or directory: '/no/such'",
        ),
        (
            {"call": "parts.component", "function": "parts.component"},
            "config.m: has both 'call' and 'function'; 'call' gives a result, 'function' itself",
        ),
        (
            {"call": 3},
            "config.m.call: came 3, wanted the dotted name of a function, such as 'jaxkit.models.cnn'",
        ),
        (
            {"call": "cnn"},
            "config.m.call: came 'cnn', wanted the dotted name of a function, such as 'jaxkit.models.cnn'",
        ),
        (
            {"call": "partz.component"},
            "config.m.call: 'partz.component': there is no module 'partz'; did you mean 'parts'? "
            "Is it installed, or in the directory that Python runs in?",
        ),
        (
            {"call": "parts.componant"},
            "config.m.call: 'parts.componant': parts has no 'componant'; did you mean 'component'?",
        ),
        ({"function": "parts.zzz"}, "config.m.function: 'parts.zzz': parts has no 'zzz'"),
        (
            {"call": "xml.zzz.a"},
            "config.m.call: 'xml.zzz.a': xml has no 'zzz'",
        ),
        ({"call": "os.path"}, "config.m.call: 'os.path' is of type module, wanted a function"),
        ({"call": "parts.NUMBER"}, "config.m.call: 'parts.NUMBER' is of type int, wanted a function"),
        (
            {"call": "broken.f"},
            "config.m.call: 'broken.f' cannot be imported: ModuleNotFoundError: No module named 'no_such_package'",
        ),
    ],
)
def test_build_of_a_misfit_is_one_line(config, wanted):
    configs.build({"call": "parts.component", "width": 1})  # so that `parts` is loaded, and is the nearest name
    assert message(lambda: configs.build({"m": config})) == wanted
    # A part of a frozen config knows its own path.
    assert message(lambda: configs.build(configs.freeze({"m": config}).m)) == wanted
    assert message(lambda: configs.build(config, where="config.m")) == wanted


def test_the_line_of_ones_own_is_named(tmp_path, monkeypatch):
    lines = [
        "def read(*, column):",
        "    if not column:",
        "        raise ValueError('a name,\\n  please')",
        "    {}[column]",
    ]
    (tmp_path / "own_table.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    found = [
        message(lambda c=c: configs.build({"m": {"call": "own_table.read", "column": c}})) for c in ("", "target")
    ]
    assert found == [
        f"config.m: own_table.read: a name, please ({tmp_path}/own_table.py:3)",
        f"config.m: own_table.read: KeyError: 'target' ({tmp_path}/own_table.py:4)",
    ]


def test_the_cause_is_kept():
    with pytest.raises(checks.UsageError) as caught:
        configs.build({"call": "parts.component", "width": 0})
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "parts.os.system",
        "parts.system",
        "parts.component.__globals__",
        "jaxkit.configs.read",
        "partsx.f",
    ],
)
def test_a_config_from_outside_calls_only_what_is_allowed(name):
    assert configs.build({"call": "parts.component", "width": 1}, allow=("parts",))
    for config in ({"call": name}, {"function": name}):
        wanted = "is outside what this config may call: parts; allow its module if you trust it"
        assert wanted in message(lambda config=config: configs.build(config, allow=("parts",)))


@pytest.mark.parametrize(
    "name",
    [
        "jaxkit.configs.read",
        "jax.numpy.load",
        "optax._src.base.np.load",
        "os.system",
        # Beneath what is allowed: these write any file, or are for other uses than a config's.
        "jaxkit.data.cache.write",
        "jaxkit.data.prepared.data_directory",
        "jaxkit.data.cache",
        "jaxkit.models.feedforward.kernel",
        "jaxkit.metrics.Confusion.compute",
        # What an allowed module imports.
        "jaxkit.losses.checks",
        "jaxkit.metrics.mean",
    ],
)
def test_the_usual_allowance_refuses(name):
    for config in ({"call": name}, {"function": name}):
        assert "is outside what" in message(lambda c=config: configs.build(c, allow=configs.ALLOWED))
        assert "is outside what" in message(lambda c=config: configs.check_calls(c, allow=configs.ALLOWED))


def test_what_a_module_publishes_and_what_the_project_shows_is_allowed():
    from jaxkit.cli import syncing

    allow = (*configs.ALLOWED, *syncing.ALLOWED)
    for module in (name.removesuffix(".*") for name in allow if name.endswith(".*")):
        for name in importlib.import_module(module).__all__:
            assert callable(resolving.resolve(f"{module}.{name}", where="config", allow=allow))
    top = Path(__file__).parent.parent
    shown = [top / "README.md", *top.glob("configs/*.py"), *top.glob("docs/*.md"), *top.glob("notebooks/*.ipynb")]
    names = {
        name
        for path in shown
        for name in re.findall(r"""["'](?:call|function)\\?["']: \\?["']([\w.]+)""", path.read_text())
        if "." in name
    }
    assert {"jaxkit.models.cnn", "optax.adamw", "jaxkit.data.digits"} < names
    for name in names:
        resolving.resolve(name, where="config", allow=allow)


def test_build_with_optax_and_a_nested_schedule():
    schedule = {
        "call": "optax.warmup_cosine_decay_schedule",
        "init_value": 0.0,
        "peak_value": 1e-2,
        "warmup_steps": 10,
        "decay_steps": 100,
    }
    chain = (
        {"call": "optax.clip_by_global_norm", "max_norm": 1},
        {"call": "optax.sgd", "learning_rate": schedule},
    )
    config = configs.freeze({"optimizer": {"call": "optax.chain", "args": chain}, "schedule": schedule})
    built = configs.build(config, allow=configs.ALLOWED)
    # The warmup is linear: at half of it the rate is half the peak.
    assert abs(float(built["schedule"](5)) - 5e-3) < 1e-8
    # At step 0 the rate is 0, so the gradient 3 (clipped to 1) moves nothing; at step 1 it is 1e-3.
    state = built["optimizer"].init(np.float32(0))
    moved, state = built["optimizer"].update(np.float32(3), state)
    assert float(moved) == 0
    moved, _ = built["optimizer"].update(np.float32(3), state)
    assert abs(float(moved) + 1e-3) < 1e-9
    named = {"a": {"function": "jax.nn.relu"}, "b": {"function": "jax.numpy.bfloat16"}}
    assert configs.build(named, allow=configs.ALLOWED)["a"] is jax.nn.relu
    bad = ({"call": "optax.identity"}, {"call": "optax.sgd", "lr": 1.0})
    bad = configs.replace(config, {"optimizer.args": bad})
    assert message(lambda: configs.build(bad.optimizer)).startswith(
        "config.optimizer.args.1: optax.sgd takes no argument 'lr'. It takes: learning_rate,"
    )


# The fields of every config

CALL = {"call": "parts.component"}
FIELDS = {
    "seed": 0, "num_steps": 10, "batch_size": 4, "log_every": 1, "eval_every": 5, "checkpoint_every": 5,
    "data": {"train": CALL}, "model": CALL, "loss": {"function": "parts.component"}, "optimizer": CALL,
    "layout": CALL, "writers": (),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("num_steps", 0, "config.num_steps: came 0, wanted an int from 1 to 2**31 - 1"),
        ("num_steps", 10.0, "config.num_steps: came 10.0, wanted an int from 1 to 2**31 - 1"),
        ("num_steps", True, "config.num_steps: came True, wanted an int from 1 to 2**31 - 1"),
        ("log_every", 2**31, "config.log_every: came 2147483648, wanted an int from 1 to 2**31 - 1"),
        ("seed", 2**32, "config.seed: came 4294967296, wanted an int from 0 to 2**32 - 1"),
        ("data", "digits", "config.data: came 'digits', wanted a dict"),
        ("model", {"width": 1}, "config.model: came {'width': 1}, wanted a dict with 'call' or 'function'"),
        ("writers", CALL, "config.writers: came {'call': 'parts.component'}, "
         "wanted a tuple of dicts with 'call' or 'function'"),
    ],
)  # fmt: skip
def test_fields_are_checked(name, value, wanted):
    assert configs.check_fields({**FIELDS, "of_its_own": 1}) == {**FIELDS, "of_its_own": 1}
    assert message(lambda: configs.check_fields({**FIELDS, name: value})) == wanted
    missing = {key: value for key, value in FIELDS.items() if key != name}
    every = "Every config has: " + ", ".join(FIELDS)
    assert message(lambda: configs.check_fields(missing)) == f"config has no {name!r}. {every}"
    misspelt = f"config has no {name!r}; is it the '{name}x' there? {every}"
    assert message(lambda: configs.check_fields({**missing, f"{name}x": value})) == misspelt


@pytest.mark.parametrize("name", ["stop_onn", "stopon", "stp_on", "stop_no", "stop-on", "stops_on"])
def test_a_field_that_nobody_would_miss_is_not_misspelt(name):
    rule = {"nonfinite": False}
    assert message(lambda: configs.check_fields({**FIELDS, name: rule})) == (
        f"config has no 'stop_on'; is it the '{name}' there? If that is a field of the experiment's own,"
        " name it otherwise, or say 'stop_on' too"
    )
    assert configs.check_fields({**FIELDS, name: rule, "stop_on": {}})[name] == rule


@pytest.mark.parametrize(
    "name", ["stop", "stop_at", "stop_when", "stop_loss", "stop_token", "early_stop", "top_k"]
)
def test_a_field_of_the_experiments_own_is_not_taken_for_another(name):
    assert configs.check_fields({**FIELDS, name: 3})[name] == 3


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[1] / "configs").glob("*.py")), ids=lambda p: p.stem
)
def test_no_config_has_a_field_that_is_taken_for_another(path):
    config = configs.thaw(configs.read(str(path), []))
    del config["stop_on"]
    assert configs.check_fields(config) == config


def test_a_seed_has_32_bits():
    # Why check_fields bounds it: jax itself drops the rest without a word.
    assert jax.random.key(2**32) == jax.random.key(0)


# Reading files and flags

FILE = """
from jaxkit import configs

MODELS = {"cnn": {"call": "m.cnn", "features": (32, 64)}, "resnet": {"call": "m.resnet", "depth": 18}}

def get_config(arg=""):
    choice = configs.variants(arg, model=("cnn", "resnet"), seed=0)
    return {"seed": choice.seed, "model": MODELS[choice.model], "optimizer": {"weight_decay": 1e-4}}
"""


@pytest.fixture
def digits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits.py").write_text(FILE)


@pytest.mark.usefixtures("digits")
def test_read():
    assert configs.read("digits.py") == {
        "seed": 0,
        "model": {"call": "m.cnn", "features": (32, 64)},
        "optimizer": {"weight_decay": 1e-4},
    }
    assert configs.read("digits.py:").model.call == "m.cnn"
    config = configs.read("digits.py:model=resnet, seed=3", [("optimizer.weight_decay", "0"), ("seed", "4")])
    assert (config.model.depth, config.seed) == (18, 4)
    assert type(config.optimizer.weight_decay) is float


@pytest.mark.usefixtures("digits")
@pytest.mark.parametrize(
    ("argument", "wanted"),
    [
        ("digit.py", "digit.py: there is no such file; did you mean 'digits.py'?"),
        (".", ".: cannot be read: Is a directory"),
        (
            "digits.py:model=resent",
            "digits.py: variant model: came 'resent'; did you mean 'resnet'? It is one of: cnn, resnet",
        ),
        ("digits.py:seed=x", "digits.py: variant seed: came 'x', wanted an int"),
        (
            "digits.py:modle=cnn",
            "digits.py: there is no variant 'modle=cnn'; did you mean 'model'? "
            "There are: model=cnn|resnet, seed=INT",
        ),
        (
            "digits.py:resnet",
            "digits.py: there is no variant 'resnet'; write it NAME=VALUE. There are: model=cnn|resnet, seed=INT",
        ),
        ("digits.py:seed=1,seed=2", "digits.py: the variant 'seed' comes twice in 'seed=1,seed=2'"),
    ],
)
def test_read_of_a_wrong_argument_is_one_line(argument, wanted):
    assert message(lambda: configs.read(argument)) == wanted


@pytest.mark.usefixtures("digits")
@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("x = = 3", "c.py:1: SyntaxError: invalid syntax"),
        ("\n\nimport no_such", "c.py:3: ModuleNotFoundError: No module named 'no_such'"),
        ("x = 3", "c.py: has no function get_config(arg)"),
        ("def get_config(arg):\n  return\\\n  1 / 0", "c.py:3: ZeroDivisionError: division by zero"),
        ("import json\ndef get_config(arg):\n  return json.loads('')",
         "c.py:3: JSONDecodeError: Expecting value: line 1 column 1 (char 0)"),
        ("def get_config(arg):\n  return helper()\ndef helper():\n  raise KeyError('x')", "c.py:4: KeyError: 'x'"),
        ("def get_config(arg): pass", "c.py: config: came NoneType, wanted a dict"),
        ("def get_config(arg):\n  raise SystemExit('no')", "c.py:2: SystemExit: no"),
        ("def get_config(arg): return {'a': {1}}",
         "c.py: config.a: came set; a config holds None, bool, int, float, str, tuples, lists and dicts"),
        ("def get_config(): return {}",
         "c.py: takes no variants, came 'a=1'; write get_config(arg) for it to take some"),
    ],
)  # fmt: skip
def test_read_of_a_wrong_file_is_one_line(source, wanted, tmp_path):
    (tmp_path / "c.py").write_text(source)
    assert message(lambda: configs.read("c.py:a=1")) == wanted


OVERRIDDEN = configs.freeze(
    {
        "i": 1, "f": 0.1, "b": False, "s": "x", "none": None, "ints": (1, 2), "floats": [0.1], "strs": ("a",),
        "mixed": (1, "a"), "empty": (), "tree": {"call": "m.f", "rate": 0.1},
        "chain": ({"call": "m.f", "x": 1},),
    }
)  # fmt: skip


@pytest.mark.parametrize(
    ("path", "text", "wanted"),
    [
        ("i", "-3", -3),
        ("i", "10_000", 10_000),
        ("f", "0", 0.0),
        ("f", "1e-3", 1e-3),
        ("f", "nan", math.nan),
        ("f", "{'call': 'm.schedule'}", {"call": "m.schedule"}),
        ("b", "True", True),
        ("b", "TRUE", True),
        ("s", "3", "3"),
        ("s", "{a: b}", "{a: b}"),
        ("none", "3", 3),
        ("none", "(1, 2.0)", (1, 2.0)),
        ("none", "word", "word"),
        ("ints", "(16, 32)", (16, 32)),
        ("ints", "16,32,64", (16, 32, 64)),
        ("ints", "16", (16,)),
        ("ints", "(16,)", (16,)),
        ("ints", "()", ()),
        ("floats", "1, 2e-1", (1.0, 0.2)),
        ("strs", "a,b", ("a", "b")),
        ("strs", "('a,b', 'c')", ("a,b", "c")),
        ("strs", "'c'", ("c",)),
        ("mixed", "(2.0, 'b')", (2.0, "b")),
        ("empty", "[1]", (1,)),
        ("tree", "{'call': 'm.g'}", {"call": "m.g"}),
        ("tree", "{}", {}),
        ("tree", "0.5", 0.5),
        ("tree", "None", None),
        ("tree.rate", "1", 1.0),
        ("chain.0.x", "2", 2),
        ("chain", "[{'call': 'm.g'}]", ({"call": "m.g"},)),
    ],
)
def test_override(path, text, wanted):
    changed = configs.override(OVERRIDDEN, [(path, text)])
    assert changed == configs.replace(OVERRIDDEN, {path: wanted})
    assert {d.path.split(".")[0] for d in configs.differences(OVERRIDDEN, changed)} == {path.split(".")[0]}


@pytest.mark.parametrize(
    ("path", "text", "wanted"),
    [
        ("i", "ten", "config.i: came 'ten', wanted an int"),
        ("i", "1e3", "config.i: came '1e3', wanted an int"),
        ("i", "1.0", "config.i: came '1.0', wanted an int"),
        ("f", "x", "config.f: came 'x', wanted a float"),
        ("b", "1", "config.b: came '1', wanted true or false"),
        ("ints", "1,x", "config.ints.1: came 'x', wanted an int"),
        # What a shell makes of a variable that is not set; no elements are "()".
        ("ints", "", "config.ints: came '', wanted a tuple such as '(16, 32)' or '({\"call\": NAME},)'"),
        ("strs", " ", "config.strs: came ' ', wanted a tuple such as '(16, 32)' or '({\"call\": NAME},)'"),
        ("mixed", "x", "config.mixed: came 'x', wanted a tuple such as '(16, 32)' or '({\"call\": NAME},)'"),
        ("tree", "resnet", "config.tree: came 'resnet', wanted a dict such as {'call': 'jaxkit.models.cnn'}"),
        (
            "i",
            "{'a': 1}",
            "config.i: came \"{'a': 1}\", wanted an int or a dict such as {'call': 'jaxkit.models.cnn'}",
        ),
        ("tree.rat", "1", "config.tree has no 'rat'; did you mean 'rate'? It has: call, rate"),
        (
            "tree.dropout",
            "1",
            "config.tree has no 'dropout'. It has: call, rate; what else m.f takes is added in the config file",
        ),
        ("f.x", "1", "config.f: is 0.1, so there is no config.f.x"),
        ("chain.1.x", "1", "config.chain: has no item '1'; it has 1, counted from 0"),
        (
            "tree",
            "{1: 2}",
            "config.tree: came the key 1, wanted a str without '.' and '=', not starting with '$'",
        ),
    ],
)
def test_a_wrong_override_is_one_line(path, text, wanted):
    assert message(lambda: configs.override(OVERRIDDEN, [(path, text)])) == wanted


def test_flags_are_split_from_a_command_line():
    argv = [
        "x.py",
        "--config=c.py:a=b",
        "--config.a.b=c=d",
        "--workdir",
        "w",
        "--config.n",
        "-1",
        "--config.a.b=",
    ]
    assert configs.split_overrides(argv) == (
        ["x.py", "--config=c.py:a=b", "--workdir", "w"],
        [("a.b", "c=d"), ("n", "-1"), ("a.b", "")],
    )
    for argv in (["--config.a"], ["--config.a", "--debug"]):
        wanted = "--config.a: has no value; write --config.a=VALUE"
        assert message(lambda argv=argv: configs.split_overrides(argv)) == wanted


def test_configs_need_no_jax():
    code = "import sys; from jaxkit import configs; configs.variants('a=1', a=0); print('jax' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"
