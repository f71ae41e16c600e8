"""The rows of a record reach a writer in order and once, whatever fails; memory holds none that wait."""

import json
import math
import os
import threading
import time

import pytest

from jaxkit import cli, configs
from jaxkit.errors import UsageError
from jaxkit.runs import cursors, directory, files, record, sending, tailing, tracking

STEPS = 40


@pytest.fixture(autouse=True)
def own_writers(monkeypatch, pytestconfig):
    """The directory of `reporting` is where names are looked for, here and in the process beside a run."""
    monkeypatch.syspath_prepend(pytestconfig.rootpath / "tests/runs")
    monkeypatch.setattr(sending, "SECONDS_BETWEEN_LOOKS", 0.01)


def make_run(folder, *writers, steps=STEPS):
    """A run's directory as the loop leaves it, without training."""
    config = configs.freeze({"num_steps": STEPS, "seed": 0, "writers": writers})
    with directory.claim(folder, config, "blobs"):
        append(folder, 0, steps)
        directory.set_status(folder, status="finished", step=steps)
    return folder


def append(run, after, steps, shift=0.0):
    recorder = record.recorder(run / directory.METRICS, after=after)
    for step in range(after + 1, steps + 1):
        loss = {7: math.nan, 8: -math.inf}.get(step, 1 / step + shift)
        recorder.append(step, record.values({}) | {"loss": record.plain(loss)}, step, {"steps_per_second": 2.0})
    recorder.close()


def writer(path, **options):
    return {"call": "reporting.lines", "path": str(path), **options}


def job(run, said=None):
    """What sends all there is, and ends."""
    over = threading.Event()
    over.set()
    task = cursors.tasks(directory.read_config(run).writers)[0]
    return sending.Job(run, task, over, (said if said is not None else []).append)


def until(condition, thread):
    """Waits; a guard for the suite, what is waited for takes a fraction of it."""
    end = time.monotonic() + 60
    while not condition():
        assert thread.is_alive()
        assert time.monotonic() < end
        time.sleep(0.005)


def steps_in(path):
    return [json.loads(line)[0] for line in path.read_text().splitlines()] if path.exists() else []


def test_every_row_is_sent_once_and_a_second_time_nothing(tmp_path):
    run = make_run(tmp_path / "run", writer(tmp_path / "out"))
    sending.send(job(run))
    sending.send(job(run))
    assert steps_in(tmp_path / "out") == list(range(1, STEPS + 1))
    step, values = json.loads((tmp_path / "out").read_text().splitlines()[6])
    assert (step, values["speed/steps_per_second"]) == (7, 2.0)
    assert math.isnan(values["loss"])
    cursor = cursors.read(run, job(run).task)
    assert (cursor.step, cursor.closed, cursor.error) == (STEPS, True, None)
    assert cursors.missing(run, cursor) == 0


def test_rows_come_as_they_are_written_and_a_torn_line_waits(tmp_path):
    run = make_run(tmp_path / "run", writer(tmp_path / "out"), steps=3)
    whole = (run / directory.METRICS).read_text()
    lines = whole.splitlines(keepends=True)
    (run / directory.METRICS).write_text("".join(lines[:2]) + lines[2][:20])
    going = job(run)
    going.stopping.clear()
    thread = threading.Thread(target=sending.send, args=(going,))
    thread.start()
    until(lambda: steps_in(tmp_path / "out") == [1, 2], thread)
    with (run / directory.METRICS).open("a") as file:
        file.write(lines[2][20:])
    until(lambda: steps_in(tmp_path / "out") == [1, 2, 3], thread)
    going.stopping.set()
    thread.join()
    assert cursors.read(run, going.task).closed


def test_what_fails_is_said_once_noted_and_sent_later(tmp_path, monkeypatch):
    monkeypatch.setattr(sending, "LONGEST_PAUSE", 0.02)
    run = make_run(tmp_path / "run", writer(tmp_path / "out", fail_until=str(tmp_path / "up")))
    said = []
    going = job(run, said)
    going.stopping.clear()
    thread = threading.Thread(target=sending.send, args=(going,))
    thread.start()
    until((run / "writers/lines.json").exists, thread)
    assert "nobody there" in cursors.read(run, going.task).error
    (tmp_path / "up").touch()
    until(lambda: steps_in(tmp_path / "out") == list(range(1, STEPS + 1)), thread)
    going.stopping.set()
    thread.join()
    assert len(said) == 1
    assert said[0].startswith("ConnectionError: nobody there; the record has what is missed here, `jaxkit sync ")
    assert cursors.read(run, going.task).error is None


def test_a_run_that_goes_on_from_a_checkpoint_sends_nothing_twice(tmp_path):
    run = make_run(tmp_path / "run", writer(tmp_path / "out"), steps=25)
    sending.send(job(run))
    # Killed after step 25, gone on from a checkpoint at 20: five rows are computed anew, to the same bits.
    append(run, 20, 30)
    said = []
    sending.send(job(run, said))
    assert steps_in(tmp_path / "out") == list(range(1, 31))
    assert said == []


