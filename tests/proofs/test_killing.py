"""`jaxkit verify-resume`: real processes killed with -9 end with the same bits; where not, it says so."""

import json
import math
import random
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import psutil
import pytest

from jaxkit import cli
from jaxkit.proofs import aiming, children, comparing, killing
from jaxkit.runs import arrays, checkpoints, directory, files

TOP = Path(__file__).parent.parent.parent
EXPERIMENT = ["tests/proofs/crash.py", "--config=tests/proofs/crash_config.py"]


@pytest.fixture(scope="module")
def proof(tmp_path_factory):
    """Four kills, and all that they left."""
    for _ in range(3):
        top = tmp_path_factory.mktemp("proof") / "proof"
        command = [sys.executable, "-m", "jaxkit.cli", "verify-resume", *EXPERIMENT, "--json"]
        command += ["--kills=4", "--seed=53", f"--workdir={top}"]
        done = subprocess.run(command, check=False, cwd=TOP, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        found = json.loads(done.stdout)
        assert found["identical"], found
        # Who aims at a start-up of two seconds, and is kept waiting for as long, hits a step; that proves no less.
        if {kill["aimed"]: kill["phase"] for kill in found["kills"]}.get("start-up") == "start-up":
            break
    return found, top


def test_killed_in_a_save_in_steps_in_a_deletion_and_in_the_start_up_it_ends_with_the_same_bits(proof):
    found, top = proof
    assert found["identical"]
    assert found["differences"] == []
    kills = {kill["aimed"]: kill for kill in found["kills"]}
    assert len(found["kills"]) == 4
    assert kills.keys() == {"save", "steps", "deletion", "start-up"}
    # A save may be over before the kill is there. In the start-up there is all the time it takes: of that seed it
    # is killed before a tenth of it is over.
    assert kills["start-up"]["phase"] == "start-up"
    assert kills["start-up"]["reached"] == kills["start-up"]["resumes"]
    assert kills["steps"]["phase"] != "start-up"
    assert all(kill["resumes"] <= kill["reached"] < 40 for kill in found["kills"])
    # Every second step is recorded, and the state has parameters, their moments and average, and statistics.
    assert (found["steps"], found["rows"]) == (40, 20)
    assert found["arrays"] > 20
    assert {path.name for path in top.iterdir()} >= {"whole", "killed-1", "log.txt"}


def copy(proof, tmp_path) -> tuple[Path, Path]:
    _, top = proof
    return top / "whole", shutil.copytree(top / "killed-1", tmp_path / "killed")


def test_a_changed_value_is_named_with_its_step(proof, tmp_path):
    whole, killed = copy(proof, tmp_path)
    rows = (killed / "metrics.jsonl").read_text().splitlines()
    row = json.loads(rows[4])
    rows[4] = json.dumps({**row, "loss": row["loss"] * (1 + 1e-6)})
    (killed / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    found = comparing.compare(whole, killed)
    assert not found.identical
    assert (found.agreed, found.last, found.rows) == (8, 40, 20)
    assert str(found.differences[0]).startswith("step 10: loss: ")
    assert found.largest == pytest.approx(1e-6, rel=1e-3)


def test_a_changed_bit_is_named_with_its_array_and_by_how_much(proof, tmp_path):
    whole, killed = copy(proof, tmp_path)
    checkpoint = killed / "checkpoints/40"
    leaves = comparing.leaves(checkpoint)
    assert leaves["state.params.Dense_0.kernel"].shape == (8, 16)
    assert all(
        np.array_equal(a, b) for a, b in zip(leaves.values(), comparing.leaves(whole / "checkpoints/40").values())
    )
    changed = dict(leaves)
    kernel = changed["state.params.Dense_0.kernel"].copy()
    kernel[3, 5] = np.nextafter(kernel[3, 5], np.float32(9))
    changed["state.params.Dense_0.kernel"] = kernel
    ((path, text, relative),) = comparing.array_differences(leaves, changed)
    assert path == "state.params.Dense_0.kernel"
    assert text.startswith("1 of 128 values, by up to ")
    assert 0 < relative < 1e-6


def test_how_far_complex_numbers_are_apart_their_bytes_do_not_say(tmp_path):
    one = np.full(1000, 1 + 1j, np.complex64)
    other = one.copy()
    other[7] *= 4
    for name, array in (("one", one), ("other", other)):
        (tmp_path / name).mkdir()
        arrays.write(tmp_path / name, arrays.pack({"w": array}))
    ((_, _, relative),) = comparing.array_differences(
        *map(comparing.leaves, (tmp_path / "one", tmp_path / "other"))
    )
    assert relative == math.inf


def test_a_missing_row_a_torn_line_and_a_leftover_are_seen(proof, tmp_path):
    whole, killed = copy(proof, tmp_path)
    rows = (killed / "metrics.jsonl").read_text().splitlines(keepends=True)
    (killed / "metrics.jsonl").write_text("".join(rows[:7] + rows[8:]))
    assert "the other record has step 18 here" in str(comparing.compare(whole, killed).differences[0])
    (killed / "metrics.jsonl").write_text("".join(rows[:19]) + rows[19][:-5])
    assert "step 40: the row: is only in one record" in map(str, comparing.compare(whole, killed).differences)
    (killed / "checkpoints/4").mkdir()
    (killed / ".status.json.0a1b2c3d").write_text("{")
    found = killing._left(whole, killed)
    assert len(found) == 3
    assert found[0].startswith("checkpoints: ")
    assert found[1].endswith(".status.json.0a1b2c3d was left half-written")
    assert found[2].endswith("the last line is torn")


def test_another_end_is_seen(proof, tmp_path):
    whole, killed = copy(proof, tmp_path)
    directory.set_status(killed, params_sha256="0" * 64)
    report = files.read_json(killed / "evaluation/test.json")
    report["metrics"]["loss"] += 1
    files.write_json(killed / "evaluation/test.json", report)
    found = [str(difference) for difference in comparing.compare(whole, killed).differences]
    assert found[0].startswith("the end: params_sha256: ")
    assert found[1].startswith("the end: evaluation.test.loss: ")


def test_a_damaged_checkpoint_is_no_agreement(proof, tmp_path):
    whole, killed = copy(proof, tmp_path)
    victim = max((path for path in (killed / "checkpoints/40").rglob("*") if path.is_file()), key=_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    found = comparing.compare(whole, killed)
    assert found.differences[0].what == "its files"
    assert checkpoints.verify(killed / "checkpoints/40") in found.differences[0].text[:-1]


def _size(path: Path) -> int:
    return path.stat().st_size


def test_aims_are_drawn_from_the_seed_and_wait_for_ever_more_of_the_run():
    drawn = aiming.aims(50, random.Random(3), PACE)
    assert drawn == aiming.aims(50, random.Random(3), PACE)
    assert drawn != aiming.aims(50, random.Random(4), PACE)
    assert sorted(aim.progress for aim in drawn) == [aim.progress for aim in drawn]
    # Each is over before the end, and leaves the next one something to hit.
    assert all(aim.progress < aim.by <= 0.95 for aim in drawn)
    assert drawn[-1].progress < 0.8
    assert "deletion" not in {aim.at for aim in aiming.aims(50, random.Random(3), PACE._replace(saves=2))}


PACE = aiming.Pace(num_steps=40, total=9.0, to_first_step=4.0, interval=0.1, save=0.1, saves=10)


def complete(folder: Path, step: int) -> None:
    (folder / f"checkpoints/{step}").mkdir(parents=True, exist_ok=True)
    (folder / f"checkpoints/{step}/manifest.json").write_text("{}")


@pytest.fixture
def resumed(tmp_path):
    """What a killed run leaves: checkpoints of steps 4 and 8, half of another, and rows behind them."""
    for step in (4, 8):
        complete(tmp_path, step)
    (tmp_path / "checkpoints/20").mkdir()
    (tmp_path / "metrics.jsonl").write_text('{"step": 8}\n{"step": 11}\n')
    return tmp_path


def moments(folder: Path) -> list:
    """What the process that goes on from step 8 does, one look after the other."""
    checkpoint = folder / "checkpoints"
    return [
        lambda: (folder / "metrics.jsonl").write_text('{"step": 8}\n{"step": 9}\n'),
        (checkpoint / "12").mkdir,
        lambda: complete(folder, 12),
        (checkpoint / "4/manifest.json").unlink,
        (checkpoint / "4").rmdir,
    ]


def test_a_save_and_a_deletion_are_told_from_what_a_kill_has_left(resumed):
    sight, seen = aiming._sight(resumed), []
    look = lambda: seen.append((sight.reached(), sight.saving(), sight.deleting()))
    look()
    for moment in moments(resumed):
        moment()
        look()
    assert sight.resumed == 8
    # In the middle of a save, and of a deletion, there is a directory without a manifest: newer, and older.
    assert seen == [(8, 0, 0), (9, 0, 0), (9, 1, 0), (12, 0, 0), (12, 0, 1), (12, 0, 0)]


@pytest.mark.parametrize(
    ("at", "after", "reached", "resumes"),
    [("start-up", 0, 8, 8), ("steps", 1, 9, 8), ("save", 2, 9, 8), ("deletion", 4, 12, 12)],
)
def test_a_kill_comes_in_the_moment_that_is_aimed_at(resumed, monkeypatch, at, after, reached, resumes):
    left = moments(resumed)
    # One thing happens between two looks.
    clock = types.SimpleNamespace(monotonic=time.monotonic, sleep=lambda pause: left.pop(0)())
    monkeypatch.setattr(aiming, "time", clock)
    with children.started(["sleep", "3600"], log=resumed / "log", environment={}) as process:
        kill = aiming.shoot(process, resumed, aiming.Aim(at, 0.0, 1.0, 0.0), PACE)
        assert process.returncode == -signal.SIGKILL
    assert len(moments(resumed)) - len(left) == after
    assert (kill.aimed, kill.phase, kill.reached, kill.resumes) == (at, at, reached, resumes)


def test_a_process_that_ended_by_itself_was_not_killed(resumed):
    with children.started(["true"], log=resumed / "log", environment={}) as process:
        process.wait()
        assert aiming.shoot(process, resumed, aiming.Aim("steps", 0.0, 1.0, 0.0), PACE) is None


def lives(number: int) -> bool:
    """Whether there is such a process, and it is no zombie that nobody has waited for."""
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_kill_takes_the_whole_group_and_nothing_else(tmp_path):
    # The child starts a child; both are in one group, this process is not.
    script = "import subprocess, sys; p = subprocess.Popen(['sleep', '3600']); print(p.pid, flush=True); p.wait()"
    environment = children.environment()
    with children.started(
        [sys.executable, "-c", script], log=tmp_path / "log", environment=environment
    ) as process:
        while not (tmp_path / "log").read_text():
            assert process.poll() is None
            signal.sigtimedwait([], 0.01)
    assert process.returncode == -signal.SIGKILL
    until = time.monotonic() + 60
    while lives(int((tmp_path / "log").read_text())):
        assert time.monotonic() < until, "the child of the child lives"
        signal.sigtimedwait([], 0.01)


MISTAKES = {
    "no experiment": (["nowhere.py", "--config=tests/proofs/crash_config.py"], "there is no such experiment"),
    "no config": (["tests/proofs/crash.py", "--config=nowhere.py"], "there is no such file"),
    "no kills": ([*EXPERIMENT, "--kills=0"], "--kills: came 0, wanted at least 1"),
    "used before": ([*EXPERIMENT, "--workdir={used}"], "holds a proof already (whole)"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(TOP)
    (tmp_path / "used/whole").mkdir(parents=True)
    flags, message = MISTAKES[name]
    with pytest.raises(SystemExit) as caught:
        cli.main(["verify-resume", *(flag.format(used=tmp_path / "used") for flag in flags)])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_an_experiment_that_does_not_work_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(TOP)
    (tmp_path / "broken.py").write_text("raise SystemExit('error: it never worked')\n")
    with pytest.raises(SystemExit) as caught:
        cli.main(["verify-resume", str(tmp_path / "broken.py"), EXPERIMENT[1], f"--workdir={tmp_path / 'p'}"])
    assert caught.value.code == 2
    assert "the command ended with exit code 1: error: it never worked" in capsys.readouterr().err
