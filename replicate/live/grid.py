"""Draws the state of a matrix for a terminal: totals, the grid, and a line for each run under way."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from replicate.experiment import Experiment
from replicate.live.board import Board, UnderWay
from replicate.live.words import ELSEWHERE, HERE, STYLES, cell_lines, duration, legend, totals
from replicate.report.text import display_name
from replicate.store.files import escape_control_chars

WIDTH = 10  # of a column at least, where there is room: `3/5 92.1 %`, so that the grid stays still while it fills
NUMBERS = 40  # of the three columns of numbers in the list of runs, about
LABEL = 15  # of the first column, wrapped: `OrthoNorm-MSRA`


class Grid:
    """What rich draws of a board. No markup anywhere: a folder named [bold] is a name.

    Args:
        experiment: gives the names of the axes.
        board: what to draw.
        head: the title.
        notes: more lines below the totals.
        fits: draw no more than the terminal is high: of the runs under way so many as there is room for.
    """

    def __init__(
        self, experiment: Experiment, board: Board, head: str, notes: Sequence[str] = (), fits: bool = True
    ) -> None:
        self._axes = experiment.table.rows, experiment.table.columns
        self._board, self._head, self._notes, self._fits = board, head, notes, fits

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        above: list[RenderableType] = [
            Text(escape_control_chars(self._head), style="bold", no_wrap=True, overflow="ellipsis"),
            *(Text(escape_control_chars(line)) for line in (totals(self._board), *self._notes)),
            self._cells(options.max_width),
        ]
        used = sum(len(console.render_lines(part, options, pad=False)) for part in above)
        yield from above
        going = self._board.under_way
        # One line for the head of the list, one for the legend, one for the cursor.
        room = console.size.height - used - 3 if self._fits else len(going)
        if going and room > 0:
            shown = going if len(going) <= room else going[: room - 1]
            yield _runs(shown, options.max_width)
            if len(shown) < len(going):
                yield Text(f"… and {len(going) - len(shown)} more under way", style="dim")
        if not self._fits or room >= 0:
            yield Text(legend(self._board), style="dim", no_wrap=True, overflow="ellipsis")

    def _cells(self, room: int) -> Table:
        board = self._board
        steady = len(board.columns) * (WIDTH + 1) + LABEL <= room
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        table.add_column(Text(self._axes[0]))
        for column in board.columns:
            table.add_column(Text(escape_control_chars(display_name(column))), min_width=WIDTH if steady else None)
        for row in board.rows:
            cells = [board.cells.get((row, column)) for column in board.columns]
            texts = [Text("–") if cell is None else _lines(cell_lines(cell)) for cell in cells]
            table.add_row(Text(escape_control_chars(display_name(row))), *texts)
        return table


def _lines(lines: Iterable[tuple[str, str]]) -> Text:
    return Text("\n").join(Text(text, style=STYLES[style]) for text, style in lines)


def _runs(going: Sequence[UnderWay], room: int) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    # What must shrink on a narrow terminal is the place, at the right, and not the run's name.
    longest = max(len(one.run.run_id) for one in going) + len(f"{HERE} ")
    table.add_column("under way", min_width=min(longest, room - NUMBERS))
    for name in ("iteration", "accuracy", "left"):
        table.add_column(name, justify="right")
    table.add_column("on")
    for one in going:
        progress = one.progress
        style = STYLES["elsewhere" if progress.elsewhere else "here"]
        place = f"{progress.device}, {progress.holder}" if progress.holder else progress.device
        texts = (
            f"{ELSEWHERE if progress.elsewhere else HERE} {one.run.run_id}",
            f"{progress.iteration:,} of {one.run.iterations:,}",
            "" if progress.accuracy is None else f"{progress.accuracy:.1f} %",
            "" if one.left is None else duration(one.left),
            place,
        )
        cells = [Text(escape_control_chars(text), no_wrap=True, overflow="ellipsis") for text in texts]
        cells[0].stylize(style)
        table.add_row(*cells)
    return table
