"""A table as Markdown, and the short texts of its cells, which LaTeX shares."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from replicate.report.axes import title
from replicate.report.claims import Judgement
from replicate.report.published import JUDGED, Published, expected_outside
from replicate.report.statistics import Cell, Interval
from replicate.store.files import escape_control_chars

if TYPE_CHECKING:
    from replicate.report.table import Entry, Table

MOST_LINES = 10  # of a list of single runs
LONGEST = 1000  # characters of a text from a file
SPECIAL = "\\`*_[]<&#~$"
LEGEND = (
    "± is the standard deviation of one run over the converged seeds (n of them); the 95 % interval of the mean is in "
    "the list of cells.",
    "n/c (k/m): k of m finished runs did not converge, which is more than half. –: not run. … k/m: k of m runs have "
    "finished so far.",
)


def cell_text(cell: Cell | None) -> str:
    """A cell in short: `93.9 ± 0.2 (n=4, 1 n/c)`, `n/c (5/5)`, `–`; with `… 2/5` while runs are still to finish."""
    if cell is None:
        return "–"
    errors = f"{cell.errors} error{'s' * (cell.errors > 1)}" if cell.errors else ""
    progress = f"… {cell.finished}/{cell.expected}" if cell.finished < cell.expected else ""
    if cell.finished == 0:
        return f"{progress} ({errors})" if errors else progress
    if cell.nc:
        short = f"n/c ({cell.failed}/{cell.finished}{', ' + errors if errors else ''})"
    else:
        spread = "" if cell.sd is None else f" ± {cell.sd:.1f}"
        counts = [f"n={cell.converged}", f"{cell.failed} n/c" if cell.failed else "", errors]
        short = f"{cell.mean:.1f}{spread} ({', '.join(filter(None, counts))})"
    return f"{short} {progress}".rstrip()


def published_text(entry: "Entry") -> str:
    """The paper's number and the verdict on it: `93.94 (consistent)`, `n/c (n = 1 < 3)`, `–`."""
    if entry.published is None:
        return "–"
    said = entry.verdict
    word = said.reason if said.word == "not judged" else said.word
    return f"{number_text(entry.published)} ({word})" if word else number_text(entry.published)


def number_text(value: Published | None) -> str:
    """A published number with the paper's two decimals, `n/c`, or a dash."""
    return "–" if value is None else value if isinstance(value, str) else f"{value:.2f}"


def incomparable_lines(table: "Table") -> list[str]:
    """Why cells do not compare with the published numbers: one sentence a reason, naming the cells unless it is all."""
    published = [entry for entry in table.entries.values() if entry.cell and entry.verdict.word]
    cells_by_reason: dict[str, list[str]] = {}
    for entry in published:
        if entry.cell and entry.verdict.word == "not comparable":
            cells_by_reason.setdefault(entry.verdict.reason, []).append(entry.cell.name)
    lines = []
    for reason, names in cells_by_reason.items():
        which = "" if len(names) == len(published) else f" ({', '.join(names)})"
        lines.append(f"Not comparable with the paper{which}: {reason}.")
    return lines


def escape(text: str) -> str:
    """Make text from a file safe to stand in Markdown as it is: no markup, no HTML, nothing that a terminal obeys."""
    return "".join(f"\\{one}" if one in SPECIAL else one for one in escape_control_chars(text[:LONGEST]))


def letter(index: int) -> str:
    """The mark of a footnote: a, b, c, …"""
    return chr(ord("a") + index) if index < 26 else str(index + 1)


def effect_texts(judgement: Judgement) -> tuple[str, str]:
    """The effect behind a claim's verdict, and its interval: `+1.47 points: LSUV × ReLU − …`, `+0.20 to +2.74`."""
    effect = judgement.effect
    if effect is None:
        return "", ""
    share = effect.unit == "%"
    value = f"{effect.value:.1f}" if share else signed(effect.value)
    return f"{value} {effect.unit}: {effect.label}", interval_text(effect.interval, with_sign=not share)


def markdown(table: "Table") -> str:
    """Lay out the whole report."""
    parts = [f"# {table.name}: test accuracy in %", _header(table), _grid(table), _legend(table)]
    parts += ["## Cells", _cells(table)]
    if table.judgements:
        note = "Each claim compares our own cells, on the data and the schedule named above."
        corrected = "Differences are Welch's with 95 % intervals; verdicts hold after Holm's correction at 5 %."
        parts += ["## Claims of the paper", f"{note} {corrected}", _claims(table.judgements)]
    parts += ["## Runs", _counts(table)]
    return "\n\n".join(parts) + "\n"


