"""`jaxkit report`: one file, no network, nothing of a run directory is taken for markup."""

import json
import math
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest

pytest.importorskip("plotly")

from jaxkit import configs
from jaxkit.reports import gather, html
from jaxkit.runs import mistakes

HOSTILE = "</script><script>document.title='run'</script><img src=x onerror=alert(1)>"
VOID = {"meta", "img", "input", "link"}


class Page(HTMLParser):
    """What a browser makes of a page: its elements with attributes, its text, its scripts; must be balanced."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.scripts, self.words = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        (self.scripts if self.open and self.open[-1] == "script" else self.words).append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


@pytest.fixture
def page(command):
    def write(*arguments):
        code, out, err = command("report", *arguments)
        assert (code, err) == (0, "")
        with open(out.strip(), encoding="utf-8") as file:
            return Page(file.read())

    return write


def test_a_report_holds_all_that_the_run_came_to(tmp_path, made, page):
    data = {"test": {"name": "digits", "version": "1", "size": 360, "sha256": "c36e" * 16}}
    run = made(tmp_path / "run", provenance={"data": data, "packages": {"jax": "0.10.2"}, "python": "3.11.7"})
    (run / "samples.txt").write_text("It was a dark night")
    (run / "dirty.patch").write_text("diff --git a/x b/x")
    found = page(run)
    assert (run / "report.html").is_file()
    for words in ("test/accuracy", "0.9", "learning_rate", "c36ec36ec36e", "0.10.2", "steps/s", "dark night"):
        assert words in found.text
    assert "diff --git" in found.text
    shown = json.loads(next(script for script in found.scripts if script.startswith('{"runs"')))
    assert shown["curves"][0]["loss"]["step"] == [10, 20, 30, 40]
    assert shown["reliability"][0]["test/calibration"]["confidence"] == [0.3, 0.7, None]


def test_it_asks_nothing_of_any_network(tmp_path, made, page):
    run = made(tmp_path / "run")
    (run / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    found = page(run)
    places = [a[name] for _, a in found.elements for name in ("src", "href", "action", "data") if name in a]
    assert places
    assert all(place.startswith("data:image/png;base64,") for place in places)
    (policy,) = (a["content"] for _, a in found.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "connect-src" not in policy
    assert "'unsafe-inline'" not in policy.split("script-src")[1].split(";")[0]
    assert len(re.findall("'sha256-", policy)) == 3
    style = next(word for word in found.words if ":root" in word)
    assert "url(" not in style
    assert "@import" not in style


def test_nothing_of_a_run_directory_is_markup(tmp_path, made, page):
    plain = page(
        made(tmp_path / "plain", provenance={"python": "x", "packages": {"x": "x"}, "data": {"x": {"name": ""}}})
    )
    run = made(tmp_path / HOSTILE.replace("/", "-"), experiment=HOSTILE, changes={"model.call": HOSTILE})
    (run / "provenance.json").write_text(
        json.dumps({"python": HOSTILE, "packages": {HOSTILE: HOSTILE}, "data": {HOSTILE: {"name": HOSTILE}}})
    )
    for name in ("samples.txt", "dirty.patch"):
        (run / name).write_text(HOSTILE)
        (tmp_path / "plain" / name).write_text("x")
    (run / "evaluation/test.json").rename(run / "evaluation" / f"{HOSTILE.replace('/', '-')}.json")
    row = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({**row, "step": 41, HOSTILE: 1.0}) + "\n")
    plain, found = page(tmp_path / "plain"), page(run)
    assert [tag for tag, _ in found.elements] == [tag for tag, _ in plain.elements]
    assert [sorted(a) for _, a in found.elements] == [sorted(a) for _, a in plain.elements]
    assert HOSTILE in found.text


def test_runs_beside_each_other_with_what_differs(tmp_path, made, page, fails):
    a = made(tmp_path / "a")
    b = made(tmp_path / "b", changes={"optimizer.learning_rate": 0.5}, losses={10: 2.0, 20: math.nan})
    found = page(a, b, f"--output={tmp_path / 'both.html'}")
    assert "optimizer.learning_rate" in found.text
    assert "b: loss is not finite from step 20" in found.text
    assert "needs --output" in fails("report", a, b)
    assert "is no file in a directory" in fails("report", a, f"--output={tmp_path / 'none/both.html'}")


def test_of_three_runs_each_is_shown_with_what_it_has(three_rates, tmp_path, page):
    runs, wanted = three_rates
    words = [word for word in page(*runs, f"--output={tmp_path / 'all.html'}").words if word.strip()]
    for path, values in wanted.items():
        place = words.index(path)
        assert words[place + 1 : place + 4] == [value or "absent" for value in values]


def test_a_run_with_nothing_in_it_yet_has_a_report(tmp_path, made, page):
    from jaxkit.runs import directory

    with directory.claim(tmp_path / "run", configs.freeze({"num_steps": 3}), "blobs"):
        pass
    assert "interrupted" in page(tmp_path / "run").text


def test_the_worst_mistakes_are_shown(tmp_path, made, page):
    run = made(tmp_path / "run")
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6]])
    images = np.arange(3 * 8 * 8).reshape(3, 8, 8, 1).astype(np.uint8)
    mistakes.write(run / mistakes.NAME, {"image": images, "label": np.array([0, 1, 1])}, probabilities)
    found = page(run)
    assert "1 of 3 wrong" in found.text
    # The second has the least on its label, then the third, then the first.
    assert [a["alt"] for tag, a in found.elements if tag == "img"] == ["1 as 0, 80%", "1 as 1, 60%", "0 as 0, 90%"]
    hostile = [{"image": 'x" onerror="alert(1)', "label": HOSTILE}, {"image": "", "label": 1}, 3, {"image": None}]
    (run / mistakes.NAME).write_text(json.dumps({"worst": hostile}))
    assert not [a for tag, a in page(run).elements if tag == "img"]


def test_a_picture_that_is_none_is_left_out(tmp_path, made, page):
    run = made(tmp_path / "run")
    (run / "picture.png").write_text("<svg onload=alert(1)>")
    assert not [a for tag, a in page(run).elements if tag == "img"]


def test_a_long_curve_is_thinned_without_losing_its_peaks():
    rows = [{"step": n, "wall": float(n), "loss": 1.0} for n in range(1, 100_001)]
    rows[31_415]["loss"], rows[27_182]["loss"], rows[77_777]["loss"] = 99.0, -99.0, "nan"
    found = gather.curves(rows)["loss"]
    assert len(found["step"]) <= 1.5 * gather.MOST_POINTS
    at = dict(zip(found["step"], found["value"]))
    assert (at[31_416], at[27_183], at[77_778]) == (99.0, -99.0, None)
    assert found["lost"] == 77_778
    means = found["means"]
    assert (sum(means["rows"]), means["step"][-1]) == (99_999, 100_000)
    # Nothing but the mean of what is not a gap, however large.
    total = sum(mean * count for mean, count in zip(means["value"], means["rows"]))
    assert total == pytest.approx(sum(row["loss"] for row in rows if row["loss"] != "nan"))
    assert gather.means([(1, 0.0, 1.7e308), (2, 0.0, 1.7e308), (3, 0.0, None)], most=1)["value"] == [1.7e308]
    assert "means" not in gather.curves(rows[:100])["loss"]


def test_what_is_no_text_is_replaced(tmp_path, made, page):
    run = made(tmp_path / "run")
    (run / "provenance.json").write_text('{"python": "a\\ud800b", "packages": {"\\udfff": "1"}}')
    assert "a?b" in page(run).text
    os.rename(run, os.fsencode(tmp_path) + b"/\xff")
    page(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"), f"--output={tmp_path / 'report.html'}")


def test_without_plotly_it_says_what_to_install(tmp_path, made, fails, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    assert "pip install jaxkit[report]" in fails("report", made(tmp_path / "run"))


@pytest.mark.parametrize("text", ["</script>", "<!--", "]]>", "\u2028"])
def test_data_stays_data(text):
    found = Page(html.script_json("data", {text: text}).text)
    assert json.loads("".join(found.scripts)) == {text: text}
    assert [tag for tag, _ in found.elements] == ["script"]
