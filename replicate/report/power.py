"""Power: how often a table with so many runs decides a claim, if the published numbers are true. It is simulated."""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Column, Table

from replicate.errors import UsageError
from replicate.experiment import Experiment
from replicate.report.cell import Cell, cells, left_out
from replicate.report.claims import Claim, judge, load_claims
from replicate.report.published import MIN_RUNS, Published, read_reference
from replicate.report.statistics import Spread, Spreads
from replicate.report.summary import spreads_text
from replicate.report.text import terminal_text
from replicate.run import Run
from replicate.store.run_folder import Records

TABLES = 300  # so that a power of 50 % has a standard error of 3 points
OFTEN = 25.0  # %; a difference that misses significance in more tables than this is named


@dataclass(frozen=True, slots=True)
class Truth:
    """What the runs of a cell are drawn from.

    Args:
        cell: names the cell. Its own results do not count.
        published: the mean of a run's accuracy in %, or `n/c`: no run converges.
        sd: standard deviation of one run, in percentage points.
        runs: number of runs.
    """

    cell: Cell
    published: Published
    sd: float
    runs: int

    def draw(self, chance: random.Random) -> Cell:
        """Draw the results of the cell."""
        if self.published == "n/c":
            return replace(self.cell, accuracies=(), not_converged=self.runs, diverged=0)
        accuracies = tuple(chance.gauss(self.published, self.sd) for _ in range(self.runs))
        return replace(self.cell, accuracies=accuracies, not_converged=0, diverged=0)


def truths(table: Iterable[Cell], published: Mapping[tuple[Any, Any], Published], spreads: Spreads) -> list[Truth]:
    """The cells as they would be if the published numbers were true, each with as many runs as have finished.

    Args:
        table: its cells. Those without a published number are left out.
        published: (row value, column value) -> number.
        spreads: of the cells. A cell that has none of its own gets the pooled one; without that, there are no truths,
            unless no cell has enough runs to be judged.
    """
    all_cells = list(table)
    # fewer runs decide nothing, whatever their spread
    default = Spread(0.0, 0) if all(cell.finished < MIN_RUNS for cell in all_cells) else None
    return [
        Truth(cell, published[cell.row, cell.column], spread.sd, cell.finished)
        for cell in all_cells
        if (cell.row, cell.column) in published and (spread := spreads.judging(cell) or spreads.pooled or default)
    ]


class Power(NamedTuple):
    """How a claim fares in simulated tables.

    Args:
        decided: in how many % of the tables the claim is `supported` or `contradicted`.
        not_significant: difference -> in how many % of the tables it leaves the claim undecided.
    """

    decided: float
    not_significant: Mapping[str, float]


def power(claim: Claim, truths: Iterable[Truth], without: Sequence[Run] = (), tables: int = TABLES) -> Power | None:
    """Judge a claim on simulated tables; the same arguments give the same power.

    Args:
        claim: the claim.
        truths: of the cells of the table.
        without: runs of the cells that the table leaves out, as in `judge`.
        tables: number of tables.

    Returns:
        None if no table can decide the claim, because it needs cells that the table does not have.
    """
    concerned = [truth for truth in truths if claim.concerns(truth.cell.run)]
    if not concerned or any(map(claim.concerns, without)):
        return None
    chance = random.Random(0)
    judged = [judge(claim, [truth.draw(chance) for truth in concerned]) for _ in range(tables)]
    decided = sum(judgement.verdict != "undecided" for judgement in judged)
    differences = Counter(name for judgement in judged for name in judgement.not_significant)
    return Power(100 * decided / tables, {name: 100 * number / tables for name, number in differences.items()})


def print_power(
    experiment: Experiment,
    runs: tuple[Run, ...],
    records: Records,
    sd: float | None,
    seeds: Sequence[int],
    tables: int,
    console: Console,
) -> None:
    """Print the power of each claim by the number of seeds per cell, and the differences that decide it.

    Args:
        experiment: names the published numbers and the claims.
        runs: of its table.
        records: of these runs, from which the spread is estimated.
        sd: standard deviation of one run in percentage points, instead of that estimate.
        seeds: numbers of seeds per cell, in ascending order.
        tables: number of simulated tables for each of them.
        console: to print on.

    Raises:
        UsageError: the experiment has no claims or no published numbers, or no spread is known.
    """
    spec = experiment.table
    if not spec.claims or not spec.reference:
        raise UsageError(
            f"{experiment.name} has no published numbers or no claims: give table.reference and table.claims"
        )
    table = cells(records.with_their_runs(runs), records.results, spec.rows, spec.columns)
    spreads = Spreads.of(table) if sd is None else Spreads(Spread(sd, 1), None)
    if not spreads.pooled:
        raise UsageError("no cell has two converged runs, so their spread is unknown; give it, such as --sd 0.2")
    found = truths(table, read_reference(spec.reference, spec.rows, spec.columns), spreads)
    claims, missing = load_claims(spec.claims), left_out(experiment, table)
    cases = [(claim, [replace(truth, runs=number) for truth in found]) for claim in claims for number in seeds]
    steps = track(cases, "simulating tables", console=Console(stderr=True), transient=True)
    powers = iter([power(claim, case, missing, tables) for claim, case in steps])
    head = [Column("seeds per cell"), *(Column(f"{number:,}", justify="right") for number in seeds)]
    grid = Table(*head, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    named = 0
    for claim in claims:
        by_seeds = {number: next(powers) for number in seeds}
        shares = ("–" if one is None else f"{one.decided:.0f}" for one in by_seeds.values())
        grid.add_row(terminal_text(claim.text, "bold"), *shares)
        known = {number: one.not_significant for number, one in by_seeds.items() if one and number >= MIN_RUNS}
        for name in [name for name, often in next(iter(known.values()), {}).items() if often > OFTEN]:
            shares = (f"{100 - known[number].get(name, 0):.0f}" if number in known else "0" for number in seeds)
            grid.add_row(terminal_text(f"  {name}", "dim"), *(terminal_text(share, "dim") for share in shares))
            named += 1
    title = f"{experiment.name}: chance in % that a claim is decided if the cells differ as the published numbers do"
    source = spreads_text(spreads) if sd is None else f"The standard deviation of a run is {sd:g} points, as given."
    console.print(
        terminal_text(title, "bold"), terminal_text(f"{source} {tables:,} simulated tables.", "dim"), grid, sep="\n"
    )
    if named:
        hint = "Below a claim: the differences that decide it, with the chance that they are significant."
        console.print(terminal_text(hint, "dim"))