def test_rows_that_a_changed_run_computes_anew_stay_as_they_were_sent_and_that_is_said(tmp_path):
    run = make_run(tmp_path / "run", writer(tmp_path / "out"), steps=25)
    sending.send(job(run))
    append(run, 20, 30, shift=1.0)
    said = []
    sending.send(job(run, said))
    assert steps_in(tmp_path / "out") == list(range(1, 31))
    assert said == ["the rows up to step 25 were sent before the run was changed and computed anew; they stay"]


def test_what_is_not_certain_before_the_end_is_sent_anew_after_a_kill(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", writer(tmp_path / "out", flushes=False))
    with monkeypatch.context() as patch:
        patch.setattr(cursors, "write", lambda *args: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            sending.send(job(run))
    assert cursors.read(run, job(run).task).step == 0
    sending.send(job(run))
    assert steps_in(tmp_path / "out") == 2 * list(range(1, STEPS + 1))
    assert cursors.read(run, job(run).task).step == STEPS


def test_a_full_disk_is_said_and_what_was_sent_is_not_sent_again(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", writer(tmp_path / "out"))
    failing = [True, True, True]
    whole = files.write_json

    def write(path, value):
        if failing:
            failing.pop()
            raise OSError(28, "No space left on device", str(path))
        whole(path, value)

    monkeypatch.setattr(files, "write_json", write)
    monkeypatch.setattr(sending, "LONGEST_PAUSE", 0.02)
    said = []
    going = job(run, said)
    going.stopping.clear()
    thread = threading.Thread(target=sending.send, args=(going,))
    thread.start()
    until(lambda: len(failing) < 2, thread)
    going.stopping.set()
    thread.join()
    assert "No space left on device" in said[0]
    assert steps_in(tmp_path / "out") == list(range(1, STEPS + 1))


def test_of_a_long_record_only_a_part_is_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(tailing, "MAX_ROWS_AT_ONCE", 7)
    run = make_run(tmp_path / "run", writer(tmp_path / "out"))
    rows, sizes = tailing.reader(run / directory.METRICS), []
    while found := rows(0):
        sizes.append(len(found))
    assert sizes == [7, 7, 7, 7, 7, 5]
    sending.send(job(run))
    assert steps_in(tmp_path / "out") == list(range(1, STEPS + 1))


def test_another_config_of_a_writer_begins_at_the_first_row(tmp_path):
    run = make_run(tmp_path / "run", writer(tmp_path / "out"))
    sending.send(job(run))
    changed = configs.freeze({"num_steps": STEPS, "seed": 0, "writers": (writer(tmp_path / "other"),)})
    files.write_text(run / directory.CONFIG, configs.to_json(changed))
    sending.send(job(run))
    assert steps_in(tmp_path / "other") == steps_in(tmp_path / "out")


@pytest.mark.parametrize(
    ("writers", "message"),
    [
        (({"call": "reporting.nothing"},), "config.writers.0: gave a NoneType, wanted a jaxkit.types.Writer"),
        (({"call": "jaxkit.writers.tensorbord"},), "did you mean 'tensorboard'"),
        (({"call": "jaxkit.writers.wandb", "mode": "of"},), "config.writers.0.mode: came 'of', wanted"),
    ],
)
def test_a_mistake_in_the_config_is_one_line(writers, message):
    with pytest.raises(UsageError, match=message):
        cursors.check(configs.freeze({"writers": writers}).writers)


def sync(run, *flags, capsys):
    code = cli.main(["sync", str(run), "--json", *flags])
    return code, json.loads(capsys.readouterr().out)["writers"]


def test_sync_sends_what_is_missing_and_only_then_succeeds(tmp_path, capsys, monkeypatch):
    run = make_run(
        tmp_path / "run",
        writer(tmp_path / "out", fail_until=str(tmp_path / "up")),
        {"call": "reporting.ten_lines", "path": str(tmp_path / "ten")},
    )
    code, found = sync(run, "--allow=reporting", capsys=capsys)
    assert code == 1
    assert (found[0]["sent"], found[0]["missing"], found[0]["error"]) == (0, 40, "ConnectionError: nobody there")
    assert found[1] == {"writer": "ten_lines", "sent": 40, "missing": 0, "step": 40, "error": None}
    (tmp_path / "up").touch()
    code, found = sync(run, "--allow=reporting", capsys=capsys)
    assert (code, [row["sent"] for row in found]) == (0, [40, 0])
    assert steps_in(tmp_path / "out") == list(range(1, STEPS + 1))
    assert len((tmp_path / "ten").read_text().splitlines()) == STEPS


@pytest.mark.skipif(not hasattr(os, "SCHED_IDLE"), reason="Linux can do this")
@pytest.mark.parametrize(("aside", "policy"), [(True, "SCHED_IDLE"), (False, "SCHED_OTHER")])
def test_beside_a_run_writers_have_what_nothing_else_wants_of_the_processor(tmp_path, aside, policy):
    run = make_run(tmp_path / "run", {"call": "reporting.policy", "path": str(tmp_path / "policy")}, steps=1)
    writers = directory.read_config(run).writers
    finish = tracking.start(run, writers, pytest.fail, ["reporting"], aside=aside)
    while not (tmp_path / "policy").exists():
        time.sleep(0.01)
    finish(30)
    assert (tmp_path / "policy").read_text() == f"{getattr(os, policy)} {os.getsid(0)}"


def test_a_writer_that_hangs_is_ended_when_the_time_is_over(tmp_path, capsys):
    run = make_run(tmp_path / "run", writer(tmp_path / "out", hang=True))
    code, found = sync(run, "--allow=reporting", "--seconds=3", capsys=capsys)
    assert (code, found[0]["missing"], found[0]["error"]) == (1, 40, "not done within 3 s")


@pytest.mark.parametrize(
    ("how", "error", "warning"),
    [
        ("dies", "40 rows not sent as its process ended (exit code -11)", "odd: 40 rows not sent as its process"),
        ("exits", "SystemExit: I am off", "SystemExit: I am off; the record has what is missed"),
        ("hangs", "not done within 3 s", "odd: not closed in the 3 s given; `jaxkit sync "),
        (
            "keeps",
            "TypeError: what the writer keeps (flush, keep) is no JSON: ",
            "TypeError: what the writer keeps",
        ),
    ],
)
def test_what_became_of_a_writer_is_said(tmp_path, capsys, how, error, warning):
    run = make_run(tmp_path / "run", {"call": "reporting.odd", "path": str(tmp_path / "out"), "how": how})
    said: list[str] = []
    tracking.start(run, directory.read_config(run).writers, said.append, ["reporting"], aside=False)(3)
    assert any(warning in text for text in said), said
    code, found = sync(run, "--allow=reporting", "--seconds=3", capsys=capsys)
    assert code == 1
    assert error in found[0]["error"]


def test_a_writer_goes_on_whatever_place_it_has_among_the_others(tmp_path):
    paths = [tmp_path / name for name in ("a", "b", "c")]
    run = make_run(tmp_path / "run", *map(writer, paths[:2]))
    send = lambda: tracking.start(run, directory.read_config(run).writers, pytest.fail, ["reporting"])(30)
    send()
    before = {path.name: path.read_bytes() for path in (run / cursors.FOLDER).glob("*.json")}
    # The second moves up, before a new one; then the first comes back, last.
    for order in ([1, 2], [1, 2, 0]):
        found = configs.freeze({"num_steps": STEPS, "seed": 0, "writers": [writer(paths[n]) for n in order]})
        files.write_text(run / directory.CONFIG, configs.to_json(found))
        send()
    assert [steps_in(path) for path in paths] == [list(range(1, STEPS + 1))] * 3
    now = {path.name: path.read_bytes() for path in (run / cursors.FOLDER).glob("*.json")}
    assert before.items() <= now.items()
    assert len(now) == 3


def test_the_same_writer_twice_is_refused():
    twice = configs.freeze({"writers": [writer("a"), writer("b"), writer("a")]}).writers
    with pytest.raises(UsageError, match=r"config\.writers\.2: is config\.writers\.0 once more; give each once"):
        cursors.tasks(twice)


def test_sync_calls_only_what_it_may(tmp_path, capsys):
    run = make_run(tmp_path / "run", writer(tmp_path / "out"))
    before = sorted(run.rglob("*"))
    with pytest.raises(SystemExit) as caught:
        cli.main(["sync", str(run)])
    assert caught.value.code == 2
    assert "'reporting.lines' is outside what this config may call: jaxkit.writers" in capsys.readouterr().err
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize("writers", [("x",), ({"a": 1},), 5, {"call": "jaxkit.writers.tensorboard"}])
def test_sync_of_what_are_no_writers_is_one_line(tmp_path, capsys, writers):
    run = make_run(tmp_path / "run")
    changed = configs.freeze({"num_steps": STEPS, "seed": 0, "writers": writers})
    files.write_text(run / directory.CONFIG, configs.to_json(changed))
    with pytest.raises(SystemExit) as caught:
        cli.main(["sync", str(run)])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: config.writers: came ")
    assert error.endswith("wanted a tuple of dicts with 'call' or 'function'\n")


@pytest.mark.parametrize("line", ["x\n", "{}\n", '{"step": "x", "digest": ""}\n'])
def test_sync_of_a_damaged_record_is_one_line(tmp_path, capsys, line):
    run = make_run(tmp_path / "run", writer(tmp_path / "out"))
    (run / directory.METRICS).write_text(line)
    with pytest.raises(SystemExit) as caught:
        cli.main(["sync", str(run), "--allow=reporting"])
    assert caught.value.code == 2
    assert "line 1 is no row of a record" in capsys.readouterr().err


def test_sync_refuses_a_run_that_is_running(tmp_path, capsys):
    run = make_run(tmp_path / "run", writer(tmp_path / "out"))
    with directory.claim(run, directory.read_config(run), "blobs"):
        directory.set_status(run, status="running")
        with pytest.raises(SystemExit) as caught:
            cli.main(["sync", str(run)])
    assert caught.value.code == 2
    assert "is running, and sends as it goes" in capsys.readouterr().err
