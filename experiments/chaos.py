"""Random faults during a matrix, and a comparison with an undisturbed one.

`python experiments/chaos.py` (`make chaos`) trains the smoke matrix once without faults. Then, in rounds, each in its
own folder, it trains the matrix again until all runs are finished; a last, undisturbed call repairs the rest. Meanwhile
schedulers and workers are killed, stopped and started twice, and their terminals closed; disks fill; files are
truncated, overwritten, changed in one bit or replaced by pipes; leases of another machine appear; the code is edited.
Every round must end with the same weights, accuracy, training loss, curve.csv, layers.json and predictions, bit for
bit. It counts:

- lost: a run that has no finished record after the last call;
- doubled: a training of a run that another process is training (known from a file lock per run, not from the leases),
  or of a run that has a finished record; or one more finish than there were records to write;
- differing: a finished run that differs from that of the undisturbed matrix in any of these;
- mislabelled: a record that names other code than its training had loaded.

Curves and layers are damaged only before they are complete: nothing is read from them but figures, so nothing repairs
them. Predictions with a wrong bit must be noticed when they are read.
"""

import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Literal

from chaos_files import MEASURED, content_of
from chaos_round import FAULTS, ROOT, Round
from script import make_app, run_app

from replicate import cli, provenance
from replicate.errors import unknown
from replicate.experiment import Experiment
from replicate.matrix.limits import cores
from replicate.run import Run
from replicate.store.files import write_atomically
from replicate.store.measurements import read_predictions
from replicate.store.result import BadRecordError
from replicate.store.run_folder import RunFolder
from replicate.yamlfile import assignments

app = make_app("chaos", __doc__)


@app.default
def chaos(
    *,
    file: Path = ROOT / "experiments" / "smoke.yaml",
    set: tuple[str, ...] = (),
    only: tuple[str, ...] = (),
    kinds: tuple[str, ...] = (),
    faults: int = 420,
    seed: int = 0,
    interval: float = 1.0,
    seconds: float = 7200.0,
    wandb: Literal["off", "offline"] = "off",
    page: Path | None = None,
) -> int:
    """Inject faults, compare, and print a page. The exit code is 1 if a run is lost, doubled, mislabelled or differs.

    Args:
        file: Experiment file.
        set: As in `replicate matrix`.
        only: As in `replicate matrix`.
        kinds: Kinds of faults (default: all).
        faults: Number of faults in all.
        seed: Seed of the choice of the faults. Their timing also depends on the machine.
        interval: Mean seconds between two faults.
        seconds: No new faults after this time.
        wandb: As in `replicate matrix`.
        page: Markdown file to write.
    """
    for kind in kinds:
        if kind not in FAULTS:
            raise unknown("kind of fault", kind, FAULTS)
    begin, rng = time.monotonic(), random.Random(seed)
    runs = Experiment.load(file).with_settings(assignments("--set", set)).runs(assignments("--only", only))
    narrowed = [*(["--set", *set] if set else []), *(["--only", *only] if only else [])]
    command = ["matrix", str(file), "--devices", "cpu", "--wandb", wandb, "--checkpoint-seconds", "0.5", *narrowed]
    rounds: list[Round] = []
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        undisturbed = Path(name) / "undisturbed"
        cli.main([*command, "--out", str(undisturbed)])
        print(f"undisturbed: {time.monotonic() - begin:.0f} s", flush=True)
        expected = {run: outcome(undisturbed, run) for run in runs}
        complete = {run: [content_of(RunFolder.of(undisturbed, run).path / name) for name in MEASURED] for run in runs}
        lost = differing = 0
        while (happened := sum(one.faults.total() for one in rounds)) < faults:
            if time.monotonic() - begin > seconds:
                break
            rounds.append(one := Round(Path(name) / str(len(rounds)), command, complete, rng, kinds))
            one.inject(faults - happened, interval, begin + seconds)
            one.finish()
            found = {run: outcome(one.out, run) for run in runs}
            lost += sum(found[run] is None for run in runs)
            differing += sum(found[run] not in allowed(expected[run], run.run_id in one.flipped) for run in runs)
            state = f"{lost} lost, {one.doubled()} doubled, {differing} differing, {one.mislabelled()} mislabelled"
            print(f"round {len(rounds)}: {one.faults.total()} faults, {state}", flush=True)
        doubled, mislabelled = sum(one.doubled() for one in rounds), sum(one.mislabelled() for one in rounds)
        began = sum(content_of(one.log / run.run_id).count(b"began") for one in rounds for run in runs)
    text = markdown(rounds, len(runs), began, (lost, doubled, differing, mislabelled), seed, time.monotonic() - begin)
    print(text)
    if page is not None:
        write_atomically(page, text)
    return int(lost + doubled + differing + mislabelled > 0 or None in expected.values())


def outcome(out: Path, run: Run) -> tuple[object, ...] | None:
    """What must be the same in every round, the predictions last, None if they cannot be read; None: not finished."""
    folder = RunFolder.of(out, run)
    result = folder.record()
    if result is None or not result.final:
        return None
    files = [content_of(folder.path / name) for name in MEASURED]
    classes = None
    with contextlib.suppress(OSError, BadRecordError):
        classes = read_predictions(folder).classes.tolist()
    numbers = (result.status, result.test_accuracy, result.train_loss, result.iteration, result.weights_sha256)
    return *numbers, *files, classes


def allowed(expected: tuple[object, ...] | None, flipped: bool) -> list[tuple[object, ...] | None]:
    """The outcomes of a run that do not differ; `flipped`: a bit of its predictions is wrong, which may be noticed."""
    return [None, expected, *([(*expected[:-1], None)] if expected and flipped else [])]


def markdown(
    rounds: list[Round], runs: int, began: int, found: tuple[int, int, int, int], seed: int, seconds: float
) -> str:
    """Report the rounds in Markdown.

    Args:
        rounds: the rounds with faults.
        runs: number of runs in each.
        began: number of trainings that were started or resumed.
        found: runs that were lost, doubled, differ, and are mislabelled.
        seed: seed of the faults.
        seconds: time that everything took.
    """
    total = sum((one.faults for one in rounds), Counter[str]())
    lines = [f"| {kind} | {count} |" for kind, count in sorted(total.items())]
    number = f"{len(rounds)} round{'s' * (len(rounds) != 1)}"
    return "\n".join([
        "# Random faults during the smoke matrix", "",
        f"`{' '.join(['python', 'experiments/chaos.py', *sys.argv[1:]])}`: seed {seed}, {number} of {runs} "
        f"runs, {began} trainings started or resumed, {seconds:.0f} s on {cores()} cores of {provenance.cpu_name()}.",
        "",
        "| Fault | Times |", "|---|---|", *lines, f"| **all** | **{total.total()}** |", "",
        f"Compared with an undisturbed matrix: **{found[0]} lost, {found[1]} doubled, {found[2]} with differing bits, "
        f"{found[3]} mislabelled**. Compared are status, accuracy, training loss, iteration, weights, curve.csv, "
        "layers.json and predictions. The script's docstring defines the words.", "",
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(run_app(app))
