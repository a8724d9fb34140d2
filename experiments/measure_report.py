"""Measure how long a report on many runs takes to build and to open.

PYTHONPATH=tests python experiments/measure_report.py [SEEDS]
"""

import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import chromium
from made_up_records import fill, many

from replicate.options import Selection
from replicate.report.document import document
from replicate.report.page import matrix_command, write_report
from replicate.store.run_folder import collect

OPEN = """() => {
  const navigation = performance.getEntriesByType("navigation")[0];
  return [navigation.domContentLoadedEventEnd, navigation.loadEventEnd];
}"""


def main(seeds: int) -> None:
    """Generate 23 runs per seed, build the report, and open its page five times, each in a fresh context."""
    experiment = many(seeds)
    runs = experiment.runs()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        fill(out, runs)
        start = time.perf_counter()
        doc = document(experiment, runs, collect(out, runs))
        command = partial(matrix_command, Path("experiments/table3.yaml"), Selection(), out)
        page, _ = write_report(doc, out, out / "report", command, lambda dataset: None)
        print(f"{len(runs)} runs: built in {time.perf_counter() - start:.1f} s, {page.stat().st_size / 1e6:.1f} MB")
        with chromium.browser() as browser:
            for _ in range(5):
                tab = browser.new_page()
                tab.goto(page.as_uri())
                tab.wait_for_selector("html[data-ready]", state="attached")
                # after two frames the drawing is on the screen
                tab.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
                painted = tab.evaluate("performance.now()")
                ready, loaded = tab.evaluate(OPEN)
                print(
                    f"  drawn after {ready / 1000:.2f} s, loaded {loaded / 1000:.2f} s, painted {painted / 1000:.2f} s"
                )
                tab.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 27)
