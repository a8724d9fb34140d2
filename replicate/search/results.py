"""What a search leaves: its trials as a table and as a database, the best settings, and a summary on the terminal."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import yaml
from rich.console import Console
from rich.table import Table

from replicate.report.render import to_csv
from replicate.report.text import count, display_name, terminal_text
from replicate.run import DEFAULTS
from replicate.search.proposals import frozen
from replicate.search.spec import Search
from replicate.search.trials import Outcome, Trials
from replicate.store.files import write_atomically

SEEDS = 5  # of the experiment with the best settings, as many as in table3.yaml


def best_of(outcomes: Sequence[Outcome]) -> Outcome | None:
    """The trial with the highest accuracy among those with the longest runs; None if none has learned anything."""
    learned = [one for one in outcomes if one.learned]
    return max(learned, key=lambda one: (one.runs[-1].iterations, one.accuracy, -one.trial), default=None)


def write_results(trials: Trials, out: Path) -> list[Path]:
    """Write `trials.csv`, `search.db` and, if a trial has learned something, `best.yaml`.

    Args:
        trials: of which at least one has ended.
        out: folder for the files.
    """
    rows = [
        {
            **{"method": one.method, "stage": one.stage, "trial": one.trial, **one.point, "state": one.state},
            **{"accuracy": one.accuracy, "run_iterations": one.runs[-1].iterations},
            **{"all_iterations": one.iterations, "run_id": one.runs[-1].run_id},
        }
        for one in trials.outcomes
    ]
    paths = [
        write_atomically(out / "trials.csv", to_csv(rows)),
        write_atomically(out / "search.db", storage(trials)),
    ]
    (out / "best.yaml").unlink(missing_ok=True)  # of another search
    if (best := best_of(trials.outcomes)) is not None:
        content = best_experiment(trials.search, best, len(trials.outcomes))
        paths.append(write_atomically(out / "best.yaml", content))
    return paths


def storage(trials: Trials) -> bytes:
    """Return the trials as a database of Optuna, with a study for each method and stage, such as `random 1`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "search.db"
        database = optuna.storages.RDBStorage(f"sqlite:///{path}")
        for (method, stage), space in trials.spaces.items():
            study = optuna.create_study(storage=database, study_name=f"{method} {stage}", direction="maximize")
            ended = [one for one in trials.outcomes if (one.method, one.stage) == (method, stage)]
            study.add_trials(frozen(space, *one.told) for one in ended)
        database.engine.dispose()
        return path.read_bytes()


def best_experiment(search: Search, best: Outcome, trials: int) -> str:
    """An experiment that trains with the best settings, for the whole schedule, and tests on the test images."""
    whole = {**DEFAULTS, **search.run, **best.point, "validation": 0}
    kept: dict[str, Any] = {
        name: [*value] if isinstance(value, tuple) else value
        for name, value in whole.items()
        if name not in ("init", "activation", "seed") and value != DEFAULTS[name]
    }
    content = {
        "name": f"{search.name[:95]}-best",
        "grid": {"init": [whole["init"]], "activation": [whole["activation"]], "seed": [*range(SEEDS)]},
        "run": kept,
    }
    return (
        f"# The best settings of {count(trials, 'trial')}: {best.accuracy:.2f} % on {search.run['validation']:,} "
        f"validation images after {best.runs[-1].iterations:,} iterations.\n"
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
