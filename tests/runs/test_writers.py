"""The real libraries: what they were given is read back from their own files, stores and servers."""

import contextlib
import http.server
import json
import math
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from jaxkit import configs
from jaxkit.errors import UsageError
from jaxkit.runs import command, cursors, directory, record, tracking
from tests.runs import test_loop
from tests.runs.test_sending import STEPS, append, job, make_run

pytest.importorskip("tensorboard")

TOP = Path(__file__).parent.parent.parent
TENSORBOARD = {"call": "jaxkit.writers.tensorboard"}


def store(folder):
    return {"call": "jaxkit.writers.mlflow", "uri": f"sqlite:///{folder}/mlflow.db", "experiment": "blobs"}


def send(run):
    """Sends what there is; what failed is an error of the test."""
    from jaxkit.runs import sending

    said = []
    sending.send(job(run, said))
    assert said == []


def scalars(run, tag):
    """[(step, value)] as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    found.Reload()
    return [(event.step, event.value) for event in found.Scalars(tag)]


def test_tensorboard_reads_what_was_recorded_each_step_once(tmp_path):
    run = make_run(tmp_path / "run", TENSORBOARD, steps=25)
    send(run)
    # Killed behind what was counted: rows that no cursor knows of are in the file, one of them torn.
    (path,) = (run / "tensorboard").iterdir()
    kept = path.read_bytes()
    path.write_bytes(kept + kept[-70:] + kept[-70:-30])
    append(run, 25, STEPS)
    send(run)
    found = scalars(run, "loss")
    assert [step for step, _ in found] == list(range(1, STEPS + 1))
    assert math.isnan(found[6][1])
    assert found[7][1] == -math.inf
    assert found[9][1] == pytest.approx(0.1)
    assert scalars(run, "speed/steps_per_second")[0] == (1, 2.0)


def test_an_event_file_that_was_damaged_or_removed_is_written_anew(tmp_path):
    run = make_run(tmp_path / "run", TENSORBOARD, steps=25)
    send(run)
    shutil.rmtree(run / "tensorboard")
    append(run, 25, STEPS)
    send(run)
    assert [step for step, _ in scalars(run, "loss")] == list(range(1, STEPS + 1))


@pytest.mark.parametrize("directory", ["/tmp/shared", "../shared", "a/../../shared"])
def test_an_event_file_outside_of_its_run_is_refused(directory):
    config = configs.freeze({"writers": (TENSORBOARD | {"directory": directory},)})
    with pytest.raises(UsageError, match=r"directory: came '.*shared', wanted a place below the run's directory"):
        cursors.check(config.writers)


def test_an_event_file_may_lie_deep_in_its_run(tmp_path):
    send(make_run(tmp_path / "run", TENSORBOARD | {"directory": "logs/events"}))
    assert [path.parent.name for path in (tmp_path / "run").rglob("events.out.*")] == ["events"]


@pytest.fixture
def quiet_mlflow(monkeypatch):
    from jaxkit.writers import libraries

    pytest.importorskip("mlflow")
    for name, value in libraries.QUIET.items():
        monkeypatch.setenv(name, value)


def mlflow_run(folder):
    """The only run of the store: (client, run)."""
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("blobs").experiment_id])
    return client, found


@pytest.mark.filterwarnings("ignore")  # MLflow's, at import and of its store
def test_mlflow_has_every_row_once_the_config_and_where_it_comes_from(tmp_path, quiet_mlflow):
    run = make_run(tmp_path / "run", store(tmp_path), steps=25)
    send(run)
    # Killed between the store's answer and the cursor: the store knows better than we do.
    task = job(run).task
    cursors.write(run, task, cursors.read(run, task)._replace(step=20, digest=None, closed=False))
    append(run, 24, STEPS)
    send(run)
    # As if all had arrived, and only the end was missing.
    cursors.write(run, task, cursors.read(run, task)._replace(closed=False))
    send(run)
    client, found = mlflow_run(tmp_path)
    history = client.get_metric_history(found.info.run_id, "loss")
    assert sorted(metric.step for metric in history) == list(range(1, STEPS + 1))
    values = {metric.step: metric.value for metric in history}
    assert math.isnan(values[7])
    assert values[8] == -sys.float_info.max  # the store knows no infinity
    assert values[STEPS] == 1 / STEPS
    assert found.info.status == "FINISHED"
    assert found.data.params["num_steps"] == str(STEPS)
    assert found.data.params["writers.0.call"] == "jaxkit.writers.mlflow"
    assert found.data.tags["directory"] == str(run)
    assert found.data.tags["fingerprint"] == configs.fingerprint(directory.read_config(run))


@pytest.mark.filterwarnings("ignore")  # MLflow's, at import
@pytest.mark.parametrize(
    "name", ["", ".", "../loss", "/loss", "train//loss/", "a(b)[c]\n", "ünï", "x" * 249 + "/y"]
)
def test_no_name_of_a_metric_keeps_mlflow_from_the_others(quiet_mlflow, name):
    from mlflow.utils.validation import _validate_metric_name

    from jaxkit.writers import mlflow_runs

    _validate_metric_name(mlflow_runs._key(name))
    assert mlflow_runs._key("test/ece.low 5") == "test/ece.low 5"


class Session:
    """A session of W&B's, online: the server has had rows up to a step."""

    def __init__(self, starting_step, fails):
        self.starting_step, self.fails, self.codes = starting_step, fails, []

    def log(self, values, step):
        self.starting_step = step + 1

    def finish(self, exit_code):
        if self.fails:
            raise TimeoutError("the server has gone")
        self.codes.append(exit_code)


