"""The state of a matrix as JSON, for other programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from replicate.experiment import Experiment
from replicate.live.state import CellProgress, MatrixState, RunMonitor
from replicate.run import Run
from replicate.store.run_folder import count_others

COUNTS = ("expected", "finished", "converged", "not_converged", "diverged", "errors", "running", "waiting")


def status_json(experiment: Experiment, runs: Sequence[Run], out: Path) -> str:
    """Look at an output folder, and return the state of these runs as one JSON object. An unknown number is null.

    - `experiment`: its name. `out`: the output folder. `axes`: the two fields of a run that make rows and columns.
    - `runs`: the numbers of runs named in COUNTS. Runs that ended in an error have not finished.
    - `seconds_left`: estimate until all runs are over.
    - `unreadable`, `others`: numbers of records that cannot be read, and of records of other settings.
    - `cells`: a list of `row`, `column`, the numbers named in COUNTS, and `mean`, the mean test accuracy in %.
    - `running`: a list of `run_id`, the fields of `Progress`, and `seconds_left`.

    Args:
        experiment: names the axes.
        runs: to show.
        out: the output folder; it need not exist.
    """
    monitor = RunMonitor(out, runs)
    state = MatrixState(experiment, monitor.runs, monitor.look(), speeds={})  # a speed takes two looks

    def counts(cell: CellProgress) -> dict[str, int]:
        return {name: getattr(cell, name) for name in COUNTS}

    content = {
        "experiment": experiment.name,
        "out": str(out),
        "axes": [experiment.table.rows, experiment.table.columns],
        "runs": counts(state.total),
        "seconds_left": state.total_seconds_left,
        "unreadable": state.seen.bad,
        "others": count_others(out, monitor.runs),
        "cells": [
            {"row": row, "column": column, **counts(cell), "mean": cell.mean}
            for (row, column), cell in state.cells.items()
        ],
        "running": [
            {"run_id": run_id, **asdict(one), "seconds_left": state.seconds_left.get(run_id)}
            for run_id, one in state.running.items()
        ],
    }
    return json.dumps(content, indent=1, allow_nan=False)