def _header(table: "Table") -> str:
    p = table.protocol
    commits = sorted({f"{escape(r.commit[:12])}{' with changes' if r.dirty else ''}" for r in table.results})
    lines = {
        "Data set": f"{escape(p.data_label)} (`{p.dataset}`, fingerprint `{p.fingerprint[:16]}`)",
        "Preprocessing": p.preprocessing(),
        "Schedule": p.schedule(),
        "Precision": p.precision(),
        "Network": p.network(),
        "Seeds": ", ".join(map(str, p.seeds)),
        "Code": f"commit {', '.join(commits)}",
        "Device": ", ".join(sorted({escape(r.device) for r in table.results})),
    }
    return _bullets(f"{key}: {text}" for key, text in lines.items())


def _grid(table: "Table") -> str:
    rows = [["", *map(title, table.columns)]]
    for row in table.rows:
        entries = [table.entries[row, column] for column in table.columns]
        marks = ["".join(f" [{letter(index)}]" for index in entry.notes) for entry in entries]
        texts = [cell_text(entry.cell) + mark for entry, mark in zip(entries, marks, strict=True)]
        rows.append([f"**{title(row)}**", *texts])
        if table.reference:
            rows.append(["paper", *map(published_text, entries)])
    return _pipe_table(rows)


def _legend(table: "Table") -> str:
    lines = list(LEGEND)
    verdicts = [entry.verdict for entry in table.entries.values()]
    if any(said.word in JUDGED for said in verdicts):
        spread = f"{table.pooled.sd:.2f} with {table.pooled.df} degrees of freedom" if table.pooled else "none"
        lines.append(
            f"Under ours stands the paper's number: consistent if it lies in the 95 % prediction interval of one more "
            f"run of ours (pooled standard deviation: {spread}), else ours is higher or lower. By chance alone one "
            f"expects {expected_outside(verdicts):.1f} of the numbers outside."
        )
    lines += incomparable_lines(table)
    lines += [f"[{letter(index)}] {note}" for index, note in enumerate(table.footnotes)]
    return _bullets(lines)


def _cells(table: "Table") -> str:
    rows = [
        [
            "cell",
            "finished",
            "converged",
            "mean",
            "SD",
            "95 % interval",
            "paper",
            "ours − paper",
            "± prediction",
            "verdict",
        ]
    ]
    for entry in table.entries.values():
        if (cell := entry.cell) is None:
            continue
        said = entry.verdict
        if not table.reference:
            word = ""
        else:
            word = f"{said.word}: {said.reason}" if said.word == "not judged" else said.word or said.reason
        rows.append(
            [
                cell.name,
                f"{cell.finished}/{cell.expected}",
                str(cell.converged),
                decimal(cell.mean),
                decimal(cell.sd),
                interval_text(cell.interval),
                number_text(entry.published),
                signed(said.difference),
                decimal(said.half_width),
                word,
            ]
        )
    return _pipe_table(rows)


def _claims(judgements: Sequence[Judgement]) -> str:
    rows = [["claim", "verdict", "effect", "95 % interval", "reason"]]
    for said in judgements:
        rows.append([escape(said.claim.text), f"**{said.verdict}**", *effect_texts(said), said.reason])
    return _pipe_table(rows)


def _counts(table: "Table") -> str:
    found = [entry.cell for entry in table.entries.values() if entry.cell]
    expected, finished = sum(cell.expected for cell in found), sum(cell.finished for cell in found)
    converged, diverged = sum(cell.converged for cell in found), sum(cell.diverged for cell in found)
    errors = {r.run.run_id: r for r in table.results if r.status == "error"}
    lines = [
        f"{finished} of {expected} runs have finished: {converged} converged, {finished - converged} did not "
        f"({diverged} of them met a non-finite loss).",
        f"{len(table.missing)} runs have no readable record, {len(errors)} ended in an error.",
        f"{table.others} other records lie in the output folder and are not of this table.",
    ]
    crashed = [f"Error: `{run_id}`: {escape(last_line(r.error))}" for run_id, r in errors.items()]
    unread = [f"Unreadable: {escape(reason)}" for reason in table.bad.values()]
    return _bullets([*lines, *_shortened(crashed), *_shortened(unread)])


def last_line(traceback: str | None) -> str:
    """The line of a traceback that names the exception."""
    return escape_control_chars(((traceback or "").strip().splitlines() or ["no traceback"])[-1].strip())


def _shortened(lines: Sequence[str]) -> list[str]:
    more = len(lines) - MOST_LINES
    return [*lines[:MOST_LINES], *([f"… and {more} more."] if more > 0 else [])]


def decimal(value: float | None) -> str:
    """A number to two decimals; nothing for None."""
    return "" if value is None else f"{value:.2f}"


def signed(value: float | None) -> str:
    """A difference to two decimals with its sign; nothing for None."""
    return "" if value is None else f"{value:+.2f}".replace("-", "−")


def interval_text(interval: Interval | None, with_sign: bool = False) -> str:
    """Both ends of an interval; nothing for None."""
    text = signed if with_sign else decimal
    return f"{text(interval.low)} to {text(interval.high)}" if interval else ""


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _pipe_table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns also line up as plain text; the first row is its head."""
    clean = [[text.replace("|", "\\|").replace("\n", " ") for text in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*clean, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in clean]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])
