"""The benchmark's page, and the file for other programs."""

import json

from replicate.bench.compare import Page, Row
from replicate.bench.work import Work
from replicate.run import Run


def test_rates_stand_beside_the_baseline_of_the_same_load() -> None:
    work = Work(operations=147_000_000_000, kernels=300, traffic=2_500_000_000)
    rows = (
        Row("baseline", "relu", 1, 10.0, 1280.0, 0.1, 2**20, 3.0, work),
        Row("eager", "relu", 1, 25.0, 3200.0, 0.25, 3 * 2**20, 2.0, work),
        Row("baseline", "relu", 2, 40.0, 5120.0, 0.4, 2**21, 3.0, work),
        Row("eager", "relu", 2, 50.0, 6400.0, 0.5, 2**22, 2.0, work),
    )
    page = Page("a device", "replicate bench", Run("lsuv", "relu"), 5.0, 5, 1e12, rows, ((1, 0.005), (200, 0.002)))
    text = page.markdown()
    assert "| relu | 1 | eager | 25 | 3,200 | 25.0 % | 2.50 × | 3 MiB | 2.0 s |" in text
    assert "| relu | 2 | eager | 50 | 6,400 | 50.0 % | 1.25 × | 4 MiB | 2.0 s |" in text
    assert "- relu: 147 GFLOP (147 ms at the ceiling), 2.5 GB read and written, 300 kernels" in text
    assert "- Command: `replicate bench`" in text
    assert "# Speed on a device" in text
    assert "| 200 | 2.00 |" in text


def test_a_page_of_one_path_has_no_ratio_and_no_queue() -> None:
    work = Work(operations=147_000_000_000, kernels=300, traffic=2_500_000_000)
    rows = (Row("eager", "relu", 8, 25.0, 3200.0, 0.25, 3 * 2**20, 2.0, work, "4 iterations\na table\n"),)
    page = Page("a device", "replicate bench", Run("lsuv", "relu"), 5.0, 5, 1e12, rows, ())
    text = page.markdown()
    assert "| relu | 8 | eager | 25 | 3,200 | 25.0 % | – | 3 MiB | 2.0 s |" in text
    assert "queue" not in text
    assert page.profile() == "relu, 8 at once, eager: 4 iterations\na table\n"
    assert json.loads(page.json()) == {
        "device": "a device",
        "command": "replicate bench",
        "rows": [
            {
                "path": "eager",
                "activation": "relu",
                "at_once": 8,
                "iterations_per_second": 25.0,
                "images_per_second": 3200.0,
                "startup": 2.0,
                "peak_memory": 3 * 2**20,
            }
        ],
    }


def test_a_page_of_the_baseline_alone_counts_no_work_of_ours() -> None:
    work = Work(operations=147_000_000_000, kernels=300, traffic=2_500_000_000)
    rows = (Row("baseline", "relu", 1, 10.0, 1280.0, 0.1, 2**20, 3.0, work),)
    text = Page("a device", "replicate bench", Run("lsuv", "relu"), 5.0, 5, 1e12, rows, ()).markdown()
    assert "| relu | 1 | baseline | 10 | 1,280 | 10.0 % | 1.00 × | 1 MiB | 3.0 s |" in text
    assert "of ours" not in text
