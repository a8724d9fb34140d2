"""A storm over a matrix: faults at random while it works, then a comparison with an undisturbed one.

`python experiments/chaos.py` (`make chaos`) trains the smoke matrix once in peace. Then, in rounds, each in a folder of
its own, it trains it again while schedulers and workers are killed, stopped and doubled, disks fill, and files are torn
or overwritten, until all runs are finished; a last call in peace mends what the storm broke. Every round must end with
the same accuracy, training loss, curve.csv and predictions.npz, bit for bit. What counts:

- lost: a run that has no finished record after the last call;
- doubled: a training of a run that another process is training (a lock of the system's own on a file per run tells, not
  the claims), of one that has a finished record, or one more finish than there were records to make;
- differing: a finished run whose numbers or curve are not those of the undisturbed one.

Curves are torn while their run is unfinished: nothing reads a finished run's curve but the figures.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from storm import FAULTS, ROOT, Storm, content_of

from replicate import provenance
from replicate.experiment import Experiment
from replicate.run import Run
from replicate.settings import assignments
from replicate.store.files import write_atomically
from replicate.store.run_folder import collect


def outcome(out: Path, run: Run) -> tuple[object, ...] | None:
    """What must be the same in every round; None: no finished record."""
    result = collect(out, [run]).results.get(run.run_id)
    if result is None or not result.final:
        return None
    files = [content_of(out / "runs" / run.run_id / name) for name in ("curve.csv", "predictions.npz")]
    return result.status, result.test_accuracy, result.train_loss, result.iteration, *files


def main(words: list[str] | None = None) -> int:
    """Storm, compare, tell; exit code 1 if anything was lost, doubled or differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, default=ROOT / "experiments" / "smoke.yaml", help="experiment (smoke)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="as of `replicate matrix`")
    parser.add_argument("--only", nargs="+", default=[], metavar="KEY=VALUE", help="as of `replicate matrix`")
    parser.add_argument("--kinds", nargs="+", choices=FAULTS, default=[], metavar="KIND", help="of faults (all)")
    parser.add_argument("--faults", type=int, default=200, help="in all (200)")
    parser.add_argument("--seed", type=int, default=0, help="of the storm's choices (0); when they hit is not its own")
    parser.add_argument("--interval", type=float, default=1.0, help="mean seconds between faults (1)")
    parser.add_argument("--seconds", type=float, default=3600.0, help="no new faults after so long (3600)")
    parser.add_argument("--page", type=Path, help="Markdown file to write")
    args = parser.parse_args(words)
    begin, dice = time.monotonic(), random.Random(args.seed)
    runs = (
        Experiment.load(args.file).with_settings(assignments("--set", args.set)).runs(assignments("--only", args.only))
    )
    narrowed = [*(["--set", *args.set] if args.set else []), *(["--only", *args.only] if args.only else [])]
    command = ["matrix", str(args.file), "--devices", "cpu", "--wandb", "off", "--checkpoint-seconds", "0.5", *narrowed]
    storms: list[Storm] = []
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        peace = Storm(Path(name) / "peace", command, runs, dice)
        peace.finish()
        print(f"undisturbed: {time.monotonic() - begin:.0f} s", flush=True)
        expected = {run: outcome(peace.out, run) for run in runs}
        lost = differing = 0
        while (happened := sum(storm.faults.total() for storm in storms)) < args.faults:
            if time.monotonic() - begin > args.seconds:
                break
            storms.append(storm := Storm(Path(name) / str(len(storms)), command, runs, dice, args.kinds))
            storm.rage(args.faults - happened, args.interval, begin + args.seconds)
            storm.finish()
            found = {run: outcome(storm.out, run) for run in runs}
            lost += sum(found[run] is None for run in runs)
            differing += sum(found[run] not in (None, expected[run]) for run in runs)
            state = f"{lost} lost, {storm.doubled()} doubled, {differing} differing"
            print(f"round {len(storms)}: {storm.faults.total()} faults, {state}", flush=True)
        doubled = sum(storm.doubled() for storm in [peace, *storms])
        began = sum(content_of(storm.log / run.run_id).count(b"began") for storm in storms for run in runs)
    page = write(storms, len(runs), began, (lost, doubled, differing), args.seed, time.monotonic() - begin)
    print(page)
    if args.page is not None:
        write_atomically(args.page, page)
    return int(lost + doubled + differing > 0 or None in expected.values())


def write(storms: list[Storm], runs: int, began: int, found: tuple[int, int, int], seed: int, seconds: float) -> str:
    """Tell of the storms in Markdown."""
    total = sum((storm.faults for storm in storms), Counter[str]())
    lines = [f"| {kind} | {count} |" for kind, count in sorted(total.items())]
    rounds = f"{len(storms)} round{'s' * (len(storms) != 1)}"
    cores = len(os.sched_getaffinity(0))
    return "\n".join([
        "# A storm over the smoke matrix", "",
        f"`{' '.join(['python', 'experiments/chaos.py', *sys.argv[1:]])}`: seed {seed}, {rounds} of {runs} "
        f"runs, {began} trainings begun or gone on with, {seconds:.0f} s on {cores} cores of {provenance.cpu_name()}.",
        "",
        "| Fault | Times |", "|---|---|", *lines, f"| **all** | **{total.total()}** |", "",
        f"Beside an undisturbed matrix: **{found[0]} lost, {found[1]} doubled, {found[2]} with differing bits** "
        "(status, accuracy, training loss, iteration, curve.csv, predictions.npz). What counts stands in the script's "
        "first lines.", "",
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
