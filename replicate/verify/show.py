"""The verdicts of a verification as a table for a terminal."""

from collections import Counter
from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from replicate.store.files import escape_control_chars
from replicate.verify.compare import DIFFERENT, IDENTICAL, WITHIN, Verdict

STYLES = {IDENTICAL: "green", WITHIN: "yellow", DIFFERENT: "red"}


def lay_out(verdicts: Sequence[Verdict]) -> Group:
    """Lay out a row a run, what differs below, once for all runs of which the same is said, and a line of totals."""
    table = Table(title="reruns compared with their records, test accuracy in %", title_justify="left")
    for head in ("run", "verdict"):
        table.add_column(head, no_wrap=True)
    for head in ("record", "rerun", "tolerance"):
        table.add_column(head, justify="right")
    said: dict[str, list[str]] = {}
    for one in verdicts:
        numbers = [_number(one.recorded), _number(one.rerun), _number(one.tolerance, "± ")]
        table.add_row(one.run_id, Text(one.word, STYLES[one.word]), *numbers)
        if text := _says(one):
            said.setdefault(text, []).append(one.run_id)
    counts = Counter(one.word for one in verdicts)
    totals = ", ".join(f"{counts[word]} {word}" for word in STYLES if counts[word])
    notes = [Text(f"{', '.join(names)}:\n{text}") for text, names in said.items()]
    return Group(table, *notes, f"{len(verdicts)} run{'s' * (len(verdicts) != 1)} verified: {totals}")


def _number(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{sign}{value:.2f}"


def _says(one: Verdict) -> str:
    parts = {"the result differs in": one.differs, "the bits may differ for": one.reasons}
    parts |= {"not recorded, so not compared": one.not_compared}
    lines = [f"  {name}: {escape_control_chars('; '.join(texts))}" for name, texts in parts.items() if texts]
    if one.word == DIFFERENT and not one.reasons:
        lines.append("  nothing recorded of the code and the machine says why")
    return "\n".join(lines)
