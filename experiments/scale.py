"""How the matrix scales: the scheduler on 1,000 slots by simulation, and this machine's own with 1 and 2 workers.

python experiments/scale.py fleet     # 10,000 runs on 1,000 slots, virtual clock, about 3 minutes
python experiments/scale.py workers   # the same short runs, by 1 and by 2 workers in turn, and the ratio
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from io import StringIO
from pathlib import Path

import psutil
from rich.console import Console

from replicate.bench.fleet import simulate
from replicate.experiment import Experiment
from replicate.matrix.display import Display
from replicate.matrix.local import LocalLauncher
from replicate.matrix.plan import survey
from replicate.matrix.scheduler import run_all
from replicate.matrix.slots import make_slots
from replicate.matrix.task import PRELOAD
from replicate.options import Options
from replicate.run import Run

TABLE3 = Path(__file__).parent / "table3.yaml"
SECONDS = 300.0  # of a run of the pilot with relu; maxout takes about twice as long


def jittered(run: Run) -> float:
    """Seconds of a run: by its activation, and 5 % up and down."""
    chance = random.Random(run.run_id).gauss(1, 0.05)
    return SECONDS * (2 if run.activation == "maxout" else 1) * chance


def fleet(runs: int, slots: int) -> None:
    """Print a row for runs of one length, and for those of table 3, with the fleet at a tenth and in full."""
    print("| runs | slots | lengths | makespan | over the ideal | scheduler | a run | memory |")
    print("|---|---|---|---|---|---|---|---|")
    for share in (10, 1):
        seeds = list(range(-(-runs // share // 23)))
        many = Experiment.load(TABLE3).with_settings({"dataset": "synthetic", "seed": seeds}).runs()[: runs // share]
        for name, seconds in (("equal", lambda run: SECONDS), ("as in table 3, ± 5 %", jittered)):
            one = simulate(many, slots // share, seconds)
            own = f"{one.own:.1f} s | {1000 * one.own / one.runs:.2f} ms | {one.memory / 2**20:.0f} MiB"
            print(f"| {one.runs:,} | {one.slots:,} | {name} | {one.makespan:,.0f} s | {one.over:.2f} % | {own} |")


def workers(windows: int, runs: int, iterations: int) -> None:
    """Time short runs by 1 and by 2 workers in turn, start-up included.

    Beside each ratio stand the cores that were idle while one worker worked: if less than one, others had a part of
    the second worker's core. The median is over the windows in which at least 0.9 of it was idle.
    """
    sizes = {"width": 0.25, "iterations": iterations, "milestones": (), "precision": "32-true"}
    many = [Run("orthonormal", "relu", seed, dataset="synthetic", **sizes) for seed in range(runs)]
    quiet = []
    with LocalLauncher(preload=PRELOAD) as launcher, Display(Console(file=StringIO())) as display:
        survey(launcher, many, Path("data"), display)  # the server is up, the images are drawn
        for window in range(1, windows + 1):
            (one, idle), (two, _) = (_timed(launcher, many, count, display) for count in (1, 2))
            quiet += [one / two] if idle >= 0.9 else []
            print(f"{window}: {one:.1f} s by 1, {two:.1f} s by 2: {one / two:.2f} ×; {idle:.2f} cores idle", flush=True)
    median = f"median {statistics.median(quiet):.2f} ×" if quiet else "no result"
    print(f"{median}, {len(quiet)} of {windows} windows were quiet, {runs} runs of {iterations} iterations")


def _timed(launcher: LocalLauncher, runs: list[Run], count: int, display: Display) -> tuple[float, float]:
    """Seconds that the runs take, and cores that are idle meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        slots, begin, idle = make_slots("cpu", count, 1, 0), time.perf_counter(), psutil.cpu_times().idle
        outcome = run_all(launcher, runs, runs, slots, Options(Path(folder)), display)
        seconds = time.perf_counter() - begin
        idle = psutil.cpu_times().idle - idle
    if outcome.exit_code:
        sys.exit("stopped, or a run has failed")
    return seconds, idle / seconds


def main() -> None:
    """Carry out one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("fleet", "workers"))
    parser.add_argument("--runs", type=int, help="of the fleet (10000), or of each window (4)")
    parser.add_argument("--slots", type=int, default=1000, help="of the fleet (1000)")
    parser.add_argument("--windows", type=int, default=3, help="times that the workers are measured (3)")
    parser.add_argument("--iterations", type=int, default=100, help="of a worker's run (100)")
    args = parser.parse_args()
    if args.what == "fleet":
        fleet(args.runs or 10_000, args.slots)
    else:
        workers(args.windows, args.runs or 4, args.iterations)


if __name__ == "__main__":
    main()
