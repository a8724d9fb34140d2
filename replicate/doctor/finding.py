"""A finding of the doctor's, and a few as text."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Args:
        topic: such as `devices`.
        text: what was found.
        good: True: it works; False: it does not; None: a mere fact.
        mend: how to mend it; empty where there is nothing to mend.
    """

    topic: str
    text: str
    good: bool | None = None
    mend: str = ""


def gib(size: float) -> str:
    """Bytes for people."""
    return f"{size / 2**30:,.1f} GiB"
