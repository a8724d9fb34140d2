"""What a search leaves: a row for each trial, the best settings as an experiment, and a summary on the terminal."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from replicate.report.render import to_csv
from replicate.report.text import count, display_name, terminal_text
from replicate.run import DEFAULTS
from replicate.search.spec import Search
from replicate.search.study import Outcome
from replicate.store.files import write_atomically

SEEDS = 5  # of the experiment with the best settings, as many as in table3.yaml


def best_of(outcomes: Sequence[Outcome]) -> Outcome | None:
    """The trial with the highest accuracy among those with the longest runs; None if there is none."""
    ended = [one for one in outcomes if one.accuracy is not None]
    return max(ended, key=lambda one: (one.run.iterations, one.accuracy, -one.trial), default=None)


def write_results(search: Search, outcomes: Sequence[Outcome], out: Path) -> list[Path]:
    """Write `trials.csv`, a row for each trial, and `best.yaml`, an experiment with the best settings.

    Args:
        search: the search.
        outcomes: of its trials, at least one.
        out: folder for the files.
    """
    rows = [
        {
            **{"method": one.method, "stage": one.stage, "trial": one.trial, **one.point},
            **{"state": one.state, "accuracy": one.accuracy, "run_iterations": one.run.iterations},
            **{"all_iterations": one.iterations, "run_id": one.run.run_id},
        }
        for one in outcomes
    ]
    paths = [write_atomically(out / "trials.csv", to_csv(rows))]
    if (best := best_of(outcomes)) is not None:
        paths.append(write_atomically(out / "best.yaml", best_experiment(search, best, len(outcomes))))
    return paths


def best_experiment(search: Search, best: Outcome, trials: int) -> str:
    """An experiment that trains with the best settings, for the whole schedule, and tests on the test images."""
    run = search.run_of(best.point, search.stages[0], 0)
    whole = {**DEFAULTS, **search.run, **best.point, "validation": 0}
    kept: dict[str, Any] = {
        name: [*value] if isinstance(value, tuple) else value
        for name, value in whole.items()
        if name not in ("init", "activation", "seed") and value != DEFAULTS[name]
    }
    content = {
        "name": f"{search.name}-best",
        "grid": {"init": [run.init], "activation": [run.activation], "seed": [*range(SEEDS)]},
        "run": kept,
    }
    return (
        f"# The best settings of {count(trials, 'trial')}: {best.accuracy:.2f} % on {search.run['validation']:,} "
        f"validation images after {best.run.iterations:,} iterations.\n"
        "# Here they train on all training images, and are tested on the test images.\n"
        f"{yaml.safe_dump(content, sort_keys=False, default_flow_style=None)}"
    )


def print_results(search: Search, outcomes: Sequence[Outcome], console: Console) -> None:
    """Print a row for each method: its trials, its iterations, and its best settings."""
    table = Table("method", "trials", "pruned", "failed", "iterations", "best\naccuracy", "settings")
    for method in search.methods:
        mine = [one for one in outcomes if one.method == method]
        best = best_of(mine)
        numbers = [len(mine), *(sum(one.state == state for one in mine) for state in ("pruned", "failed"))]
        point = best.point if best else {}
        table.add_row(
            method,
            *map(str, numbers),
            f"{sum(one.iterations for one in mine):,}",
            f"{best.accuracy:.2f}" if best else "–",
            terminal_text(", ".join(f"{name} {display_name(value)}" for name, value in point.items())),
        )
    console.print(table)
    console.print("Accuracies are in % of the validation images, with one seed.", highlight=False)
