"""The report page as people meet it: opened from disk in a browser."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")
import chromium
from axe_playwright_python.sync_playwright import Axe
from made_up_records import LABELS, fill
from playwright.sync_api import Browser, Page
from workers import put

from replicate.experiment import Experiment
from replicate.report.command_line import CommandLine
from replicate.report.page import write_report
from replicate.report.table import assemble
from replicate.store.result import Result
from replicate.store.run_folder import collect

pytestmark = pytest.mark.skipif(not chromium.find(), reason="no Chromium on this machine")
ROOT = Path(__file__).parents[2]
HOSTILE = '</script><img src=x onerror="window.hacked = 1"><script>window.hacked = 1</script>\'"&'
DESKTOP, PHONE = (1280, 900), (360, 740)


@dataclass
class Opened:
    """A page, and what it said and asked for."""

    page: Page
    said: list[str]
    asked: list[str]

    def comes_to(self, holds: Callable[[], bool]) -> bool:
        """Whether something holds soon: the page draws when it gets to it, on a busy machine later."""
        for _ in range(600):
            if holds():
                return True
            self.page.wait_for_timeout(100)
        return False

    def drawing(self) -> str:
        """The first chart of the learning curves, as it is drawn."""
        found: str = self.page.evaluate("document.querySelector('[data-charts=curves] canvas').toDataURL()")
        return found

    def count(self, colour: str) -> int:
        """Pixels of a colour, by its CSS variable, in the first chart of the learning curves."""
        script = """name => {
          const probe = document.createElement("canvas").getContext("2d");
          probe.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
          probe.fillRect(0, 0, 1, 1);
          const [r, g, b] = probe.getImageData(0, 0, 1, 1).data;
          const canvas = document.querySelector("[data-charts=curves] canvas");
          const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
          let found = 0;
          for (let at = 0; at < pixels.length; at += 4)
            found += pixels[at] === r && pixels[at + 1] === g && pixels[at + 2] === b && pixels[at + 3] === 255;
          return found;
        }"""
        found: int = self.page.evaluate(script, colour)
        return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium.browser() as started:
        yield started


def experiment(seeds: int) -> Experiment:
    return Experiment(
        name="small",
        grid={"init": ("lsuv", "xavier", "msra"), "activation": ("maxout", "relu"), "seed": tuple(range(seeds))},
        run={},
        table=replace(Experiment.load(ROOT / "experiments" / "table3.yaml").table),
    )


def write(out: Path, asked: Experiment) -> Path:
    runs = asked.runs()
    command_line = CommandLine(Path("experiments/small.yaml"))
    page, _ = write_report(assemble(asked, runs, collect(out, runs)), out, command_line, lambda dataset: LABELS)
    return page


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds of six cells; one run crashed with a message that would like to be a script."""
    out, asked = tmp_path_factory.mktemp("full"), experiment(3)
    results = fill(out, asked.runs(), points=20)
    crashed: Result = replace(
        results[-1], status="error", test_accuracy=None, train_loss=None, error=f"Traceback\nError: {HOSTILE}"
    )
    put(crashed, out / "runs" / crashed.run.run_id)
    for result in results[:-1]:
        put(replace(result, data_label=HOSTILE, device=HOSTILE), out / "runs" / result.run.run_id)
    return write(out, asked)


@pytest.fixture
def opened(browser: Browser, full: Path) -> Iterator[Opened]:
    with_page = show(browser, full)
    yield with_page
    with_page.page.context.close()


