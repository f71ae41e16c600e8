"""The report and the dashboard in a real Chromium, where there is one: drawn, live, quiet, harmless."""

import contextlib
import json
import random
import shutil
from importlib import util
from pathlib import Path

import pytest

pytest.importorskip("plotly")
selenium = pytest.importorskip("selenium.webdriver")

from selenium.common.exceptions import JavascriptException, TimeoutException  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium and chromedriver here")
HOSTILE = "<img src=x onerror=document.title='run'>"
DRAWN = "return document.querySelectorAll('#curves .scatterlayer .trace').length"
# What is drawn, not what was handed over to be.
POINTS = "return [...document.querySelectorAll('#curves .chart')].map(box => box.calcdata.map(t => t.length))"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = selenium.ChromeOptions()
    options.binary_location = CHROMIUM
    profile = tmp_path_factory.mktemp("profile")
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = selenium.Chrome(options=options, service=selenium.ChromeService(DRIVER))
    driver.set_window_size(1400, 1000)
    driver.set_page_load_timeout(120)
    yield driver
    driver.quit()


def until(browser, script: str, wanted=None):
    """Waits until a script gives something true, or what is wanted."""
    fits = (lambda found: found == wanted) if wanted is not None else bool
    found = None

    def fit(driver):
        nonlocal found
        found = driver.execute_script(script)
        return fits(found) and (found or True)

    try:
        # What it asks of a curve that is not drawn yet is an error of its own.
        return WebDriverWait(browser, 120, ignored_exceptions=[JavascriptException]).until(fit)
    except TimeoutException as error:
        raise AssertionError(f"{script}: {found!r}, wanted {wanted!r}") from error


def check_quiet(browser) -> None:
    """Nothing was asked of elsewhere, nothing went wrong, nothing hostile ran, nothing sticks out sideways."""
    assert browser.get_log("browser") == []
    places = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    own = browser.execute_script("return location.origin")
    assert [place for place in places if not place.startswith((own, "data:", "blob:"))] == []
    assert browser.title != "run"
    until(browser, "return document.documentElement.scrollWidth <= innerWidth")


def check_readable(browser) -> None:
    """Names of runs are there whole, in three lines at most, and paths of a config in one line."""
    names = "[...document.querySelectorAll('.title')]"
    cut = f"{names}.filter(box => box.scrollWidth > box.clientWidth || box.offsetHeight > 80)"
    broken = "[...document.querySelectorAll('.beside th code')].filter(box => box.offsetHeight > 30)"
    assert browser.execute_script(f"return [...{cut}, ...{broken}].map(box => box.innerText)") == []


@pytest.fixture(scope="module")
def dashboard():
    """What the tests of the dashboard without a browser have: `served`, `append`."""
    spec = util.spec_from_file_location("dashboard", Path(__file__).with_name("test_dashboard.py"))
    found = util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@contextlib.contextmanager
def served(browser, dashboard, folder):
    """The port of a dashboard; the browser leaves it before it ends, since its page asks on."""
    with dashboard.served(folder) as port:
        try:
            yield port
        finally:
            browser.get("about:blank")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, made):
    folder = tmp_path_factory.mktemp("browser") / "runs"
    made(folder / "a", changes={"seed": 1, "optimizer.learning_rate": 0.1})
    made(folder / HOSTILE, changes={"seed": 2, "model.call": HOSTILE}, losses={10: 3.0, 20: float("nan"), 30: 1.0})
    return folder


def test_a_report_is_drawn_without_a_network(browser, runs, tmp_path, command):
    output = tmp_path / "both.html"
    assert command("report", runs / "a", runs / HOSTILE, "--output", output)[0] == 0
    browser.get(output.as_uri())
    # The loss and the accuracy of two runs, and their calibration.
    until(browser, DRAWN, 4)
    until(browser, "return document.querySelectorAll('#calibration .scatterlayer .trace').length", 3)
    assert HOSTILE in browser.find_element("css selector", "main").text
    browser.execute_script("document.getElementById('log').click()")
    until(browser, "return document.querySelector('#curves .chart').layout.yaxis.type", "log")
    check_readable(browser)
    check_quiet(browser)


def slide(browser, smoothing: float) -> None:
    """Moves the page's smoothing."""
    browser.execute_script(
        "const box = document.getElementById('smoothing');"
        f"box.value = {smoothing}; box.dispatchEvent(new Event('input'))"
    )


