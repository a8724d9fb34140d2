"""The commands that carry out runs, and `status`, which shows them."""

from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console

from replicate.commands.common import (
    File,
    Log,
    Resource,
    Select,
    print_next,
    select,
    select_finished,
    use_plugins,
    writing_to,
    wrote,
)
from replicate.errors import UsageError
from replicate.logging_options import Logging
from replicate.options import OUT, Resources, Selection, Whole, command_line

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from replicate.run import Run
    from replicate.store.result import Result

SearchFile = Annotated[Path, Parameter(help="Search file, such as experiments/search.yaml.")]
STOPPED = 3  # exit code: stopped early, with runs left


def matrix(
    file: File,
    /,
    *,
    selection: Select = Selection(),
    shard: str | None = None,
    resources: Resource = Resources(),
    logging: Log = Logging(),
    check: bool = False,
    quiet: bool = False,
) -> int:
    """Carry out the runs of an experiment that have no finished record, and print its table. Run it again to resume.

    Args:
        shard: Only the Kth of N parts of similar cost, such as 2/8. Give every part the same FILE, --set and --only.
        check: Exit with code 1 if the runs contradict a claim of the paper.
        quiet: Print only how many runs are done at the end.
    """
    from replicate.carry_out import carry_out
    from replicate.report.document import document
    from replicate.report.terminal import print_table
    from replicate.store.files import escape_control_chars

    if check and shard is not None:
        raise UsageError("--check needs the runs of all parts; leave out --shard, and check when every part is done")
    selected = select(file, selection, shard)
    if check:  # refuse runs that make no table before they are carried out
        document(selected.experiment, selected.runs, selected.records)
    code = carry_out(selected, selection.data_dir, resources, logging, quiet=quiet)
    records = selected.records
    if shard is not None or not any(result.final for result in records.results.values()):
        return code
    try:
        doc = document(selected.experiment, selected.runs, records)
    except UsageError as error:  # of runs that make no table, such as those on several data sets
        if check:
            raise
        if not quiet:
            print(f"no table: {escape_control_chars(str(error))}")
        return code
    if not quiet:
        print_table(doc, Console())
        again = "the same command, which resumes the runs"  # with all its options, such as --launcher
        print_next(again if code == STOPPED else command_line("table", file, selection))
    if check and (contradicted := [claim["text"] for claim in doc["claims"] if claim["verdict"] == "contradicted"]):
        print(f"contradicted: {'; '.join(contradicted)}")
        return code or 1
    return code


def run(
    file: File, /, *, selection: Select = Selection(), resources: Resource = Resources(), logging: Log = Logging()
) -> int:
    """Carry out exactly one run of an experiment, its axes fixed by --set."""
    from replicate.carry_out import carry_out

    selected = select(file, selection)
    selected.check_single()
    # A single run has its device to itself, and its record must say so.
    return carry_out(selected, selection.data_dir, replace(resources, per_device=1), logging)


def verify(
    file: File,
    /,
    *,
    selection: Select = Selection(),
    sample: str = "3",
    seed: Whole = 0,
    resources: Resource = Resources(),
) -> int:
    """Run a sample of the finished runs again, and compare the results with the records.

    The exit code is 0 if each rerun is identical to its record (curve.csv, accuracy, digest of the weights), or if its
    code or machine differs, which is named, and its test accuracy is within the tolerance: the 95 % limit of a chance
    difference between two shares of the test images. Otherwise it is 1. The reruns are written to OUT/verify and
    removed if none differs. Records are never touched.

    Args:
        sample: Number of finished runs to verify, or all (default: 3).
        seed: Seed of the choice of the sample (default: 0).
    """
    from replicate.carry_out import carry_out
    from replicate.verify import rerun

    count = int(sample) if sample.isdecimal() else None
    if count == 0 or (count is None and sample != "all"):
        raise UsageError(f"--sample {sample!r} is not a number of runs; give 1 or more, or all")
    selected, records = select_finished("verify", file, selection)

    def repeat(runs: "tuple[Run, ...]", out: Path, check: rerun.CheckData) -> int:
        there, off = replace(selected, runs=runs, out=out), Logging(wandb="off")
        return carry_out(there, selection.data_dir, resources, off, check)

    return rerun.verify(records, selected.out, count, seed, repeat, Console())