def show(
    browser: Browser, path: Path, size: tuple[int, int] = DESKTOP, dark: bool = False, script: bool = True
) -> Opened:
    """Open a page, and wait until it says that it is ready."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme="dark" if dark else "light",
        java_script_enabled=script,
    )
    page = context.new_page()
    found = Opened(page, [], [])
    page.on("console", lambda message: found.said.append(message.text))
    page.on("pageerror", lambda error: found.said.append(str(error)))
    page.on("request", lambda request: found.asked.append(request.url))
    page.goto(path.as_uri())
    if script:
        page.wait_for_selector("html[data-ready]", state="attached")
    return found


@pytest.mark.parametrize(
    ("size", "dark"), [(DESKTOP, False), (DESKTOP, True), (PHONE, False)], ids=["light", "dark", "phone"]
)
def test_it_is_accessible_quiet_and_asks_for_nothing(
    browser: Browser, full: Path, size: tuple[int, int], dark: bool
) -> None:
    found = show(browser, full, size, dark)
    found.page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
    violations = Axe().run(found.page).response["violations"]
    serious = [
        (violation["id"], violation["nodes"][0]["html"][:200])
        for violation in violations
        if violation["impact"] in ("serious", "critical")
    ]
    assert serious == []
    assert found.said == []
    assert [url for url in found.asked if not url.startswith("data:")] == [full.as_uri()]
    assert found.page.evaluate("document.documentElement.scrollWidth") <= size[0]
    found.page.context.close()


def test_what_records_say_is_text_and_nothing_else(opened: Opened) -> None:
    assert opened.page.evaluate("window.hacked") is None
    assert opened.page.locator("img").count() == 0
    assert f"Error: {HOSTILE}" in opened.page.locator("#missing").inner_text()
    assert HOSTILE in opened.page.locator("header").inner_text()


def test_lines_and_panels_can_be_left_out(opened: Opened) -> None:
    curves = opened.page.locator("[data-charts=curves]")
    assert curves.locator("figcaption").all_inner_texts() == ["maxout", "ReLU"]
    before = opened.count("--series-0")
    assert before > 100
    curves.get_by_label("LSUV", exact=True).uncheck()
    assert opened.comes_to(lambda: opened.count("--series-0") == 0 and opened.count("--series-1") > 100)
    assert "of Xavier" in (curves.locator(".plot").first.get_attribute("aria-label") or "")
    curves.get_by_label("LSUV", exact=True).check()
    assert opened.comes_to(lambda: opened.count("--series-0") == before)
    curves.get_by_label("maxout", exact=True).uncheck()
    assert curves.locator("figcaption").all_inner_texts() == ["ReLU"]
    curves.get_by_label("ReLU", exact=True).uncheck()
    assert curves.get_by_text("No panel is chosen.").is_visible()


def test_single_runs_a_close_up_and_other_quantities(opened: Opened) -> None:
    curves, layers = opened.page.locator("[data-charts=curves]"), opened.page.locator("[data-charts=layers]")
    before = opened.drawing()
    for name in ("Single runs", "Close-up of the end"):
        curves.get_by_label(name).check()
        assert opened.comes_to(lambda: opened.drawing() != before)
        curves.get_by_label(name).uncheck()
        assert opened.comes_to(lambda: opened.drawing() == before)
    curves.get_by_label("Show").select_option("training loss (nats)")
    assert "training loss" in (curves.locator(".plot").first.get_attribute("aria-label") or "")
    assert layers.get_by_label("Show").locator("option").all_inner_texts()[:2] == [
        "variance of the pre-activation, after initialisation",
        "variance of the pre-activation, after 57 iterations",
    ]
    layers.get_by_label("Show").select_option("L2 norm of the gradient by the weight, after 1,000 iterations")
    assert "gradient" in (layers.locator(".plot").last.get_attribute("aria-label") or "")


def test_values_are_read_by_pointer_and_by_key(opened: Opened, full: Path) -> None:
    first = opened.page.locator("[data-charts=curves] figure").first
    reading = first.locator(".reading")
    assert not reading.is_visible()
    first.locator(".u-over").hover()
    assert reading.inner_text().startswith("iteration 4")  # in the middle of 90,000
    first.locator(".plot").focus()
    opened.page.keyboard.press("ArrowLeft")
    lines = reading.inner_text().splitlines()
    assert lines[0] == "iteration 90,000"
    rows = [
        Path(full.parent.parent / "runs" / run.run_id / "curve.csv").read_text().splitlines()[-1].split(",")
        for run in experiment(3).runs({"init": "lsuv", "activation": "maxout"})
    ]
    mean = sum(float(row[-1]) for row in rows) / 3
    (lsuv,) = [line for line in lines if line.startswith("LSUV")]
    assert float(lsuv.split()[1]) == pytest.approx(mean, abs=0.006)
    assert lsuv.split()[1] in opened.page.locator("#said").inner_text()
    opened.page.keyboard.press("ArrowLeft")
    assert reading.inner_text().startswith("iteration 85,500")


def test_charts_follow_the_colour_scheme(opened: Opened) -> None:
    light = opened.page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--series-0')")
    opened.page.emulate_media(color_scheme="dark")
    opened.page.wait_for_function(
        "light => getComputedStyle(document.documentElement).getPropertyValue('--series-0') !== light", arg=light
    )
    assert opened.comes_to(lambda: opened.count("--series-0") > 100)


def test_a_tip_stays_when_its_cell_scrolls_into_view(browser: Browser, full: Path) -> None:
    found = show(browser, full, (360, 300))
    found.page.evaluate("scrollTo(0, 0)")
    found.page.locator("#cell-2-1").focus()
    assert found.page.locator("#cell-2-1-runs").is_visible()
    found.page.wait_for_function(
        "() => document.getElementById('cell-2-1').getBoundingClientRect().bottom <= innerHeight && scrollY > 0"
    )
    box = found.page.locator("#cell-2-1-runs").bounding_box()
    assert box
    assert found.page.locator("#cell-2-1-runs").is_visible()
    assert -1 <= box["x"] <= box["x"] + box["width"] <= 361
    found.page.context.close()


def test_a_cell_shows_its_runs_on_focus_and_hover(opened: Opened) -> None:
    tip = opened.page.locator("#cell-0-0-runs")
    assert not tip.is_visible()
    opened.page.locator("#cell-0-0").focus()
    assert tip.is_visible()
    assert tip.locator("li").count() == 3
    assert tip.inner_text().startswith("LSUV × maxout: 95 % interval of the mean")
    opened.page.keyboard.press("Escape")
    assert not tip.is_visible()
    opened.page.locator("#cell-2-0").hover()
    opened.page.locator("#cell-2-0-runs").hover()  # the tip stays while the pointer is on it
    assert "diverged at iteration 57" in opened.page.locator("#cell-2-0-runs").inner_text()


def test_commands_can_be_copied(opened: Opened) -> None:
    opened.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened.page.locator("#reproduce summary").click()
    opened.page.get_by_label("Copy the command for Xavier × ReLU").click()
    opened.page.get_by_text("Copied", exact=True).first.wait_for()
    copied = opened.page.evaluate("navigator.clipboard.readText()")
    assert copied == "replicate matrix experiments/small.yaml --only init=xavier activation=relu"


def test_the_list_of_runs_can_be_searched(opened: Opened) -> None:
    opened.page.locator("#runs > summary").click()
    opened.page.get_by_label("Show only records that contain").fill("XAVIER-relu")
    assert opened.page.locator("#found").inner_text() == "3 of 18"
    assert opened.page.locator(".runs tbody tr:visible").count() == 3


def test_paper_is_light_and_has_no_controls(browser: Browser, full: Path) -> None:
    found = show(browser, full, dark=True)
    ink = "getComputedStyle(document.documentElement).getPropertyValue('--ink').trim()"
    dark = found.page.evaluate(ink)
    found.page.emulate_media(media="print", color_scheme="dark")
    assert found.page.evaluate(ink) != dark
    assert not found.page.locator("nav").is_visible()
    assert not found.page.locator("button.copy").first.is_visible()
    assert found.page.locator(".grid").is_visible()
    assert found.page.pdf(print_background=True).startswith(b"%PDF")
    found.page.context.close()


def test_without_javascript_the_numbers_are_there(browser: Browser, full: Path) -> None:
    found = show(browser, full, script=False)
    assert "± 0." in found.page.locator(".grid").inner_text()
    assert "The charts need JavaScript" in found.page.locator("#curves").inner_text()
    found.page.context.close()


def test_nothing_and_one_seed_make_pages_that_say_so(browser: Browser, tmp_path: Path) -> None:
    empty = show(browser, write(tmp_path / "none", experiment(3)))
    text = empty.page.locator("main").inner_text()
    assert "No run has finished yet" in text
    assert "No record has a learning curve yet." in text
    assert "18 runs have no readable record" in text
    assert (empty.said, len(empty.asked)) == ([], 1)
    fill(tmp_path / "one", experiment(1).runs(), points=3, layers=False)
    one = show(browser, write(tmp_path / "one", experiment(1)))
    text = one.page.locator("main").inner_text()
    assert "No cell has more than 1 run" in text
    assert "no record has measurements of the layers during training" in text
    assert one.said == []
    for found in (empty, one):
        found.page.context.close()
