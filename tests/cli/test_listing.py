"""`jaxkit runs` and `jaxkit show`: filters, sorting, columns; mistakes; a newer format."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jaxkit.cli import listing
from jaxkit.runs import selecting


@pytest.mark.parametrize(
    ("conditions", "names"),
    [
        ([], ["a", "c", "group/b"]),
        (["status=finished"], ["a", "group/b"]),
        (["status == finished"], ["a", "group/b"]),
        (["status!=finished"], ["c"]),
        (["config.optimizer.learning_rate>1e-2"], ["group/b"]),
        (["test/accuracy>=0.95", "config.seed<2"], ["a"]),
        (["run ~ ^group/"], ["group/b"]),
        (["config.model.features=(16,)", "config.seed=3.0"], ["c"]),
        (["timing.total>100"], []),
    ],
)
def test_filters(three, asked, conditions, names):
    flags = [flag for condition in conditions for flag in ("--where", condition)]
    found = asked("runs", three, *flags)
    assert [str(Path(row["run"]).relative_to(three)) for row in found] == names


def test_nan_is_listed_as_it_is():
    summary = {"evaluation": {"test": {"accuracy": "nan", "loss": 0.5, "per_class": [1]}}}
    assert listing._evaluation({"summary": summary}) == "test/accuracy nan, test/loss 0.5"


def test_sorting_and_columns(three, command, asked):
    columns = "--columns=run,config.seed,test/accuracy"
    found = asked("runs", three, "--sort=-test/accuracy", columns, "--limit=2")
    assert [(row["config.seed"], row["test/accuracy"]) for row in found] == [(2, 0.99), (1, 0.95)]
    assert Path(found[0]["run"]) == three / "group/b"
    found = asked("runs", three, "--sort=status,config.seed")
    assert [row["status"] for row in found] == ["failed", "finished", "finished"]
    code, out, _ = command("runs", three, "--sort=-config.seed", columns)
    assert code == 0
    assert [line.split() for line in out.rstrip().splitlines()[-3:]] == [
        ["c", "3", "0.5"],
        ["group/b", "2", "0.99"],
        ["a", "1", "0.95"],
    ]


def test_what_is_missing_or_nan_is_sorted_last_either_way():
    values = {"none": None, "nan": "nan", "low": 1.0, "high": 2.0}
    entries = [{"name": name, "summary": {}, "config": {}, "values": {"x": x}} for name, x in values.items()]
    order = lambda sort: [entry["name"] for entry in selecting.select(entries, [], [sort])]
    assert order("x") == ["low", "high", "nan", "none"]
    assert order("-x") == ["high", "low", "nan", "none"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--where", "stats=finished"], "did you mean 'status'?"),
        (["--sort=zzz"], "no run has 'zzz'. There are: run, "),
        (["--sort=test/acuracy"], "did you mean 'test/accuracy'?"),
        (["--columns=config.optimizer.learning_rat"], "did you mean 'config.optimizer.learning_rate'?"),
        (["--where", "status"], "wanted NAME, one of"),
        (["--where", "step>many"], "wanted a number behind '>'"),
        (["--where", "step=>5"], "came 'step=>5', wanted one of = != > >= < <= ~ before the value"),
        (["--where", "run~("], "is no regular expression"),
        (["--limit=0"], "wanted at least 1"),
    ],
)
def test_a_mistake_in_a_filter_is_one_line(three, fails, flags, message):
    assert message in fails("runs", three, *flags)


def test_a_run_is_no_directory_of_runs(three, fails):
    assert f"jaxkit show {three / 'a'}" in fails("runs", three / "a")


def test_show_says_what_a_person_asks_and_json_what_scripts_lean_on(three, command, asked):
    code, out, _ = command("show", three / "a")
    assert code == 0
    for words in ("blobs, finished, step 40 of 40", "accuracy", "0.95", "100 steps/s", "fingerprint"):
        assert words in out
    found = asked("show", three / "a")
    assert set(found) >= {"status", "step", "fingerprint", "digest", "params_sha256", "evaluation", "timing"}
    assert found["evaluation"]["test"]["accuracy"] == 0.95


VERBS = {
    "show": ["{run}"],
    "compare": ["{run}", "{whole}"],
    "report": ["{run}"],
}


def contents(top: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in top.rglob("*") if path.is_file()}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("status.json", b'{"format": 2}', "was written by a newer jaxkit (format 2, this one reads up to 1)"),
        ("config.json", b"not json", "config.json: is damaged"),
        ("metrics.jsonl", b"not json\n", "line 1 is no row"),
        ("evaluation/test.json", b"[]", "wanted an object"),
        ("provenance.json", b"[]", "wanted an object"),
        ("config.json", None, "is no run directory"),
    ],
)
def test_a_run_that_cannot_be_read_is_one_line_and_left_as_it_is(three, fails, verb, name, content, message):
    if content is None:
        (three / "a" / name).unlink()
    else:
        (three / "a" / name).write_bytes(content)
    before = contents(three)
    assert message in fails(verb, *(part.format(run=three / "a", whole=three / "c") for part in VERBS[verb]))
    assert contents(three) == before


def test_a_newer_format_is_listed_as_damaged_and_not_gone_on_with(three, asked, made):
    from jaxkit.errors import UsageError

    status = json.loads((three / "a/status.json").read_text())
    assert status["format"] == 1
    (three / "a/status.json").write_text(json.dumps({**status, "format": 2}))
    found = {Path(row["run"]).name: row for row in asked("runs", three)}
    assert found["a"]["status"] == "damaged"
    assert "newer jaxkit" in found["a"]["error"]
    assert found["c"]["status"] == "failed"
    with pytest.raises(UsageError, match="newer jaxkit"):
        made(three / "a", changes={"seed": 1})


def test_values_edited_by_hand_break_no_table(three, command):
    """Files that are whole, and hold other types than a run writes."""
    status = json.loads((three / "a/status.json").read_text())
    for odd in ({"timing": {"total": "x", "steps_per_second": None}}, {"experiment": ["\x1b[2J"]}):
        (three / "a/status.json").write_text(json.dumps({**status, **odd}))
        (three / "a/provenance.json").write_text(
            '{"git": 3, "data": [], "packages": "", "devices": 1, "resumed": {}}'
        )
        for verb in (["show", three / "a"], ["compare", three / "a", three / "c"], ["runs", three]):
            code, out, _ = command(*verb)
            assert code == 0
            assert "\x1b" not in out


def test_what_a_config_calls_is_not_called_by_reading(tmp_path, made, command):
    run = made(tmp_path / "a", changes={"model.call": "os.mkdir", "model.features": str(tmp_path / "called")})
    for verb in (
        ["runs", tmp_path],
        ["show", run],
        ["compare", run, run],
        ["runs", tmp_path, "--where=config.model.call=os.mkdir"],
    ):
        code, out, _ = command(*verb)
        assert code == 0
        assert "a" in out
    assert not (tmp_path / "called").exists()


def test_listing_does_not_wait_for_jax(three):
    code = (
        "import sys; from jaxkit import cli; assert cli.main(['runs', sys.argv[1]]) == 0;"
        " assert cli.main(['show', sys.argv[1] + '/a']) == 0; assert 'jax' not in sys.modules, 'jax'"
    )
    subprocess.run([sys.executable, "-c", code, str(three)], check=True, capture_output=True)


def test_a_link_to_what_is_listed_anyway_is_listed_once(three, asked):
    (three / "latest").symlink_to(three / "a")
    elsewhere = three.parent / f"{three.name}-elsewhere"
    shutil.copytree(three / "c", elsewhere)
    (three / "linked").symlink_to(elsewhere)
    (three / "loop").symlink_to(three)
    assert [Path(row["run"]).name for row in asked("runs", three)] == ["a", "c", "b", "linked"]
