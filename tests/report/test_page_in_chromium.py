"""The report page in a browser, opened from disk."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")
import chromium
from axe_playwright_python.sync_playwright import Axe
from made_up_records import LABELS, fill, many
from playwright.sync_api import Browser, Page
from workers import put

from replicate.experiment import Experiment
from replicate.report.page import CommandLine, write_report
from replicate.report.table import assemble
from replicate.store.run_folder import collect

pytestmark = pytest.mark.skipif(not chromium.find(), reason="no Chromium on this machine")
HOSTILE = '</script><img src=x onerror="window.hacked = 1"><script>window.hacked = 1</script>\'"&'
DESKTOP, PHONE = (1280, 900), (360, 740)
DRAWING = "document.querySelector('[data-charts=curves] canvas').toDataURL()"  # the first learning curves


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium.browser() as started:
        yield started


def show(browser: Browser, path: Path, size: tuple[int, int] = DESKTOP, **options: Any) -> tuple[Page, list[str]]:
    """Open a page and wait until it is ready; its console messages, errors and requests are listed."""
    page, events = browser.new_page(viewport={"width": size[0], "height": size[1]}, **options), list[str]()
    page.on("console", lambda message: events.append(message.text))
    page.on("pageerror", lambda error: events.append(str(error)))
    page.on("request", lambda request: events.append(request.url) if request.url[:5] != "data:" else None)
    page.goto(path.as_uri())
    if options.get("java_script_enabled", True):
        page.wait_for_selector("html[data-ready]", state="attached")
    return page, events


def experiment(seeds: int) -> Experiment:
    return many(seeds).with_settings({"init": ["lsuv", "xavier", "msra"], "activation": ["maxout", "relu"]})


def write(out: Path, small: Experiment) -> Path:
    table = assemble(small, small.runs(), collect(out, small.runs()))
    return write_report(table, out, CommandLine(Path("experiments/small.yaml")), lambda dataset: LABELS)[0]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds of six cells; all text from records is hostile, also the error message of a crashed run."""
    out, small = tmp_path_factory.mktemp("full"), experiment(3)
    *results, last = fill(out, small.runs(), points=20)
    crash = {"status": "error", "test_accuracy": None, "train_loss": None, "error": f"Traceback\nError: {HOSTILE}"}
    hostile = [replace(result, data_label=HOSTILE, device=HOSTILE) for result in results]
    for result in (*hostile, replace(last, **crash)):
        put(result, out / "runs" / result.run.run_id)
    return write(out, small)