def test_what_is_smoothed_is_the_record(browser, made, tmp_path, command, dashboard):
    run, losses = made(tmp_path / "runs/long", losses={}), random.Random(0)
    made(tmp_path / "runs/other")
    average, wanted = 0.0, []
    with (run / "metrics.jsonl").open("a") as file:
        for step in range(1, 8_001):
            # Of such noise the mean is 1, and that of the extremes of eight about 1.4.
            loss = losses.expovariate(1.0)
            average = 0.99 * average + 0.01 * loss
            wanted.append(average / (1 - 0.99**step))
            values = {"loss": loss, **({"constructor": 1.0, "__proto__": 2.0} if step % 100 == 0 else {})}
            file.write(json.dumps({"step": step, **values, "digest": "0" * 32, "wall": float(step)}) + "\n")
    output = tmp_path / "long.html"
    assert command("report", run, "--output", output)[0] == 0
    with served(browser, dashboard, tmp_path / "runs") as port:
        for place in (output.as_uri(), f"http://127.0.0.1:{port}/#run=long"):
            browser.get(place)
            until(browser, DRAWN, 3)
            slide(browser, 0.99)
            until(browser, DRAWN, 6)
            until(browser, "return document.querySelector('#curves .chart').data[1].x.at(-1) > 7980")
            step, value = browser.execute_script(
                "const { x, y } = document.querySelector('#curves .chart').data[1]; return [x, y]"
            )
            late = [(at, found) for at, found in zip(step, value) if at > 1000]
            assert len(late) > 500
            assert max(abs(found - wanted[at - 1]) for at, found in late) < 0.03
            check_quiet(browser)
        # Nothing of an object is taken for a metric that a run does not have.
        browser.execute_script("document.querySelectorAll('#columns input:not(:checked)').forEach(b => b.click())")
        numbers = "return [...document.querySelectorAll('#runs tr')].map(row => row.querySelectorAll('.number')"
        until(browser, f"{numbers}.length)", [5, 5])
        with (run / "metrics.jsonl").open("a") as file:
            file.write("no row\n")
        until(browser, "return document.getElementById('hint').innerText.includes('the record of long')")
        check_quiet(browser)


def test_the_dashboard_is_live(browser, runs, dashboard):
    with served(browser, dashboard, runs) as port:
        browser.get(f"http://127.0.0.1:{port}/")
        until(browser, "return document.querySelectorAll('#runs tr').length", 2)
        # The newest run is chosen; the other by hand.
        until(browser, DRAWN, 2)
        browser.execute_script(
            "document.querySelectorAll('#runs input:not(:checked)').forEach(box => box.click())"
        )
        until(browser, DRAWN, 4)
        until(browser, f"return document.getElementById('runs').innerText.includes({json.dumps(HOSTILE)})")
        # The accuracy has no training curve; a split is dashed for all that.
        style = "return getComputedStyle(document.querySelector('#legend span:last-child i')).borderTopStyle"
        until(browser, style, "dashed")
        until(browser, "return document.getElementById('config').innerText.includes('model.call')")
        check_readable(browser)
        for step in (50, 60, 70, 80):
            dashboard.append(runs / "a", step, loss=1 / step)
            until(browser, f"{POINTS}[0].includes({step // 10})")
            until(browser, f"return document.querySelector('#curves .chart').layout.xaxis.range[1] >= {step}")
        slide(browser, 0.5)
        # What is smoothed is drawn over what was recorded.
        until(browser, DRAWN, 8)
        browser.find_element("id", "filter").send_keys("nothing like it")
        until(browser, "return document.getElementById('none').innerText", "No run fits the filter.")
        browser.find_element("id", "filter").clear()
        # At once: half a condition that the page happens to ask for is refused, and Chromium notes that.
        browser.execute_script(
            "const box = document.getElementById('filter'); box.value = 'config.seed<2';"
            "box.dispatchEvent(new Event('input')); box.dispatchEvent(new Event('change'))"
        )
        until(browser, "return document.querySelectorAll('#runs tr').length", 1)
        browser.find_element("id", "filter").clear()
        until(browser, "return document.querySelectorAll('#runs tr').length", 2)
        browser.execute_script("document.getElementById('clear').click()")
        until(browser, "return document.getElementById('hint').innerText", "Select runs to see their curves.")
        browser.execute_script("document.querySelectorAll('#runs input').forEach(box => box.click())")
        until(browser, DRAWN, 8)
        browser.set_window_size(420, 900)
        check_quiet(browser)
        browser.set_window_size(1400, 1000)
