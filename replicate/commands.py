"""What each command does: select the runs, call the modules that do the work, print."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from replicate.arguments import OUT
from replicate.errors import UsageError
from replicate.experiment import Experiment
from replicate.run import ACTIVATIONS, INITS, MODELS, Run
from replicate.settings import assignments
from replicate.store.files import escape_control_chars
from replicate.store.run_folder import Records, collect

if TYPE_CHECKING:
    from replicate.store.predictions import Labels

# Modules are imported by the command that needs them, so that `--help` and `status` answer at once, without torch.


@dataclass(frozen=True, slots=True)
class Selection:
    """What every command that takes an experiment file works on."""

    experiment: Experiment
    runs: tuple[Run, ...]
    out: Path

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Selection":
        """Load the file and narrow it by --set, --only and --shard."""
        experiment = Experiment.load(args.file).with_settings(assignments("--set", args.set))
        runs = experiment.runs(assignments("--only", args.only))
        if part := getattr(args, "shard", None):
            from replicate.matrix.shard import shard

            runs = shard(part, runs)
        return cls(experiment, runs, args.out or OUT / experiment.name)

    @property
    def records(self) -> Records:
        """What the output folder holds of the runs."""
        return collect(self.out, self.runs)


def matrix(args: argparse.Namespace) -> int:
    """Carry out the runs of an experiment that have no finished result yet; start it again to go on."""
    return _carry_out(Selection.of(args), args)


def run(args: argparse.Namespace) -> int:
    """Carry out exactly one run of an experiment, its axes fixed by --set."""
    chosen = Selection.of(args)
    if len(chosen.runs) > 1:
        free = [axis for axis in chosen.experiment.grid if len({getattr(one, axis) for one in chosen.runs}) > 1]
        missing = " ".join(f"{axis}=…" for axis in free)
        raise UsageError(f"{args.file} gives {len(chosen.runs)} runs; fix its axes to get one: --set {missing}")
    return _carry_out(chosen, args)


def verify_(args: argparse.Namespace) -> int:
    """Run a sample of the finished runs again and compare: exit code 0 if each is identical or within tolerance."""
    from replicate.verify.rerun import CheckData, verify

    chosen = Selection.of(args)

    def carry_out(runs: tuple[Run, ...], out: Path, check: CheckData) -> int:
        return _carry_out(replace(chosen, runs=runs, out=out), args, check)

    return verify(chosen.records, chosen.out, args.sample, args.seed, carry_out, Console())


def score_(args: argparse.Namespace) -> int:
    """Compute the table from the predictions and the test labels, and compare it with the records: 0 if it is equal."""
    from replicate.data.sources import load_test_labels
    from replicate.verify.score import score

    chosen = Selection.of(args)
    labels_of = cache(partial(load_test_labels, data_dir=args.data_dir))
    return score(chosen.experiment, chosen.runs, chosen.records, chosen.out, labels_of, print)


def _carry_out(
    chosen: Selection, args: argparse.Namespace, check: Callable[[Mapping[str, str]], None] = lambda fingerprints: None
) -> int:
    from replicate.carry_out import carry_out

    return carry_out(chosen.experiment, chosen.runs, chosen.out, args, check)


def collect_(args: argparse.Namespace) -> int:
    """Merge the records of several output folders into one; conflicts are named, nothing is overwritten."""
    from replicate.store.merge import merge

    report = merge(args.folders, args.out)
    for line in report.lines():
        print(escape_control_chars(line))
    return report.exit_code


def status(args: argparse.Namespace) -> int:
    """Show the grid of an experiment: which runs are done, failed, waiting and under way, and how far."""
    from replicate.live.watch import View, show, watch

    chosen = Selection.of(args)
    view = View(chosen.experiment, chosen.runs, chosen.out)
    return (watch if args.watch else show)(view, Console())


def table(args: argparse.Namespace) -> int:
    """Write the accuracy table next to the published one (table.md, .tex, .csv, and runs.csv), and print it."""
    from replicate.report.document import document
    from replicate.report.render import markdown, write_table
    from replicate.report.table import build

    chosen = Selection.of(args)
    doc = document(build(chosen.experiment, chosen.runs, chosen.records, chosen.out))
    paths = write_table(doc, chosen.out)
    print(markdown(doc))
    print("\n".join(f"wrote {path}" for path in paths))
    return 0


def figures(args: argparse.Namespace) -> int:
    """Draw accuracies, learning curves and what happens in the layers into OUT/figures, as PDF and PNG."""
    from replicate.report.figures import draw
    from replicate.report.table import build

    chosen = Selection.of(args)
    built = build(chosen.experiment, chosen.runs, chosen.records, chosen.out)
    paths = draw(built, chosen.out, chosen.out / "figures", print)
    print("\n".join(f"wrote {path}" for path in paths))
    return 0


def report(args: argparse.Namespace) -> int:
    """Write OUT/report/index.html: everything that was found on one page, which opens without a network."""
    from replicate.data.sources import labels_at_hand
    from replicate.report.command_line import CommandLine
    from replicate.report.page import write_report
    from replicate.report.table import assemble

    chosen = Selection.of(args)

    @cache
    def labels_of(dataset: str) -> "Labels | None":
        labels = labels_at_hand(dataset, args.data_dir)
        if labels is None:
            print(f"the page has no pairs: the test labels of {dataset} are not in {args.data_dir}; give --data-dir")
        return labels

    built = assemble(chosen.experiment, chosen.runs, chosen.records)
    command_line = CommandLine(args.file, tuple(args.set), tuple(args.only))
    paths = write_report(built, chosen.out, command_line, labels_of)
    print("\n".join(f"wrote {path}" for path in paths))
    return 0


def sync(args: argparse.Namespace) -> int:
    """Upload to Weights & Biases what was logged offline, with a report job: table, figures, verdicts."""
    from replicate.tracking.sync import sync as carry_out

    chosen = Selection.of(args)
    return carry_out(chosen.experiment, chosen.runs, chosen.records, chosen.out, args.dry_run)


def dashboard(args: argparse.Namespace) -> int:
    """Save a Weights & Biases workspace for an experiment's runs: curves, layers, table."""
    from replicate.tracking.workspace import dashboard as save

    print(save(Selection.of(args).experiment, args.entity, args.dry_run))
    return 0


def doctor(args: argparse.Namespace) -> int:
    """Show what this machine has, what of it works, and how to mend what does not."""
    from replicate.doctor.examine import examine

    return examine(args.out, args.data_dir, Console())


def names(args: argparse.Namespace) -> int:
    """List the initialisations, activations, models and data sets."""
    from replicate.data.sources import available

    for kind, choices in (("inits", INITS), ("activations", ACTIVATIONS), ("models", MODELS)):
        print(f"{kind + ':':<13}{', '.join(choices)}")
    sets = [name if here else f"{name} (not in {args.data_dir} yet)" for name, here in available(args.data_dir)]
    print(f"{'data sets:':<13}{', '.join(sets)}")
    return 0


FILE_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "matrix": matrix,
    "run": run,
    "status": status,
    "table": table,
    "figures": figures,
    "verify": verify_,
    "score": score_,
    "report": report,
    "sync": sync,
    "dashboard": dashboard,
}
