"""The commands: parse, call, print. What they do stands in the modules that they call."""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from replicate import __version__
from replicate.arguments import LAUNCHERS, OUT, add_bench, add_dry_run, add_resources, add_selection
from replicate.errors import UsageError, unknown
from replicate.experiment import Experiment
from replicate.options import Options, wandb_mode
from replicate.results import Records, collect
from replicate.run import ACTIVATIONS, INITS, MODELS, Run
from replicate.settings import assignments

# Modules are imported by the command that needs them, so that `--help` and `status` answer at once, without torch.


@dataclass(frozen=True, slots=True)
class Selection:
    """What every command that takes an experiment file works on."""

    experiment: Experiment
    runs: tuple[Run, ...]
    out: Path

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Selection":
        """Load the file and narrow it by --set and --only."""
        experiment = Experiment.load(args.file).with_settings(assignments("--set", args.set))
        runs = experiment.runs(assignments("--only", args.only))
        return cls(experiment, runs, args.out or OUT / experiment.name)

    @property
    def records(self) -> Records:
        """What the output folder holds of the runs."""
        return collect(self.out, self.runs)


def matrix(args: argparse.Namespace) -> int:
    """Carry out the runs of an experiment that have no finished result yet; start it again to go on."""
    if args.launcher not in LAUNCHERS:
        raise unknown("launcher", args.launcher, LAUNCHERS)
    return _carry_out(Selection.of(args), args)


def run(args: argparse.Namespace) -> int:
    """Carry out exactly one run of an experiment, its axes fixed by --set."""
    chosen = Selection.of(args)
    if len(chosen.runs) > 1:
        free = [axis for axis in chosen.experiment.grid if len({getattr(one, axis) for one in chosen.runs}) > 1]
        missing = " ".join(f"{axis}=…" for axis in free)
        raise UsageError(f"{args.file} gives {len(chosen.runs)} runs; fix its axes to get one: --set {missing}")
    return _carry_out(chosen, args)


def _carry_out(chosen: Selection, args: argparse.Namespace) -> int:
    from replicate.matrix.display import Display
    from replicate.matrix.local import LocalLauncher
    from replicate.matrix.plan import alone, check_writable, left_to_do, survey
    from replicate.matrix.scheduler import WORKER, run_all
    from replicate.matrix.slots import make_slots

    options = Options(
        out=chosen.out.resolve(),
        data_dir=args.data_dir.resolve(),
        threads=args.threads_per_run,
        wandb=wandb_mode(args.wandb),
        experiment=chosen.experiment.name,
        checkpoint_seconds=args.checkpoint_seconds,
    )
    check_writable(options.out)
    preload = WORKER.partition(":")[0]
    with alone(options.out), LocalLauncher(preload) as launcher, Display(Console()) as display:
        gpus, fingerprints = survey(launcher, chosen.runs, options.data_dir, display)
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        slots = make_slots(args.devices, args.per_device, args.threads_per_run, gpus, visible)
        todo = left_to_do(options.out, chosen.runs, fingerprints, display)
        outcome = run_all(launcher, chosen.runs, todo, slots, options, display)
    print(f"{len(chosen.runs) - outcome.left} of {len(chosen.runs)} runs are done, {outcome.errors} with an error")
    print(f"records: {chosen.out}/runs")
    return outcome.exit_code