@pytest.mark.parametrize(
    ("size", "scheme"), [(DESKTOP, "light"), (DESKTOP, "dark"), (PHONE, "light")], ids=["light", "dark", "phone"]
)
def test_it_is_accessible_quiet_safe_and_requests_nothing(
    browser: Browser, full: Path, size: tuple[int, int], scheme: Literal["light", "dark"]
) -> None:
    page, events = show(browser, full, size, color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
    violations = Axe().run(page).response["violations"]
    assert [one for one in violations if one["impact"] in ("serious", "critical")] == []
    assert events == [full.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0
    assert f"Error: {HOSTILE}" in page.locator("#missing").inner_text()
    assert HOSTILE in page.locator("header").inner_text()


def test_lines_panels_and_quantities_can_be_chosen(browser: Browser, full: Path) -> None:
    page, _ = show(browser, full)
    curves, layers = page.locator("[data-charts=curves]"), page.locator("[data-charts=layers]")
    before = page.evaluate(DRAWING)
    for name in ("LSUV", "Single runs", "Close-up of the end"):
        curves.get_by_label(name, exact=True).click()
        page.wait_for_function(f"before => {DRAWING} !== before", arg=before)
        curves.get_by_label(name, exact=True).click()
        page.wait_for_function(f"before => {DRAWING} === before", arg=before)
    curves.get_by_label("Show").select_option("training loss (nats)")
    curves.get_by_label("LSUV", exact=True).uncheck()
    label = curves.locator(".plot").first.get_attribute("aria-label") or ""
    assert label.startswith("maxout: training loss (nats) of Xavier.")  # MSRA diverges
    curves.get_by_label("maxout", exact=True).uncheck()
    assert curves.locator("figcaption").all_inner_texts() == ["ReLU"]
    curves.get_by_label("ReLU", exact=True).uncheck()
    assert curves.get_by_text("No panel is chosen.").is_visible()
    layers.get_by_label("Show").select_option("L2 norm of the gradient by the weight, after 1,000 iterations")
    assert "gradient" in (layers.locator(".plot").last.get_attribute("aria-label") or "")


def test_values_are_read_by_pointer_and_by_key(browser: Browser, full: Path) -> None:
    page, _ = show(browser, full)
    first = page.locator("[data-charts=curves] figure").first
    reading = first.locator(".reading")
    assert not reading.is_visible()
    first.locator(".u-over").hover()
    assert reading.inner_text().startswith("iteration 4")  # in the middle of 90,000
    first.locator(".plot").focus()
    page.keyboard.press("ArrowLeft")
    head, *lines = reading.inner_text().splitlines()
    assert head == "iteration 90,000"
    results = collect(full.parents[1], experiment(3).runs({"init": "lsuv", "activation": "maxout"})).results
    mean = fmean(result.test_accuracy or 0 for result in results.values())
    (value,) = [line.split()[1] for line in lines if line.startswith("LSUV")]
    assert float(value) == pytest.approx(mean, abs=0.006)
    assert value in page.locator("#said").inner_text()
    page.keyboard.press("ArrowLeft")
    assert reading.inner_text().startswith("iteration 85,500")


def test_a_cell_shows_its_runs_on_focus_and_hover(browser: Browser, full: Path) -> None:
    page, _ = show(browser, full)
    tip = page.locator("#cell-0-0-runs")
    assert not tip.is_visible()
    page.locator("#cell-0-0").focus()
    assert tip.is_visible()
    assert tip.locator("li").count() == 3
    page.keyboard.press("Escape")
    assert not tip.is_visible()
    page.locator("#cell-2-0").hover()
    page.locator("#cell-2-0-runs").hover()  # the tip stays while the pointer is on it
    assert "diverged at iteration 57" in page.locator("#cell-2-0-runs").inner_text()


def test_a_tip_stays_when_its_cell_scrolls_into_view(browser: Browser, full: Path) -> None:
    page, _ = show(browser, full, (360, 300))
    page.locator("#cell-2-1").focus()
    page.wait_for_function(
        "() => document.getElementById('cell-2-1').getBoundingClientRect().bottom <= innerHeight && scrollY > 0"
    )
    assert page.locator("#cell-2-1-runs").is_visible()
    box = page.locator("#cell-2-1-runs").bounding_box()
    assert box
    assert -1 <= box["x"] <= box["x"] + box["width"] <= 361


def test_commands_can_be_copied_and_runs_searched(browser: Browser, full: Path) -> None:
    page, _ = show(browser, full)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#reproduce summary").click()
    page.get_by_label("Copy the command for Xavier × ReLU").click()
    page.get_by_text("Copied", exact=True).first.wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == "replicate matrix experiments/small.yaml --only init=xavier activation=relu"
    page.locator("#runs > summary").click()
    page.get_by_label("Show only records that contain").fill("XAVIER-relu")
    assert page.locator("#found").inner_text() == "3 of 18"
    assert page.locator(".runs tbody tr:visible").count() == 3


def test_colour_scheme_and_paper(browser: Browser, full: Path) -> None:
    page, _ = show(browser, full)
    light = page.evaluate(DRAWING)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"light => {DRAWING} !== light", arg=light)
    ink = "getComputedStyle(document.documentElement).getPropertyValue('--ink').trim()"
    dark = page.evaluate(ink)
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate(ink) != dark
    assert not page.locator("nav").is_visible()
    assert page.locator(".grid").is_visible()


def test_without_javascript_the_numbers_are_there(browser: Browser, full: Path) -> None:
    page, _ = show(browser, full, java_script_enabled=False)
    assert "± 0." in page.locator(".grid").inner_text()
    assert "The charts need JavaScript" in page.locator("#curves").inner_text()


def test_reports_on_nothing_and_on_one_seed(browser: Browser, tmp_path: Path) -> None:
    path = write(tmp_path / "none", experiment(3))
    page, events = show(browser, path)
    text = page.locator("main").inner_text()
    assert "No run has finished yet" in text
    assert "No record has a learning curve yet." in text
    assert "18 runs have no readable record" in text
    assert events == [path.as_uri()]
    fill(tmp_path / "one", experiment(1).runs(), points=3, layers=False)
    path = write(tmp_path / "one", experiment(1))
    page, events = show(browser, path)
    assert "no record has measurements of the layers during training" in page.locator("main").inner_text()
    assert events == [path.as_uri()]