def test_wandb_is_told_that_a_run_is_finished_also_where_only_its_end_was_missing(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    from jaxkit.runs import sending

    run = make_run(tmp_path / "run", {"call": "jaxkit.writers.wandb", "mode": "online"})
    first, said = Session(0, fails=True), []
    monkeypatch.setattr(wandb, "init", lambda **settings: first)
    sending.send(job(run, said))
    assert "the server has gone" in said[0]
    assert first.starting_step == STEPS + 1
    second = Session(first.starting_step, fails=False)
    monkeypatch.setattr(wandb, "init", lambda **settings: second)
    send(run)
    assert second.codes == [0]


@pytest.mark.parametrize("kept", ["../../victim", "*", "", ["a"], "0a1b2c3d/../../../victim", 3])
def test_what_wandb_kept_of_a_run_from_elsewhere_leads_to_no_other_directory(tmp_path, monkeypatch, kept):
    wandb = pytest.importorskip("wandb")
    run = make_run(tmp_path / "run", {"call": "jaxkit.writers.wandb"})
    victims = [tmp_path / "victim", run / "wandb/offline-run-1-other", run / "wandb/offline-run-1-0a1b2c3d"]
    for folder in (*victims, run / "wandb/offline-run-1-x"):
        folder.mkdir(parents=True)
    task = job(run).task
    cursors.write(run, task, cursors.new(task)._replace(kept={"id": kept}))
    found = []
    monkeypatch.setattr(wandb, "init", lambda **settings: (found.append(settings["id"]), Session(0, False))[1])
    send(run)
    assert all(folder.is_dir() for folder in victims)
    # It is of our form, and stays.
    assert re.fullmatch("[0-9a-f]{8}", found[0])
    assert cursors.read(run, task).kept["id"] == found[0]


QUIET = """
import os, sys
connected = []
asks = ("socket.connect", "socket.getaddrinfo")
sys.addaudithook(lambda event, _: connected.append(event) if event in asks else None)
from jaxkit import writers
writers.mlflow, writers.wandb, writers.tensorboard
assert not {"mlflow", "wandb", "tensorboard"} & sys.modules.keys()
from jaxkit.writers import libraries
libraries.keep_quiet()
import mlflow, wandb
from mlflow.telemetry import client, utils
assert utils.is_telemetry_disabled()
assert client.get_telemetry_client() is None
assert not wandb.env.error_reporting_enabled()
assert connected == []
# It is we who turned it off: no library is off by itself here.
del os.environ["MLFLOW_DISABLE_TELEMETRY"], os.environ["WANDB_ERROR_REPORTING"]
assert not utils.is_telemetry_disabled()
assert wandb.env.error_reporting_enabled()
"""


def test_the_telemetry_of_the_libraries_is_off_before_they_are_imported(tmp_path):
    pytest.importorskip("wandb")
    pytest.importorskip("mlflow")
    # Nothing of this environment: that tests run, or where, turns some of it off too.
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    command = [sys.executable, "-W", "ignore", "-c", QUIET]
    done = subprocess.run(command, check=False, cwd=TOP, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


class Server(http.server.BaseHTTPRequestHandler):
    """A server that answers 500, or nothing at all while its `hangs` is set."""

    hangs = False

    def do_POST(self):
        self.do_GET()

    def do_GET(self):
        time.sleep(30 if self.hangs else 0)
        # The other side may have given up by now.
        with contextlib.suppress(ConnectionError):
            self.send_error(500)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    found.daemon_threads = True
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{found.server_port}"
    found.shutdown()
    found.server_close()


def test_servers_that_answer_500_hang_or_are_dead_cost_a_run_one_warning_each(
    tmp_path, server, capsys, monkeypatch, quiet_mlflow
):
    hanging = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Hanging", (Server,), {"hangs": True}))
    hanging.daemon_threads = True
    threading.Thread(target=hanging.serve_forever, daemon=True).start()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    # However slow the machine is: none of the three takes long once it is asked.
    monkeypatch.setattr(tracking, "SECONDS_AFTER_THE_END", 120.0)
    uris = (server, f"http://127.0.0.1:{hanging.server_port}", "http://127.0.0.1:9")
    writers = (*({"call": "jaxkit.writers.mlflow", "uri": uri} for uri in uris), TENSORBOARD)
    run = tmp_path / "run"
    assert test_loop.run(run, test_loop.config(writers=writers)) == command.OK
    hanging.shutdown()
    hanging.server_close()
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert sorted(line.split(":")[1].strip() for line in warnings) == ["mlflow", "mlflow-2", "mlflow-3"]
    assert all("jaxkit sync" in line for line in warnings)
    assert [step for step, _ in scalars(run, "loss")] == list(range(5, 31, 5))
    assert [row["step"] for row in record.read(run / directory.METRICS)] == list(range(5, 31, 5))
    for task in cursors.tasks(directory.read_config(run).writers)[:3]:
        assert cursors.missing(run, cursors.read(run, task)) == 6


def offline_history(path):
    """The rows in a transaction log of W&B: blocks of 32 KiB, in them records or parts of one."""
    from wandb.proto import wandb_internal_pb2

    content, place, parts, found = path.read_bytes(), 7, b"", []
    while place + 7 <= len(content):
        left = 2**15 - place % 2**15
        if left < 7:
            place += left
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            entry = wandb_internal_pb2.Record.FromString(parts)
            parts = b""
            if entry.WhichOneof("record_type") == "history":
                items = {item.key or "/".join(item.nested_key): item.value_json for item in entry.history.item}
                found.append({name: json.loads(value) for name, value in items.items()})
    return found


def test_a_writer_that_hangs_delays_an_interrupted_run_by_no_more_than_it_may(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(TOP / "tests/runs")
    monkeypatch.setattr(tracking, "SECONDS_AFTER_A_STOP", 0.5)
    config = test_loop.config(writers=({"call": "reporting.lines", "path": "out", "hang": True},))
    assert test_loop.run(tmp_path / "run", config, stop_after=12) == command.TRY_AGAIN
    (warning,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert warning.startswith("warning: lines: 2 rows not sent in the 0.5 s given; `jaxkit sync ")
    assert directory.status(tmp_path / "run")["status"] == "interrupted"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # MLflow's, of its store
def test_killed_in_the_middle_and_resumed_no_step_is_sent_twice_or_missed(tmp_path):
    pytest.importorskip("wandb")
    run = tmp_path / "run"
    writers = (TENSORBOARD, store(tmp_path), {"call": "jaxkit.writers.wandb", "project": "blobs"})
    start = [sys.executable, "tests/runs/blobs.py", "--config=tests/runs/blobs_config.py", f"--workdir={run}"]
    start += [f"--config.writers={writers!r}", "--config.layout={'call': 'jaxkit.parallel.jit'}"]
    start += ["--config.in_memory=False", "--config.num_steps=30", "--config.eval_every=30"]
    # It stands still behind its second checkpoint, until the writers have been given what there is.
    hanging = {**os.environ, "BLOBS_HANG_AFTER": "22", "BLOBS_ALONE": "0"}
    process = subprocess.Popen(start, cwd=TOP, stdout=subprocess.DEVNULL, env=hanging)
    try:
        # They have what nothing else wants of the processor: where much is wanted, that takes minutes.
        end = time.monotonic() + 600
        while not all(_step(run, name) > 16 for name in ("tensorboard", "mlflow")):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        beside = psutil.Process(process.pid).children(recursive=True)
    finally:
        process.kill()
        process.wait()
    assert directory.status(run)["status"] == "interrupted"
    subprocess.run(start, cwd=TOP, check=True, stdout=subprocess.DEVNULL)
    every = list(range(1, 31))
    assert [step for step, _ in scalars(run, "loss")] == every
    client, found = mlflow_run(tmp_path)
    assert sorted(metric.step for metric in client.get_metric_history(found.info.run_id, "loss")) == every
    (log,) = run.glob("wandb/offline-run-*/*.wandb")
    rows = offline_history(log)
    assert [row["_step"] for row in rows] == every
    recorded = record.read(run / directory.METRICS)
    assert [row["loss"] for row in rows] == [row["loss"] for row in recorded]
    assert rows[9]["_timestamp"] == pytest.approx(recorded[9]["wall"])
    # Neither code, packages nor what git says.
    assert not [path for path in log.parent.rglob("*") if path.suffix in (".txt", ".patch", ".py")]
    assert psutil.wait_procs(beside, timeout=30)[1] == []


def _step(run, name):
    path = run / "writers" / f"{name}.json"
    return json.loads(path.read_text())["step"] if path.exists() else 0