def bench(args: argparse.Namespace) -> int:
    """Measure the speed of training beside a plain Lightning loop, and write OUT/<device>.md (results/bench)."""
    from replicate.bench.compare import Page, compare
    from replicate.bench.queue import queue_cost
    from replicate.matrix.display import Display
    from replicate.matrix.local import LocalLauncher
    from replicate.matrix.plan import check_writable, survey
    from replicate.matrix.scheduler import WORKER
    from replicate.matrix.slots import make_slots
    from replicate.results import write_atomically

    options = Options(out=args.out)
    check_writable(args.out)
    with LocalLauncher(preload=WORKER.partition(":")[0]) as launcher, Display(Console()) as display:
        gpus, _ = survey(launcher, [], options.data_dir, display)
        slot = make_slots(args.devices, 1, 1, gpus, os.environ.get("CUDA_VISIBLE_DEVICES"))[0]
        small = slot.device == "cpu"
        chosen = Run(
            "lsuv",
            "relu",
            width=args.width or (0.25 if small else 1.0),
            precision=args.precision or ("32-true" if small else "bf16-mixed"),
        )
        measured = compare(launcher, chosen, slot, options, display,
                           at_once=args.at_once, windows=args.windows, seconds=args.seconds)  # fmt: skip
        queue = queue_cost(launcher, (1, 200))
    ceiling, device, rows = measured
    command = " ".join(["replicate", *sys.argv[1:]])
    page = Page(device, command, chosen, args.seconds, args.windows, ceiling, tuple(rows), tuple(queue))
    path = write_atomically(args.out / f"{'-'.join(device.split())}.md", page.markdown())
    print(page.markdown())
    print(f"wrote {path}")
    return 0


def status(args: argparse.Namespace) -> int:
    """Show which runs of an experiment are done, failed and missing."""
    from replicate.report.status import overview

    chosen = Selection.of(args)
    Console().print(overview(chosen.experiment, chosen.runs, chosen.records, chosen.out))
    return 0


def table(args: argparse.Namespace) -> int:
    """Write the accuracy table beside the published one (table.md, .tex, .csv, and runs.csv), and print it."""
    from replicate.report.table import build

    chosen = Selection.of(args)
    built = build(chosen.experiment, chosen.runs, chosen.records, chosen.out)
    paths = built.write(chosen.out)
    print(built.markdown())
    print("\n".join(f"wrote {path}" for path in paths))
    return 0


def figures(args: argparse.Namespace) -> int:
    """Draw the accuracy matrix, the learning curves and the layers' variances into OUT/figures."""
    from replicate.report.figures import draw

    chosen = Selection.of(args)
    paths = draw(chosen.experiment, chosen.runs, chosen.records, chosen.out, chosen.out / "figures")
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
    "sync": sync,
    "dashboard": dashboard,
}


def make_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="replicate",
        description='Replication of "All you need is a good init" (Mishkin & Matas, ICLR 2016).',
        epilog="Begin with: replicate matrix experiments/smoke.yaml",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    made = {}
    for name, function in {**FILE_COMMANDS, "list": names}.items():
        made[name] = commands.add_parser(name, help=function.__doc__, description=function.__doc__, allow_abbrev=False)
        made[name].set_defaults(function=function)
        if name != "list":
            add_selection(made[name])
        made[name].add_argument(
            "--data-dir", type=Path, default=Path("data"), help="where data sets are found, and downloaded to (data/)"
        )
    for name in ("matrix", "run"):
        add_resources(made[name], several=name == "matrix")
    add_dry_run(made["sync"], made["dashboard"])
    made["dashboard"].add_argument("--entity", metavar="NAME", help="W&B user or team (WANDB_ENTITY, or the key's own)")
    made["bench"] = commands.add_parser("bench", help=bench.__doc__, description=bench.__doc__, allow_abbrev=False)
    made["bench"].set_defaults(function=bench)
    add_bench(made["bench"])
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Carry out a command line.

    Returns:
        The exit code: 0 done (n/c and diverged are results), 1 some runs ended in error, 2 wrong usage, 3 stopped early
        with more to do.
    """
    terminate = signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends what is going on, as Ctrl-C does
    try:
        args = make_parser().parse_args(arguments)
        code: int = args.function(args)
    except UsageError as error:
        print(f"replicate: {error}", file=sys.stderr)
        return 2
    except PermissionError as error:
        print(f"replicate: cannot write {error.filename}: {error.strerror}; give another --out", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # before or after the runs; while they run, the scheduler ends them and says so
        print("replicate: stopped", file=sys.stderr)
        return 3
    finally:
        signal.signal(signal.SIGTERM, terminate)
    return code
