"""The report page in a browser, opened from disk."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")
import chromium
from axe_playwright_python.sync_playwright import Axe
from made_up_records import LABELS, fill, many
from PIL import Image
from playwright.sync_api import Browser, Page
from workers import put

from replicate.options import Selection
from replicate.report.document import document
from replicate.report.page import matrix_command, write_report
from replicate.store.run_folder import collect

pytestmark = pytest.mark.skipif(not chromium.find(), reason="no Chromium on this machine")
HOSTILE = '</script><img src=x onerror="window.hacked = 1"><script>window.hacked = 1</script>\'"&'
PHONE = {"width": 360, "height": 740}
DRAWING = "document.querySelector('[data-charts=curves] canvas').toDataURL()"  # the first learning curves
SMALL = many(3).with_settings({"init": ["lsuv", "xavier", "msra"], "activation": ["maxout", "relu"]})


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium.browser() as started:
        yield started


def show(browser: Browser, path: Path, **options: Any) -> tuple[Page, list[str]]:
    """Open a page and wait until it is ready; its console messages, errors and requests are listed."""
    page, events = browser.new_page(**options), list[str]()
    page.on("console", lambda message: events.append(message.text))
    page.on("pageerror", lambda error: events.append(str(error)))
    page.on("request", lambda request: events.append(request.url) if request.url[:5] != "data:" else None)
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]", state="attached")
    return page, events


def write(out: Path) -> Path:
    doc = document(SMALL, SMALL.runs(), collect(out, SMALL.runs()))
    command = partial(matrix_command, Path("experiments/small.yaml"), Selection(), Path("small"))
    return write_report(doc, out, out / "report", command, lambda *_: LABELS)[0]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds of six cells; all text from records is hostile, also the error message of a crashed run."""
    out = tmp_path_factory.mktemp("full")
    *results, last = fill(out, SMALL.runs(), points=20)
    crash = {"status": "error", "test_accuracy": None, "train_loss": None, "error": f"Traceback\nError: {HOSTILE}"}
    hostile = [replace(result, data_label=HOSTILE, device=HOSTILE) for result in results]
    for result in (*hostile, replace(last, **crash)):
        put(result, out / "runs" / result.run.run_id)
    return write(out)


@pytest.fixture
def page(browser: Browser, full: Path) -> Iterator[Page]:
    page, _ = show(browser, full)
    yield page
    page.close()


