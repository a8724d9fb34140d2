"""The findings as text for a terminal."""

from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from replicate.doctor.finding import Finding
from replicate.store.files import escape_control_chars

MARKS = {True: ("✓", "green"), False: ("✗", "red"), None: ("·", "dim")}


def show(findings: Iterable[Finding], console: Console) -> list[Finding]:
    """Print each finding as it comes, under its topic; return them."""
    seen: list[Finding] = []
    for one in findings:
        if not seen or seen[-1].topic != one.topic:
            console.print(Text(one.topic, "bold"))
        mark, style = MARKS[one.good]
        # no wrapping but the terminal's: long lines are paths and reasons, which people copy
        console.print(Text(f"  {mark} ", style) + Text(escape_control_chars(one.text)), soft_wrap=True)
        if one.mend:
            console.print(Text(f"    → {escape_control_chars(one.mend)}", "yellow"), soft_wrap=True)
        seen.append(one)
    return seen


def verdict(findings: Iterable[Finding]) -> tuple[int, str]:
    """Sum up: the exit code (0 if something can train), and a sentence."""
    trained = [one for one in findings if one.topic == "training"]
    works = [one.text.partition(":")[0] for one in trained if one.good]
    if not works:
        return 1, "nothing here can train; see ✗ above"
    broken = [one.text.partition(":")[0] for one in trained if not one.good]
    return 0, f"ready to train on {', '.join(works)}" + (f"; not on {', '.join(broken)}" if broken else "")
