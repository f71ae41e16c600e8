"""`jaxkit dashboard`: over real HTTP, and in a real browser."""

import contextlib
import http.client
import json
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("plotly")

from jaxkit.reports.site import CHUNK_BYTES
from jaxkit.runs import directory, record

TOP = Path(__file__).parent.parent.parent


@contextlib.contextmanager
def served(folder: Path):
    """The port of a dashboard in a process of its own."""
    command = [sys.executable, "-m", "jaxkit.cli", "dashboard", str(folder), "--port=0", "--json"]
    process = subprocess.Popen(command, cwd=TOP, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        url = json.loads(process.stdout.readline())["url"]
        yield int(url.rstrip("/").rsplit(":", 1)[1])
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == 0
        assert process.stderr.read() == ""
        process.stdout.close()
        process.stderr.close()


def ask(port: int, path: str, *, method: str = "GET", host: str | None = None, body: bytes | None = None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request(method, path, body=body, headers={"Host": host} if host else {})
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    return reply.status, content, reply.headers


def found(port: int, path: str):
    status, content, _ = ask(port, path)
    assert status == 200, content
    return json.loads(content, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@pytest.fixture(scope="module")
def site(tmp_path_factory, made):
    """A directory with two runs, and the port of its dashboard."""
    folder = tmp_path_factory.mktemp("dashboard") / "runs"
    made(folder / "a", changes={"seed": 1})
    made(folder / "group/b", changes={"seed": 2}, losses={10: float("nan"), 20: 1.0})
    with served(folder) as port:
        yield folder, port


def wait_for(port: int, name: str) -> None:
    """Waits until the server has looked, which it does now and then."""
    until = time.monotonic() + 120
    while not any(run["name"] == name for run in found(port, "/api/runs")["runs"]):
        assert time.monotonic() < until, f"{name} does not appear"
        time.sleep(0.1)


def append(run: Path, step: int, **values: float) -> None:
    """What the run's process would write next."""
    newest = record.read(run / directory.METRICS)[-1]
    recorder = record.recorder(run / directory.METRICS, after=newest["step"])
    recorder.append(step, values, step, {})
    recorder.close()


def test_runs_are_listed_with_their_newest_values(site):
    _, port = site
    listed = found(port, "/api/runs")
    runs = {run["name"]: run for run in listed["runs"]}
    assert set(runs) >= {"a", "group/b"}
    assert runs["a"]["values"]["test/accuracy"] == 0.9
    assert runs["a"]["spark"] == [0.1, 0.05, 0.03333, 0.025]
    again = found(port, f"/api/runs?version={listed['version']}")
    if "runs" in again:  # it has just seen what another test made
        again = found(port, f"/api/runs?version={again['version']}")
    assert "runs" not in again
    filtered = found(port, "/api/runs?where=config.seed%3D2&where=status%3Dfinished")
    assert [run["name"] for run in filtered["runs"]] == ["group/b"]
    status, content, _ = ask(port, "/api/runs?where=config.sed%3D2")
    assert status == 409
    assert "did you mean 'config.seed'" in json.loads(content)["error"]


def test_only_new_rows_are_sent_and_a_record_that_was_rewritten_from_the_start(site, made):
    folder, port = site
    run = made(folder / "growing")
    wait_for(port, "growing")
    whole = found(port, "/api/rows?run=growing")
    assert [row[0] for row in whole["rows"]] == [10, 20, 30, 40]
    assert whole["offset"] == (run / directory.METRICS).stat().st_size
    place = f"/api/rows?run=growing&offset={whole['offset']}&digest={whole['digest']}"
    again = found(port, place)
    assert (again["rows"], again["restart"], again["offset"]) == ([], False, whole["offset"])
    with (run / directory.METRICS).open("a") as file:
        file.write('{"step": 50, "lo')
    assert found(port, place)["rows"] == []
    append(run, 50, loss=float("1.5"))
    assert [(row[0], row[2]) for row in found(port, place)["rows"]] == [(50, {"loss": 1.5})]
    # Resumed from step 20, as a run that lost a checkpoint is: the same step, other numbers behind it.
    recorder = record.recorder(run / directory.METRICS, after=20)
    for step in (30, 40):
        recorder.append(step, {"loss": 7.0}, 0, {})
    recorder.close()
    resumed = found(port, place)
    assert resumed["restart"] is True
    assert [row[2]["loss"] for row in resumed["rows"]][2:] == [7.0, 7.0]
    # Of the same length to the byte: only the digest tells.
    place = f"/api/rows?run=growing&offset={resumed['offset']}&digest={resumed['digest']}"
    assert found(port, place)["restart"] is False
    content = (run / directory.METRICS).read_text()
    (run / directory.METRICS).write_text(content.replace(resumed["digest"], "f" * 32))
    assert found(port, place)["restart"] is True


def test_a_large_record_comes_in_parts(site, made):
    folder, port = site
    run = made(folder / "large")
    with (run / directory.METRICS).open("a") as file:
        for step in range(41, 30_041):
            file.write(json.dumps({"step": step, "loss": 1.0, "digest": "0" * 32, "wall": 1.0}) + "\n")
    wait_for(port, "large")
    steps, place, more = [], "/api/rows?run=large", True
    while more:
        part = found(port, place)
        steps += [row[0] for row in part["rows"]]
        place, more = f"/api/rows?run=large&offset={part['offset']}&digest={part['digest']}", part["more"]
    assert steps == [10, 20, 30, 40, *range(41, 30_041)]
    shutil.rmtree(run)


def test_a_row_that_no_reply_holds_is_damage(site, made):
    folder, port = site
    run = made(folder / "wide")
    with (run / directory.METRICS).open("a") as file:
        for step, size in ((50, 1.5), (60, 1.5), (70, 2.0), (80, 0.0)):
            row = {"step": step, "text": "x" * int(size * CHUNK_BYTES / 2), "digest": f"{step:032}", "wall": 1.0}
            file.write(json.dumps(row) + "\n")
    wait_for(port, "wide")
    steps, place, more = [], "/api/rows?run=wide", True
    while more:
        assert len(steps) < 8, "it comes again and again"
        part = found(port, place)
        steps += [row[0] for row in part["rows"]]
        place, more = f"/api/rows?run=wide&offset={part['offset']}&digest={part['digest']}", part["more"]
    assert (steps, part["damaged"]) == ([10, 20, 30, 40, 50, 60], True)
    shutil.rmtree(run)


def test_configs_are_compared_and_the_report_is_made(site):
    _, port = site
    assert found(port, "/api/config?run=a&run=group/b")["differences"] == [["seed", ["1", "2"]]]
    assert '"seed": 1' in found(port, "/api/config?run=a")["text"]
    assert found(port, "/api/config")["differences"] == []
    status, content, headers = ask(port, "/report?run=a&run=group/b")
    assert status == 200
    assert headers["Content-Type"].startswith("text/html")
    assert b"Plotly" in content or b"plotly" in content
    # Of all that are chosen, however many.
    assert b"<h1>17 runs of blobs</h1>" in ask(port, f"/report?{'run=a&' * 16}run=group/b")[1]


@pytest.mark.parametrize(
    "path",
    [
        "/api/rows?run=../../etc",
        "/api/rows?run=/etc/passwd",
        "/api/rows?run=a/../a",
        "/api/rows?run=",
        "/api/rows",
        "/api/config?run=.%2e/x",
        "/report?run=%2fetc",
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/static/../dashboard.html",
        "/dashboard.html/..",
        "//etc/passwd",
        "/style.css%00",
    ],
)
def test_no_path_leads_anywhere_else(site, path):
    status, content, _ = ask(site[1], path)
    assert status == 404
    assert b"root:" not in content


@pytest.mark.parametrize(
    "path",
    [
        "/api/rows?run=a&offset=-1",
        "/api/rows?run=a&offset=9e9",
        "/api/rows?run=a&offset=99999999999999999999&digest=x",
    ],
)
def test_an_offset_that_is_none_begins_at_the_start(site, path):
    assert found(site[1], path)["restart"] is True


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])
def test_it_only_reads(site, method):
    status, _, headers = ask(site[1], "/api/runs", method=method, body=b"x=1")
    assert status == 405
    assert headers["Allow"] == "GET"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 421),
        ("evil.example:80", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example", 421),
        ("192.168.0.1", 421),
        ("[::2]:80", 421),
        ("localhost:9999", 200),
        ("127.0.0.1", 200),
        ("[::1]:80", 200),
    ],
)
def test_a_page_that_was_rebound_to_this_machine_reads_nothing(site, host, status):
    found, _, headers = ask(site[1], "/api/runs", host=host)
    assert found == status
    assert "Access-Control-Allow-Origin" not in headers


