"""The way through a verification: draw, run again, compare, show."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from rich.console import Console

from replicate.run import Run
from replicate.store.run_folder import Records, RunFolder, collect
from replicate.verify.compare import DIFFERENT, Verdict, compare
from replicate.verify.sample import check_data, clear, draw, rerun_folder
from replicate.verify.show import lay_out

CheckData = Callable[[Mapping[str, str]], None]
STOPPED = 3  # exit code of a matrix that was stopped with more to do


def verify(
    records: Records,
    out: Path,
    count: int | None,
    seed: int,
    carry_out: Callable[[tuple[Run, ...], Path, CheckData], int],
    console: Console,
) -> int:
    """Run a sample of the finished runs again and show how they compare with their records.

    Args:
        records: what `out` holds of the runs asked for.
        out: the output folder.
        count: runs in the sample; None: all that have finished.
        seed: of the draw.
        carry_out: carries out runs in an output folder of their own, after it has shown the check the fingerprints of
            the data at hand; returns the exit code of a matrix.
        console: where the table goes.

    Returns:
        The exit code: 0 where each is identical or within tolerance for a stated reason, 1 where some differ, 3 where
        the reruns were stopped; the next call goes on with them.

    Raises:
        UsageError: no run has finished, the data is other data, or there is a link where the reruns would be written.
    """
    recorded = draw(records, count, seed, out)
    folder = rerun_folder(out)
    runs = tuple(result.run for result in recorded.values())
    if carry_out(runs, folder, partial(check_data, recorded)) == STOPPED:
        return STOPPED
    reruns = collect(folder, runs).results
    verdicts = []
    for name, result in recorded.items():
        if name not in reruns:
            verdicts.append(Verdict(name, DIFFERENT, result.test_accuracy, None, differs=("the rerun left no record",)))
            continue
        curves = RunFolder.of(out, result.run).curve_bytes(), RunFolder.of(folder, result.run).curve_bytes()
        verdicts.append(compare(result, reruns[name], curves))
    console.print(lay_out(verdicts))
    differ = any(one.word == DIFFERENT for one in verdicts)
    clear(folder, keep=differ)
    return int(differ)
