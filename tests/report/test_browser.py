"""The report and TensorBoard as a browser shows them."""

import re
import shutil
import signal
import subprocess
import sys

import pytest

from tests.cli.test_main import invoke
from tests.cli.test_report import SECTIONS, make_runs
from tests.conftest import HEEDS_CTRL_C

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        shutil.which("chromium") is None,
        reason="needs headless Chromium (Debian: apt-get install chromium)",
    ),
]
QUIET = "--no-sandbox --disable-gpu --no-first-run --disable-background-networking"
QUIET += " --disable-component-update --disable-sync"
FIGURES = [
    *("curve-los", "curve-acc", "gains", "clients-histogram", "clients-curve", "by-hour"),
    *("by-weekday", "by-visit", "by-activity", "confusion-0", "reliability", "map-0", "probes"),
    *("seconds", "bytes"),
]
TEXT_SIZES = """() => [...document.querySelectorAll("svg.plot text")].map(text => {
  const svg = text.ownerSVGElement;
  const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
  return parseFloat(getComputedStyle(text).fontSize) * scale;
})"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_runs(tmp_path_factory.mktemp("shown"), hostile=False)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=QUIET.split()
        )
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def reports(made):
    """Files: of one run, and of two beside each other."""
    first, second = (next(made.glob(f"log/*-{name}")) for name in ("first", "second"))
    dirs = ["--data-dir", made / "data", "--log-dir", made / "log"]
    invoke("report", first, *dirs, "--output", made / "one.html")
    invoke("report", first, second, *dirs, "--output", made / "two.html")
    return {"one": made / "one.html", "two": made / "two.html"}


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["one", "two"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_report_in_the_browser(browser, reports, name, width, theme):
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=theme)
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(reports[name].as_uri())
    assert said == []
    # images in the file itself are no requests to anywhere
    assert [url for url in asked if not url.startswith("data:")] == [reports[name].as_uri()]
    assert page.locator("h2").all_inner_texts() == SECTIONS

    figures = page.locator("figure")
    keys = figures.evaluate_all("all => all.map(one => one.id)")
    expected = FIGURES if name == "one" else [*FIGURES, "confusion-1", "map-1"]
    assert sorted(keys) == sorted(expected)
    for key in keys:
        plot = page.locator(f"figure#{key} svg.plot")
        box = plot.bounding_box()
        assert box["width"] > 300
        assert box["height"] > 100
        assert plot.get_attribute("aria-label")
        caption = page.locator(f"figure#{key} figcaption").inner_text()
        assert re.search(r"\d", caption), caption

    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert min(page.evaluate(TEXT_SIZES)) >= 9  # px
    columns = {round(figures.nth(i).bounding_box()["x"]) for i in range(figures.count())}
    assert len(columns) == (1 if width == 390 else 3)
    page.close()


def test_ink_and_paper_follow_the_theme(browser, reports):
    colours = {}
    for theme in ("light", "dark"):
        page = browser.new_page(color_scheme=theme)
        page.goto(reports["one"].as_uri())
        ink = page.locator("#by-hour text").first.evaluate("one => getComputedStyle(one).fill")
        paper = page.locator("body").evaluate("one => getComputedStyle(one).backgroundColor")
        colours[theme] = ink, paper
        page.close()
    assert colours["light"] == ("rgb(28, 30, 33)", "rgb(255, 255, 255)")
    assert colours["dark"] == ("rgb(232, 234, 237)", "rgb(22, 24, 28)")


def test_the_contents_lead_to_the_sections(browser, reports):
    page = browser.new_page()
    page.goto(reports["one"].as_uri())
    assert page.locator("nav a").all_inner_texts() == SECTIONS
    page.locator("nav a", has_text="Cost").click()
    page.wait_for_function("scrollY > 1000")
    assert page.url.endswith("#cost")
    page.close()


@pytest.mark.slow
def test_tensorboard_shows_the_scalars(browser, made):
    """Takes about 5 s: the real TensorBoard starts, and reads a run."""
    run = next(made.glob("log/*-first"))
    command = [sys.executable, "-c", HEEDS_CTRL_C, "tensorboard", run, "--port", "0"]
    board = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = board.stdout.readline()
        found = re.fullmatch(
            rf"TensorBoard of {run}: (http://localhost:\d+/) \(Ctrl-C ends it\)\n", line
        )
        assert found, line
        page = browser.new_page()
        page.goto(found[1])
        for tag in ("epoch_loss", "epoch_sparse_categorical_accuracy"):
            page.get_by_text(tag, exact=True).first.wait_for(timeout=30_000)
        for split in ("train", "val", "eval"):
            page.get_by_text(split, exact=True).first.wait_for(timeout=30_000)
        page.close()
        board.send_signal(signal.SIGINT)
        assert board.wait(timeout=20) == 0
        assert board.stderr.read() == ""
    finally:
        board.kill()
        board.wait()
