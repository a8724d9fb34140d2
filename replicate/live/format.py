"""The state of a matrix as text: totals, the grid of cells, and a list of running runs. Marks differ by their shape."""

from collections.abc import Sequence
from statistics import fmean

from rich import box
from rich.console import Group
from rich.table import Column, Table
from rich.text import Text

from replicate.live.state import CellProgress, MatrixState
from replicate.report.cell import axis_values
from replicate.report.text import count, display_name, terminal_text

HERE, ELSEWHERE = "▸", "▹"
COLOURS = {HERE: "cyan", ELSEWHERE: "blue"}
NOT_CHOSEN, NO_CELL = "·", "–"
EMPTY = {NOT_CHOSEN: "not among the chosen runs", NO_CELL: "not in the experiment"}
LEGEND = (
    f"{HERE} running, {ELSEWHERE} running elsewhere; 3/5: 3 of 5 done; %: progress or mean accuracy; "
    "n/c: did not converge; diverged: the loss was not finite"
)


def draw(state: MatrixState, title: str, notes: Sequence[str] = ()) -> Group:
    """Lay out the state of a matrix for a terminal. No markup is interpreted: a folder may be called [bold].

    Args:
        state: of the matrix.
        title: the first line.
        notes: lines below the totals.
    """
    head = [terminal_text(title, "bold"), *map(terminal_text, (totals(state), *notes))]
    grid, legend = _grid(state)
    for text in (*head, legend):
        text.no_wrap, text.overflow = False, "fold"  # also while a line that is not wrapped is printed above
    return Group(*head, grid, legend, *([_running_runs(state)] if state.running else []))


def totals(state: MatrixState) -> str:
    """All runs in one line: `115 runs: 43 done, 1 error, 8 running, 63 waiting; 900 images/s; 14 h 20 min left`."""
    total = state.total
    parts = [f"{total.finished} done"]
    parts += [count(total.errors, "error")] if total.errors else []
    parts += [f"{number} {word}" for word, number in (("running", total.running), ("waiting", total.waiting)) if number]
    speed = "" if state.images_per_second is None else f"; {state.images_per_second:,.0f} images/s"
    left = "" if state.total_seconds_left is None else f"; {duration(state.total_seconds_left)} left"
    return f"{count(total.expected, 'run')}: {', '.join(parts)}{speed}{left}"


def duration(seconds: float) -> str:
    """A length of time, as exact as an estimate: `40 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if (minutes := round(seconds / 60)) < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 36 else f"{hours // 24} d {hours % 24} h"


def cell_text(cell: CellProgress) -> Text:
    """A cell as coloured lines: `3/5 92.1 %`, `1 n/c`, `▸ 41 %`, `1 error`."""
    lines = []
    if cell.nc:
        lines.append(("diverged" if cell.diverged == cell.failed else "n/c", "yellow"))
    elif cell.finished:
        lines.append((f"{cell.mean:.1f} %", "green"))
        lines += [(f"{cell.not_converged} n/c", "yellow")] if cell.not_converged else []
        lines += [(f"{cell.diverged} diverged", "yellow")] if cell.diverged else []
    for mark, shares in ((HERE, cell.here), (ELSEWHERE, cell.elsewhere)):
        if shares:
            several = f"×{len(shares)}" if len(shares) > 1 else ""
            lines.append((f"{mark}{several} {100 * fmean(shares):.0f} %", COLOURS[mark]))
    if cell.errors:
        lines.append(("error" if cell.expected == 1 else count(cell.errors, "error"), "bold red"))
    if cell.expected > 1:
        first, colour = lines[0] if lines else ("", "dim")
        lines[:1] = [(f"{cell.finished}/{cell.expected} {first}".rstrip(), colour)]
    return Text("\n").join(Text(*line) for line in lines or [("waiting", "dim")])


def _grid(state: MatrixState) -> tuple[Table, Text]:
    """Lay out the cells in the order of the experiment file. Return with them the legend."""
    spec, runs = state.experiment.table, state.runs.values()
    rows, columns = (axis_values(state.experiment, runs, axis) for axis in (spec.rows, spec.columns))
    # At least as wide as `3/5 92.1 %`, or as `diverged`, so that the columns do not move while they fill
    width = 10 if any(cell.expected > 1 for cell in state.cells.values()) else 8
    names = [spec.rows, *(display_name(column).ljust(width) for column in columns)]
    head = [Column(terminal_text(name), overflow="fold") for name in names]
    table = Table(*head, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)

    def text(row: object, column: object) -> Text:
        if cell := state.cells.get((row, column)):
            return cell_text(cell)
        return Text(NOT_CHOSEN, "dim") if state.experiment.has_cell(row, column) else Text(NO_CELL)

    texts = {row: [text(row, column) for column in columns] for row in rows}
    for row, cells in texts.items():
        table.add_row(terminal_text(display_name(row)), *cells)
    shown = {drawn.plain for cells in texts.values() for drawn in cells}
    signs = [f"{sign}: {meaning}" for sign, meaning in EMPTY.items() if sign in shown]
    return table, Text("; ".join([LEGEND, *signs]), "dim")


def _running_runs(state: MatrixState) -> Table:
    numbers = [Column(name, justify="right", no_wrap=True) for name in ("iteration", "accuracy", "left")]
    head = [Column("running", no_wrap=True), *numbers, Column("on")]
    table = Table(*head, box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for run_id, one in state.running.items():
        mark = ELSEWHERE if one.elsewhere else HERE
        iterations = terminal_text(one.stage or f"{one.iteration:,} of {one.iterations:,}")
        accuracy = "" if one.accuracy is None else f"{one.accuracy:.1f} %"
        left = duration(state.seconds_left[run_id]) if run_id in state.seconds_left else ""
        place = terminal_text(", ".join(filter(None, (one.device, one.holder))))
        place.no_wrap = True  # on a narrow terminal this column is cut, not the name of the run
        table.add_row(terminal_text(f"{mark} {run_id}", COLOURS[mark]), iterations, accuracy, left, place)
    return table
