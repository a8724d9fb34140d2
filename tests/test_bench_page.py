"""The benchmark's page, and the file for other programs."""

import json
from pathlib import Path

from bench.compare import Plan, Row
from bench.page import Page

from replicate.options import Options
from replicate.run import Run

PLAN = Plan(Run("lsuv", "relu"), Options(Path()), {}, ("baseline", "eager"), ("relu",), (1, 2), 5, 5.0)
OPERATIONS = 147_000_000_000


def test_rates_are_next_to_those_of_the_baseline_at_the_same_load() -> None:
    rows = (
        Row("baseline", "relu", 1, 10.0, 1280.0, 0.1, 2**20, 3.0, OPERATIONS),
        Row("eager", "relu", 1, 25.0, 3200.0, 0.25, 3 * 2**20, 2.0, OPERATIONS),
        Row("baseline", "relu", 2, 40.0, 5120.0, 0.4, 2**21, 3.0, OPERATIONS),
        Row("eager", "relu", 2, 50.0, 6400.0, 0.5, 2**22, 2.0, OPERATIONS),
    )
    text = Page("a device", "a command", PLAN, 1e12, rows, ((1, 0.005), (200, 0.002))).markdown()
    assert "# Speed on a device" in text
    assert "- Command: `a command`" in text
    assert "- Rates: medians of 5 windows of 5 s each" in text
    assert "| relu | 1 | baseline | 10 | 1,280 | 10.0 % | 1.00 × | 1 MiB | 3.0 s |" in text
    assert "| relu | 1 | eager | 25 | 3,200 | 25.0 % | 2.50 × | 3 MiB | 2.0 s |" in text
    assert "| relu | 2 | eager | 50 | 6,400 | 50.0 % | 1.25 × | 4 MiB | 2.0 s |" in text
    assert text.count("- relu: 147 GFLOP (147 ms at the ceiling)") == 1
    assert "| 200 | 2.00 |" in text


def test_a_page_of_one_path_has_no_ratio_and_no_queue() -> None:
    rows = (Row("eager", "relu", 8, 25.0, 3200.0, 0.25, 3 * 2**20, 2.0, OPERATIONS, "4 iterations\na table\n"),)
    page = Page("a device", "a command", PLAN, 1e12, rows)
    text = page.markdown()
    assert "| relu | 8 | eager | 25 | 3,200 | 25.0 % | – | 3 MiB | 2.0 s |" in text
    assert "queue" not in text
    assert page.profile() == "relu, 8 at once, eager: 4 iterations\na table\n"
    assert json.loads(page.json()) == {
        "device": "a device",
        "command": "a command",
        "rows": [
            {
                "path": "eager",
                "activation": "relu",
                "at_once": 8,
                "iterations_per_second": 25.0,
                "images_per_second": 3200.0,
                "share": 0.25,
                "peak_memory": 3 * 2**20,
                "startup": 2.0,
                "operations": OPERATIONS,
            }
        ],
    }