def test_a_page_may_load_nothing_from_elsewhere(site):
    _, content, headers = ask(site[1], "/")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "'unsafe-inline'" not in headers["Content-Security-Policy"].split("script-src")[1].split(";")[0]
    assert headers["X-Frame-Options"] == "DENY"
    assert b"http" not in content.replace(b"http-equiv", b"")


def test_a_taken_port_and_an_open_host_are_one_line(site, fails):
    folder, _ = site
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "is taken; choose another" in fails("dashboard", folder, f"--port={taken.getsockname()[1]}")
    assert "ssh -L" in fails("dashboard", folder, "--host=0.0.0.0")
    assert "wanted 0 to 65535" in fails("dashboard", folder, "--port=70000")
    assert "no such directory" in fails("dashboard", folder / "nowhere")


def test_a_browser_that_goes_away_leaves_no_word(made, tmp_path):
    made(tmp_path / "a")
    with served(tmp_path) as port:  # which looks that nothing was printed
        for request in (b"GET /plotly.js HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET / HT"):
            gone = socket.create_connection(("127.0.0.1", port))
            # Closing resets the connection, whatever is under way.
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            gone.sendall(request)
            gone.close()
        assert ask(port, "/api/runs")[0] == 200


def test_looking_changes_nothing_in_a_run(site):
    folder, port = site
    state = lambda: {path: path.stat().st_mtime_ns for path in (folder / "a").rglob("*")}
    before = state()
    for path in ("/", "/api/runs", "/api/rows?run=a", "/api/config?run=a", "/report?run=a"):
        assert ask(port, path)[0] == 200
    assert state() == before