def search(
    file: SearchFile, /, *, selection: Select = Selection(), resources: Resource = Resources(), logging: Log = Logging()
) -> int:
    """Search for the settings with the highest accuracy on validation images. Run it again to resume.

    FILE names the space, the methods (grid, random, TPE) and the stages. The trials are runs with records as usual; the
    test images are not used. OUT gets trials.csv, search.db (Optuna's storage), figures, and best.yaml, an experiment
    with the best settings.
    """
    from replicate.carry_out import carry_out
    from replicate.matrix.plan import Selected, check_data, check_step
    from replicate.matrix.resources import Deadline
    from replicate.search.spec import Search
    from replicate.store.files import prepare_output_folder
    from replicate.yamlfile import assignments

    if selection.only:
        raise UsageError("--only is for experiments; a search takes --set")
    use_plugins(selection)
    spec = Search.load(file).with_settings(assignments("--set", selection.set))
    try:
        with chdir("/"):  # matplotlib reads a file of the current folder when it is imported
            from replicate.search import figures, results
            from replicate.search.search import search as search_for
    except ModuleNotFoundError as error:
        raise UsageError(f"replicate search needs {error.name}; install it: pip install '.[search]'") from None
    out = selection.out or OUT / spec.name
    check_step(spec.examples(), resources.step)
    prepare_output_folder(out, [])
    deadline = Deadline(resources.seconds)

    def carry(runs: "tuple[Run, ...]", earlier: "Collection[Result]") -> int:
        left = None if resources.time_limit is None else f"{max(1, deadline.remaining()):.0f}"
        there = replace(resources, time_limit=left)
        selected = Selected(spec.experiment(runs), runs, out)

        def check(fingerprints: "Mapping[str, str]") -> None:
            check_data(earlier, fingerprints, "give another --out, or the data it was run on")

        return carry_out(selected, selection.data_dir, there, logging, check)

    code, trials = search_for(spec, out, carry, Console())
    if code == STOPPED or trials.waiting:
        print_next("the same command, which resumes the search")
        return code
    results.print_results(spec, trials.outcomes, Console())
    with writing_to(out, option="--out") as folder:
        wrote(results.write_results(trials, folder))
    if results.best_of(trials.outcomes) is None:
        print("no trial has learned anything, so there are no best settings")
        return code
    with writing_to(out, "figures", option="--out") as folder:
        wrote(figures.draw(spec, trials.outcomes, folder))
    same = Selection(data_dir=selection.data_dir, plugin=selection.plugin)
    print_next(command_line("matrix", out / "best.yaml", same))
    return code


def status(
    file: File,
    /,
    *,
    selection: Select = Selection(),
    shard: str | None = None,
    watch: bool = False,
    json: bool = False,
) -> int:
    """Show which runs are done, failed, waiting and in progress.

    Args:
        shard: Only the Kth of N parts, as in replicate matrix.
        watch: Refresh until all runs finish (exit code 0, or 1 if some failed) or Ctrl-C (3). When redirected, print
            one line per change.
        json: Print the state once, as JSON for other programs.
    """
    from replicate.live.screen import StatusView
    from replicate.live.status_json import status_json

    if json and watch:
        raise UsageError("--json prints the state once; leave out --watch")
    selected = select(file, selection, shard)
    if json:
        print(status_json(selected.experiment, selected.runs, selected.out))
        return 0
    view = StatusView(selected.experiment, selected.runs, selected.out, Console())
    return view.watch() if watch else view.show()