@pytest.mark.parametrize("options", [{}, {"color_scheme": "dark"}, {"viewport": PHONE}], ids=["light", "dark", "phone"])
def test_it_is_accessible_safe_and_requests_nothing(browser: Browser, full: Path, options: dict[str, Any]) -> None:
    page, events = show(browser, full, **options)
    page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
    violations = Axe().run(page).response["violations"]
    assert [one for one in violations if one["impact"] in ("serious", "critical")] == []
    assert events == [full.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0
    assert f"Error: {HOSTILE}" in page.locator("#missing").inner_text()
    assert HOSTILE in page.locator("header").inner_text()


def test_lines_panels_and_quantities_can_be_chosen(page: Page) -> None:
    curves, layers = page.locator("[data-charts=curves]"), page.locator("[data-charts=layers]")
    before = page.evaluate(DRAWING)
    for name in ("LSUV", "Single runs", "Close-up of the end"):
        curves.get_by_label(name, exact=True).click()
        page.wait_for_function(f"before => {DRAWING} !== before", arg=before)
        curves.get_by_label(name, exact=True).click()
        page.wait_for_function(f"before => {DRAWING} === before", arg=before)
    curves.get_by_label("Show").select_option("training loss (nats)")
    curves.get_by_label("LSUV", exact=True).uncheck()
    label = curves.locator(".plot").first.get_attribute("aria-label")
    assert label.startswith("maxout: training loss (nats) of Xavier.")  # MSRA diverges
    curves.get_by_label("maxout", exact=True).uncheck()
    assert curves.locator("figcaption").all_inner_texts() == ["ReLU"]
    curves.get_by_label("ReLU", exact=True).uncheck()
    assert curves.get_by_text("No panel is chosen.").is_visible()
    layers.get_by_label("Show").select_option("L2 norm of the gradient by the weight, after 1,000 iterations")
    assert "gradient" in layers.locator(".plot").last.get_attribute("aria-label")


def test_values_are_read_by_pointer_and_by_key(page: Page) -> None:
    first = page.locator("[data-charts=curves] figure").first
    reading = first.locator(".reading")
    assert not reading.is_visible()
    first.locator(".u-over").hover()
    assert reading.inner_text().startswith("iteration 4")  # in the middle of 90,000
    first.locator(".plot").focus()
    page.keyboard.press("ArrowLeft")
    head, *lines = reading.inner_text().splitlines()
    assert head == "iteration 90,000"
    (value,) = [line.split()[1] for line in lines if line.startswith("LSUV")]
    assert page.locator("#cell-0-0 .main").inner_text().startswith(f"{float(value):.1f} ±")
    assert value in page.locator("#said").inner_text()
    page.keyboard.press("ArrowLeft")
    assert reading.inner_text().startswith("iteration 85,500")


def test_a_cell_shows_its_runs_on_focus_and_hover(page: Page) -> None:
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
    page, _ = show(browser, full, viewport={"width": 360, "height": 300})
    page.locator("#cell-2-1").focus()
    page.wait_for_function(
        "() => document.getElementById('cell-2-1').getBoundingClientRect().bottom <= innerHeight && scrollY > 0"
    )
    tip = page.locator("#cell-2-1-runs")
    assert tip.is_visible()
    assert -1 <= tip.bounding_box()["x"] <= 361 - tip.bounding_box()["width"]


def test_commands_can_be_copied_and_runs_searched(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#reproduce summary").click()
    page.get_by_label("Copy the command for Xavier × ReLU").click()
    page.get_by_text("Copied", exact=True).first.wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == (
        "replicate matrix experiments/small.yaml --only init=xavier activation=relu --out results/local/small-again"
    )
    page.locator("#runs > summary").click()
    page.get_by_label("Show only records that contain").fill("XAVIER-relu")
    assert page.locator("#found").inner_text() == "3 of 18"
    assert page.locator(".runs tbody tr:visible").count() == 3


def overlap(page: Page, first: str, second: str) -> bool:
    """Whether the boxes of two visible elements share more than a pixel."""
    one, other = page.locator(first).bounding_box(), page.locator(second).bounding_box()
    assert one, first
    assert other, second
    apart = [
        one[at] + one[size] < other[at] + 1 or other[at] + other[size] < one[at] + 1
        for at, size in (("x", "width"), ("y", "height"))
    ]
    return not any(apart)


@pytest.mark.parametrize("height", [900, 420])
def test_popovers_do_not_cover_what_they_explain(browser: Browser, full: Path, height: int) -> None:
    page, _ = show(browser, full, viewport={"width": 1000, "height": height}, reduced_motion="reduce")
    for cell in ("cell-0-0", "cell-2-1"):
        page.locator(f"#{cell}").focus()
        assert not overlap(page, f"#{cell}-runs", f"td:has(#{cell})")
    page.keyboard.press("Escape")
    figure = "[data-charts=curves] figure:first-child"
    page.locator(f"{figure} .u-over").hover()
    assert not overlap(page, f"{figure} .reading", f"{figure} .plot")


def test_the_navigation_stays_in_view_and_hides_no_heading(page: Page) -> None:
    page.emulate_media(reduced_motion="reduce")
    page.locator("nav a[href='#layers']").click()
    assert page.locator("nav").bounding_box()["y"] == 0
    assert not overlap(page, "nav", "#layers-h")


def test_a_table_that_is_wider_than_a_phone_says_so(browser: Browser, full: Path) -> None:
    page, _ = show(browser, full, viewport=PHONE)
    grid = page.locator("#table .scroll")
    hint = "getComputedStyle(document.querySelector('#table caption span'), '::after').content"
    page.wait_for_selector("#table .scroll.wide.more")
    assert "Scroll sideways" in page.evaluate(hint)
    grid.evaluate("box => { box.scrollLeft = box.scrollWidth; }")
    page.wait_for_selector("#table .scroll.wide:not(.more)")
    page.set_viewport_size({"width": 1280, "height": 740})
    page.wait_for_selector("#table .scroll:not(.wide)")
    assert page.evaluate(hint) == "none"


def test_panels_say_what_did_not_converge(page: Page) -> None:
    curves = page.locator("[data-charts=curves]")
    assert curves.locator(".failures").all_inner_texts() == ["MSRA diverged at 57", ""]
    for name in ("LSUV", "Xavier"):
        curves.get_by_label(name, exact=True).uncheck()
    assert curves.locator("figure").first.locator("canvas").count() == 0  # nothing but the line
    curves.get_by_label("MSRA", exact=True).uncheck()
    assert curves.locator(".failures").all_inner_texts() == ["", ""]


def test_charts_are_saved_as_png(page: Page, tmp_path: Path) -> None:
    for charts, name in (("curves", "table3-test-accuracy.png"), ("layers", "table3-variance-of-the-pre-activation")):
        with page.expect_download() as download:
            page.locator(f"[data-charts={charts}] .save").click()
        assert download.value.suggested_filename.startswith(name)
        download.value.save_as(tmp_path / name)
        picture, panels = Image.open(tmp_path / name), page.locator(f"[data-charts={charts}] div.panels").bounding_box()
        assert picture.format == "PNG"
        assert picture.width >= panels["width"]
        assert picture.height >= panels["height"] + 54  # a title and a legend
        assert len(picture.getcolors(1 << 24)) > 20  # lines of several colours


def test_a_saved_chart_wraps_what_the_page_wraps(page: Page) -> None:
    widths = page.evaluate("""() => {
      const text = "LSUV 3 of 5 at chance; OrthoNorm, OrthoNorm-MSRA scaled at chance; MSRA diverged at 57 to 61";
      document.querySelector("[data-charts=curves] .failures").textContent = text;
      const widths = [];
      const own = CanvasRenderingContext2D.prototype.fillText;
      CanvasRenderingContext2D.prototype.fillText = function (text, x, y, most) {
        if (most) widths.push([this.measureText(text).width, most]);
        own.call(this, text, x, y);
      };
      picture(drawn[0]);
      return widths;
    }""")
    assert len(widths) == 5  # two titles, an empty line and two lines
    assert all(width <= most for width, most in widths)


def test_steps_of_the_learning_rate_are_drawn_over_the_grid(page: Page) -> None:
    # the grid has lines at 40,000, 60,000 and 80,000 iterations too; the darkest red of each, below all curves
    reds = page.evaluate("""() => data.milestones.map((milestone) => {
      const plot = drawn[0].plots[0];
      const x = Math.round(plot.valToPos(milestone, "x", true));
      const { top, height } = plot.bbox;
      const { data: pixels } = plot.ctx.getImageData(x - 1, top + height / 2, 3, height / 4);
      return Math.min(...pixels.filter((_, index) => index % 4 === 0 && pixels[index + 3] > 200));
    })""")
    grid = int(page.evaluate("colour('--line')")[1:3], 16)
    assert len(reds) == 3
    assert max(reds) < grid - 10


def test_colour_scheme_and_paper(page: Page) -> None:
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
    page = browser.new_page(java_script_enabled=False)
    page.goto(full.as_uri())
    assert "± 0." in page.locator(".grid").inner_text()
    assert "The charts need JavaScript" in page.locator("#curves").inner_text()


def test_reports_on_nothing_and_without_layers(browser: Browser, tmp_path: Path) -> None:
    page, events = show(browser, path := write(tmp_path))
    text = page.locator("main").inner_text()
    assert "No run has finished yet" in text
    assert "No record has a learning curve yet." in text
    assert "18 runs have no readable record" in text
    fill(tmp_path, SMALL.runs()[:6], points=3, layers=False)
    page, more = show(browser, write(tmp_path))
    assert "no record has measurements of the layers during training" in page.locator("main").inner_text()
    assert events == more == [path.as_uri()]
