"""The commands: each selects runs and calls the module that does the work. Their docstrings are the help.

Modules are imported by the command that needs them, so that `--help` and `status` answer at once, without torch.
"""

from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from replicate.errors import UsageError
from replicate.names import ACTIVATIONS, INITS, MODELS
from replicate.options import DATA_DIR, OUT, Resources, Selection, WandbMode

if TYPE_CHECKING:
    from replicate.matrix.plan import Selected
    from replicate.run import Run
    from replicate.store.measurements import Labels

File = Annotated[Path, Parameter(help="Experiment file, such as experiments/table3.yaml.")]
Select = Annotated[Selection, Parameter(name="*", group=Group("Selection", sort_key=1))]
Resource = Annotated[Resources, Parameter(name="*", group=Group("Resources", sort_key=2))]
Mirror = Annotated[
    WandbMode | None, Parameter(help="Mirror runs to Weights & Biases (default: as WANDB_MODE says, else offline).")
]


def matrix(
    file: File,
    /,
    *,
    selection: Select = Selection(),
    shard: str | None = None,
    resources: Resource = Resources(),
    wandb: Mirror = None,
) -> int:
    """Carry out the runs of an experiment that have no finished record. Run it again to resume.

    Args:
        shard: Only the Kth of N parts of similar cost, such as 2/8. Give every part the same FILE, --set and --only.
    """
    from replicate.carry_out import carry_out

    return carry_out(_select(file, selection, shard), selection.data_dir, resources, wandb)


def run(
    file: File, /, *, selection: Select = Selection(), resources: Resource = Resources(), wandb: Mirror = None
) -> int:
    """Carry out exactly one run of an experiment, its axes fixed by --set."""
    from replicate.carry_out import carry_out

    selected = _select(file, selection)
    selected.check_single()
    # A single run has its device to itself, and its record must say so.
    return carry_out(selected, selection.data_dir, replace(resources, per_device=1), wandb)


def verify(
    file: File,
    /,
    *,
    selection: Select = Selection(),
    sample: str = "3",
    seed: int = 0,
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
    from rich.console import Console

    from replicate.carry_out import carry_out
    from replicate.verify import rerun

    count = int(sample) if sample.isdecimal() else None
    if count == 0 or (count is None and sample != "all"):
        raise UsageError(f"--sample {sample!r} is not a number of runs; give 1 or more, or all")
    selected = _select(file, selection)

    def repeat(runs: "tuple[Run, ...]", out: Path, check: rerun.CheckData) -> int:
        return carry_out(replace(selected, runs=runs, out=out), selection.data_dir, resources, "off", check)

    return rerun.verify(selected.records, selected.out, count, seed, repeat, Console())


def score(file: File, /, *, selection: Select = Selection()) -> int:
    """Compute the table from the predictions and the test labels, and compare it with the records.

    The exit code is 0 if they are equal.
    """
    from replicate.data import load_test_labels
    from replicate.verify.score import score as compare

    selected = _select(file, selection)
    labels_of = cache(partial(load_test_labels, data_dir=selection.data_dir))
    return compare(selected.experiment, selected.runs, selected.records, selected.out, labels_of)


def status(file: File, /, *, selection: Select = Selection(), shard: str | None = None, watch: bool = False) -> int:
    """Show which runs are done, failed, waiting and in progress.

    Args:
        shard: Only the Kth of N parts, as in replicate matrix.
        watch: Refresh until all runs finish (exit code 0, or 1 if some failed) or Ctrl-C (3). When redirected, print
            one line per change.
    """
    from rich.console import Console

    from replicate.live.screen import StatusView

    selected = _select(file, selection, shard)
    view = StatusView(selected.experiment, selected.runs, selected.out, Console())
    return view.watch() if watch else view.show()


def table(file: File, /, *, selection: Select = Selection()) -> int:
    """Write the accuracy table next to the published one (table.md, .tex, .csv, and runs.csv), and print it."""
    from replicate.report.document import build
    from replicate.report.render import markdown, write_table

    selected = _select(file, selection)
    doc = build(selected.experiment, selected.runs, selected.records, selected.out)
    paths = write_table(doc, selected.out)
    print(markdown(doc))
    return _wrote(paths)


def figures(file: File, /, *, selection: Select = Selection()) -> int:
    """Draw accuracies, learning curves and layer statistics into OUT/figures, as PDF and PNG."""
    from replicate.report.document import build
    from replicate.report.figures import draw

    selected = _select(file, selection)
    built = build(selected.experiment, selected.runs, selected.records, selected.out)
    return _wrote(draw(built, selected.out, selected.out / "figures", print))


def report(file: File, /, *, selection: Select = Selection()) -> int:
    """Write OUT/report/index.html, a page with all results, which opens without a network."""
    from replicate.data import labels_at_hand
    from replicate.report.document import document
    from replicate.report.page import matrix_command, write_report

    selected = _select(file, selection)

    @cache
    def labels_of(dataset: str) -> "Labels | None":
        labels = labels_at_hand(dataset, selection.data_dir)
        if labels is None:
            missing = f"the test labels of {dataset} are not in {selection.data_dir}"
            print(f"the page has no pairs: {missing}; give --data-dir")
        return labels

    built = document(selected.experiment, selected.runs, selected.records)
    command = partial(matrix_command, file, selection.set, selection.only)
    return _wrote(write_report(built, selected.out, command, labels_of))


def sync(file: File, /, *, selection: Select = Selection(), dry_run: bool = False) -> int:
    """Upload to Weights & Biases what was logged offline, with a report job: table, figures and verdicts.

    Args:
        dry_run: Print what would be uploaded, and upload nothing.
    """
    from replicate.tracking.sync import sync as upload

    selected = _select(file, selection)
    return upload(selected.experiment, selected.runs, selected.records, selected.out, dry_run)


def dashboard(
    file: File, /, *, selection: Select = Selection(), entity: str | None = None, dry_run: bool = False
) -> int:
    """Save a Weights & Biases workspace for an experiment's runs: curves, layers and table.

    Args:
        entity: W&B user or team (default: WANDB_ENTITY, else that of the key).
        dry_run: Print what would be saved, and save nothing.
    """
    from replicate.tracking.workspace import dashboard as save

    print(save(_select(file, selection).experiment, entity, dry_run))
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


def doctor(*, out: Path = OUT, data_dir: Path = DATA_DIR) -> int:
    """Check devices, disk, data and W&B, and suggest fixes.

    Args:
        out: Output folder (default: results/local).
        data_dir: Folder of the data sets (default: data).
    """
    from replicate.doctor import examine

    return examine(out, data_dir)


def list_names(*, data_dir: Path = DATA_DIR) -> int:
    """List the initialisations, activations, models and data sets.

    Args:
        data_dir: Folder of the data sets (default: data).
    """
    from replicate.data import available

    for kind, choices in (("inits", INITS), ("activations", ACTIVATIONS), ("models", MODELS)):
        print(f"{kind + ':':<13}{', '.join(choices)}")
    sets = [name if here else f"{name} (not in {data_dir} yet)" for name, here in available(data_dir)]
    print(f"{'data sets:':<13}{', '.join(sets)}")
    return 0


def _select(file: Path, selection: Selection, shard: str | None = None) -> "Selected":
    from replicate.matrix.plan import Selected

    return Selected.load(file, selection, shard)


def _wrote(paths: list[Path]) -> int:
    print("\n".join(f"wrote {path}" for path in paths))
    return 0
