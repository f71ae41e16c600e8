"""Numbers that are none, changes of a config where none is taken, and what would move a terminal's cursor."""

import json
import re
import time
from pathlib import Path

import pytest

BIG = "1" + "0" * 400


@pytest.mark.parametrize("odd", [BIG, f"-{BIG}", "1e999", "NaN", "-1e300", "[]"])
def test_a_number_that_is_none_takes_down_no_verb(three, command, asked, odd):
    """In a row, as its time, its speed, in the timing and in what a split came to; other runs stay to be seen."""
    record = three / "a/metrics.jsonl"
    rows = record.read_text().splitlines(keepends=True)
    for place in ('"wall": ', '"loss": ', '"steps_per_second": '):
        rows[-1] = re.sub(f"({place})[^,}}]+", lambda found: found[1] + odd, rows[-1])
    record.write_text("".join(rows))
    timing = f'{{"total": {odd}, "to_first_step": {odd}, "steps_per_second": {odd}}}'
    (three / "a/status.json").write_text(
        json.dumps({**json.loads((three / "a/status.json").read_text()), "timing": 0}).replace(
            '"timing": 0', f'"timing": {timing}'
        )
    )
    (three / "a/evaluation/test.json").write_text(f'{{"metrics": {{"accuracy": {odd}}}}}')
    (three / "a/mistakes.json").write_text(f'{{"worst": [{{"image": "iVBORw0KGgo=", "probability": {odd}}}]}}')
    assert [Path(row["run"]).name for row in asked("runs", three)] == ["a", "c", "b"]
    asked("runs", three, "--columns=updated,loss,timing.total,test/accuracy")
    asked("show", three / "a")
    asked("compare", three / "a", three / "c")
    asked("compare", three / "a", three / "c", "--with", three / "a", three / "c")
    for verb in (
        ["runs", three, "--columns=updated,loss,timing.total,test/accuracy", "--sort=loss", "--where=loss!=1"],
        ["show", three / "a"],
        ["compare", three / "a", three / "c"],
        ["compare", three / "a", three / "c", "--with", three / "a", three / "c"],
        ["report", three / "a"],
    ):
        code, out, _ = command(*verb)
        assert code == 0
        assert "0" * 100 not in out


def test_what_is_no_moment_is_left_out(three, command):
    path = three / "a/metrics.jsonl"
    path.write_text(re.sub(r'"wall": [0-9.]+', '"wall": 1e18', path.read_text()))
    assert command("show", three / "a")[1].splitlines()[0].endswith("a: blobs, finished, step 40 of 40")
    assert command("show", three / "c")[1].splitlines()[0][-16:-12] in time.strftime("%Y")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "{run}", "--config.seed=7"], "--config.seed: show changes no config; it is as it was run"),
        (["runs", "{top}", "--config.seed=7"], "--where config.seed=7 lists those runs"),
        (["report", "{run}", "--config.seed=7"], "report changes no config"),
        (["compare", "{run}", "{run}", "--config.seed=7"], "compare changes no config"),
        (["sync", "{run}", "--config.writers=()"], "sync changes no config"),
        (["replay", "{run}", "--step=3", "--config.seed=7"], "replay changes no config"),
        (["reproduce", "{run}", "--config.seed=7"], "reproduce changes no config"),
    ],
)
def test_a_change_of_the_config_is_not_passed_over(three, fails, arguments, message):
    assert message in fails(*(part.format(run=three / "a", top=three) for part in arguments))


def test_nothing_that_a_run_holds_moves_the_cursor(three, command, fails):
    escape = "\x1b[2J"
    named = {
        "git": {"commit": escape, "dirty": True},
        "data": {escape: {"name": escape}},
        "packages": {escape: "1"},
    }
    (three / "a/provenance.json").write_text(json.dumps({**named, "command": [escape], "devices": [escape]}))
    evaluated = {"metrics": {escape: 0.5, "text": escape}}
    for split in ("test", f"split{escape}"):
        (three / f"a/evaluation/{split}.json").write_text(json.dumps(evaluated))
    status = json.loads((three / "a/status.json").read_text())
    (three / "a/status.json").write_text(json.dumps({**status, "status": escape, "experiment": escape}))
    config = json.loads((three / "a/config.json").read_text())
    for seed in (escape, [escape]):
        (three / "a/config.json").write_text(json.dumps({**config, "seed": seed}))
        for verb in (
            ["show", three / "a"],
            ["runs", three, "--columns=status,config.seed"],
            ["compare", three / "a", three / "c"],
            ["compare", three / "a", three / "c", "--with", three / "a", three / "c"],
        ):
            code, out, _ = command(*verb)
            assert code == 0
            assert "\x1b" not in out
    (three / "a/config.json").write_text(json.dumps({**config, "num_steps": escape}))
    (three / "a/provenance.json").write_text(json.dumps({"experiment": f"{escape}.py"}))
    assert "\x1b" not in fails("show", three / f"{escape}")
    assert "\x1b" not in fails("replay", three / "c", "--step=99")
