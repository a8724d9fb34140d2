"""The state of a matrix in words: a cell, the totals, a length of time. Marks differ by shape, not by colour alone."""

from replicate.live.board import Board, CellProgress
from replicate.report.text import count

HERE, ELSEWHERE = "▸", "▹"
STYLES = {"done": "green", "n/c": "yellow", "error": "bold red", "here": "cyan", "elsewhere": "blue", "waiting": "dim"}


def cell_lines(cell: CellProgress) -> list[tuple[str, str]]:
    """A cell as lines, each with the name of its style: `3/5 92.1 %`, `1 n/c`, `▸ 41 %`, `1 error`."""
    lines = [_done(cell)] if cell.finished else []
    if not cell.nc:
        lines += [(f"{cell.not_converged} n/c", "n/c")] if cell.not_converged else []
        lines += [(f"{cell.diverged} diverged", "n/c")] if cell.diverged else []
    for mark, shares, style in ((HERE, cell.here, "here"), (ELSEWHERE, cell.elsewhere, "elsewhere")):
        if shares:
            several = f"×{len(shares)}" if len(shares) > 1 else ""
            lines.append((f"{mark}{several} {100 * sum(shares) / len(shares):.0f} %", style))
    if cell.errors:
        lines.append(("error" if cell.expected == 1 else count(cell.errors, "error"), "error"))
    if cell.expected == 1:
        return lines or [("waiting", "waiting")]
    if cell.finished:
        return lines
    nothing = f"0/{cell.expected}"
    return [(f"{nothing} {lines[0][0]}", lines[0][1]), *lines[1:]] if lines else [(nothing, "waiting")]


def _done(cell: CellProgress) -> tuple[str, str]:
    if cell.nc:
        word, style = "diverged" if cell.diverged == cell.failed else "n/c", "n/c"
    else:
        word, style = f"{cell.mean:.1f} %", "done"
    return word if cell.expected == 1 else f"{cell.finished}/{cell.expected} {word}", style


def totals(board: Board) -> str:
    """Tell of all runs, in one line: `115 runs: 43 done, 1 error, 8 running, 63 waiting; 900 images/s; 14 h left`."""
    whole = board.whole
    parts = [f"{whole.finished} done"]
    parts += [count(whole.errors, "error")] if whole.errors else []
    parts += [f"{whole.running} running"] if whole.running else []
    parts += [f"{whole.waiting} waiting"] if whole.waiting else []
    speed = "" if board.images_per_second is None else f"; {board.images_per_second:,.0f} images/s"
    left = "" if board.left is None else f"; {duration(board.left)} left"
    return f"{count(whole.expected, 'run')}: {', '.join(parts)}{speed}{left}"


def legend(board: Board) -> str:
    """Explain the marks that a board has."""
    marks = [f"{HERE} running"] if board.whole.here else []
    marks += [f"{ELSEWHERE} {'running ' * (not marks)}by another command"] if board.whole.elsewhere else []
    several = any(cell.expected > 1 for cell in board.cells.values())
    parts = [f"{', '.join(marks)}: how far"] if marks else []
    parts += ["3/5: done"] if several else []
    return "; ".join([*parts, f"%: {'mean ' * several}test accuracy"])


def duration(seconds: float) -> str:
    """A length of time with the exactness of a forecast: `40 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
    minutes = round(seconds / 60)
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 36 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"
