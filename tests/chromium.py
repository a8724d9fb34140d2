"""Chromium for tests, and for a screenshot of a page: python tests/chromium.py PAGE.html PICTURE.png"""

import io
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, FloatRect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")


def find() -> str | None:
    """The browser's path, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def browser() -> Iterator[Browser]:
    """Start the browser, and close it afterwards."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=find(), args=["--disable-gpu", "--disable-quic"])
        yield started
        started.close()


def picture(page: Path, path: Path) -> None:
    """Save a screenshot of a report page down to its table, in few colours, which keeps the file small."""
    with browser() as started:
        tab = started.new_page(viewport={"width": 1180, "height": 900})
        tab.goto(page.resolve().as_uri())
        tab.wait_for_selector("html[data-ready]", state="attached")
        bottom = tab.evaluate("document.querySelector('#table').getBoundingClientRect().bottom")
        clip: FloatRect = {"x": 0, "y": 0, "width": 1180, "height": bottom + 20}
        shot = Image.open(io.BytesIO(tab.screenshot(full_page=True, clip=clip)))
    shot.convert("RGB").quantize(96).save(path, optimize=True)


if __name__ == "__main__":
    picture(Path(sys.argv[1]), Path(sys.argv[2]))
