"""The commands that read finished runs."""

import os
import shlex
from contextlib import chdir
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console

from replicate.commands.common import File, Select, To, print_next, select, select_finished, writing_to, wrote
from replicate.errors import UsageError
from replicate.options import DATA_DIR, Selection, Whole, command_line

if TYPE_CHECKING:
    from replicate.store.measurements import Labels

Verbose = Annotated[bool, Parameter(name=("--verbose", "-v"))]


def table(
    file: File, /, *, selection: Select = Selection(), to: To = None, verbose: Verbose = False, quiet: bool = False
) -> int:
    """Write the accuracy table next to the published one (table.md, .tex, .csv, .json, and runs.csv), and print it.

    In GitHub Actions, table.md is added to the summary of the job.

    Args:
        verbose: Print all of table.md: every cell with its interval, the claims, and errors.
        quiet: Print only which files were written.
    """
    from replicate.report.document import document
    from replicate.report.render import markdown, write_table
    from replicate.report.terminal import print_table

    selected, records = select_finished("table", file, selection)
    doc = document(selected.experiment, selected.runs, records)
    if verbose:
        print(markdown(doc))
    elif not quiet:
        print_table(doc, Console())
    with writing_to(to or selected.out) as folder:
        paths = write_table(doc, folder)
    wrote(paths)
    if job_summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            with Path(job_summary).open("a", encoding="utf-8") as job:
                job.write(markdown(doc))
        except OSError as error:
            problem = f"cannot write the summary of the job, GITHUB_STEP_SUMMARY={job_summary}: {error.strerror}"
            raise UsageError(f"{problem}; unset the variable, or make the folder") from None
    if not quiet:
        print_next(command_line("report", file, selection) + (f" --to {shlex.quote(str(to))}" if to else ""))
    return 0


def figures(file: File, /, *, selection: Select = Selection(), to: To = None) -> int:
    """Draw accuracies, learning curves and layer statistics, as PDF and PNG, into the folder figures in OUT."""
    with chdir("/"):  # matplotlib reads a file of the current folder when it is imported
        from replicate.report.document import document
        from replicate.report.figures import draw

    selected, records = select_finished("figures", file, selection)
    doc = document(selected.experiment, selected.runs, records)
    with writing_to(to or selected.out, "figures") as folder:
        paths = draw(doc, selected.out, folder, print)
    return wrote(paths)


def report(file: File, /, *, selection: Select = Selection(), to: To = None) -> int:
    """Write OUT/report/index.html, a page with all results, which opens without a network."""
    from replicate.data import labels_at_hand
    from replicate.report.document import document
    from replicate.report.page import matrix_command, write_report

    selected, records = select_finished("report", file, selection)

    @cache
    def labels_of(dataset: str, validation: int) -> "Labels | None":
        labels = labels_at_hand(dataset, validation, selection.data_dir)
        if labels is None:
            missing = f"the test labels of {dataset} are not in {selection.data_dir}"
            print(f"the page has no pairs: {missing}; give --data-dir")
        return labels

    doc = document(selected.experiment, selected.runs, records)
    command = partial(matrix_command, file, selection, selected.out)
    with writing_to(to or selected.out, "report") as folder:
        paths = write_report(doc, selected.out, folder, command, labels_of)
    return wrote(paths)


def show(run_id: str, /, *, out: Path | None = None, data_dir: Path = DATA_DIR) -> int:
    """Show one run: settings, initialisation, curve, files, and the command that repeats it.

    Args:
        run_id: Name of the run's folder, such as lsuv-relu-s0-4ae007fc, or the beginning of it.
        out: Output folder (default: look in those in results/local and in results).
        data_dir: Folder of the data sets, for the command that repeats the run (default: data).
    """
    from replicate.report.show import find_run
    from replicate.report.show import show as show_run

    show_run(find_run(run_id, out), data_dir, Console())
    return 0


def diff(a: Path, b: Path, /) -> int:
    """Compare two output folders cell by cell: settings, accuracies, and differences with 95 % intervals.

    Args:
        a: Output folder, or an experiment file, whose runs in its default output folder are taken.
        b: Output folder or experiment file to compare with it.
    """
    from replicate.report.diff import compare, read_table

    compare(read_table(a), read_table(b), Console())
    return 0


def score(file: File, /, *, selection: Select = Selection()) -> int:
    """Compute the table from the predictions and the test labels, and compare it with the records.

    The exit code is 0 if they are equal.
    """
    from replicate.data import load_test_labels
    from replicate.verify.score import score as compare

    selected, records = select_finished("score", file, selection)
    labels_of = cache(partial(load_test_labels, data_dir=selection.data_dir))
    return compare(selected.experiment, selected.runs, records, selected.out, labels_of)


def ensemble(file: File, /, *, selection: Select = Selection(), to: To = None) -> int:
    """Average the class probabilities of each cell's converged seeds: accuracy, calibration and disagreement.

    The runs must have been carried out with --save-probabilities. The numbers are also written to ensemble.csv.
    """
    from replicate.data import load_test_labels
    from replicate.report.ensemble import find_ensembles, print_ensembles, write_ensembles

    selected, records = select_finished("ensemble", file, selection)
    labels_of = cache(partial(load_test_labels, data_dir=selection.data_dir))
    found = find_ensembles(selected.experiment, selected.runs, records, selected.out, labels_of)
    print_ensembles(found, Console())
    with writing_to(to or selected.out) as folder:
        path = write_ensembles(found, folder / "ensemble.csv")
    return wrote([path])


def power(
    file: File,
    /,
    *,
    selection: Select = Selection(),
    sd: float | None = None,
    seeds: tuple[Whole, ...] = (5, 10, 20, 30, 40),
    tables: Whole = 300,
) -> int:
    """Print how likely each claim is decided, by the number of seeds per cell, if the cells differ as published.

    Below a claim are the differences that decide it: those that are significant in fewer than three quarters of the
    simulated tables with the fewest seeds.

    Args:
        sd: Standard deviation of one run in percentage points (default: as measured in the output folder).
        seeds: Numbers of seeds per cell (default: 5 10 20 30 40).
        tables: Number of simulated tables (default: 300).
    """
    from replicate.report.power import print_power

    for name, values, most in (("--seeds", seeds, 1000), ("--tables", [tables], 100_000)):
        if wrong := [value for value in values if not 1 <= value <= most]:
            raise UsageError(f"{name} {wrong[0]} is out of range; give 1 to {most:,}")
    if sd is not None and not 0 < sd <= 100:
        raise UsageError(f"--sd {sd:g} is out of range; give percentage points, such as 0.2")
    selected = select(file, selection)
    print_power(selected.experiment, selected.runs, selected.records, sd, sorted({*seeds}), tables, Console())
    return 0


def collect(*folders: Path, out: Path) -> int:
    """Merge the records of several output folders into one.

    Copies result.json, curve.csv, layers.json and predictions.npz by run_id. A finished record wins over an error.
    Finished records of one run that differ in more than time, host, device, code and options are a conflict: it is
    named, none of them is copied, the one in the output folder stays, and the exit code is 1. The exit code is also 1
    if a record cannot be read. Runs in progress are skipped; run the command again to copy them.

    Args:
        folders: Output folders, which are only read.
        out: Output folder to merge them into.
    """
    from replicate.store.files import escape_control_chars
    from replicate.store.merge import merge

    if not folders:
        raise UsageError("no folder to merge; give output folders, such as: replicate collect a b --out c")
    merged = merge(folders, out)
    for line in merged.lines():
        print(escape_control_chars(line))
    return int(bool(merged.conflicts or merged.unreadable))
