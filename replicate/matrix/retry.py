"""Decides which failed runs are retried in the same call, and how many runs share a device."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from replicate.errors import MEMORY
from replicate.matrix.slots import Slot


@dataclass(frozen=True, slots=True)
class Again:
    """A run is to be retried.

    Args:
        why: for people.
        fewer: whether its slot is to be closed.
    """

    why: str
    fewer: bool = False


class Retries:
    """Decides what becomes of failed runs.

    A run that fails with a transient error is retried at most `most` times. If several runs share a GPU and one of them
    runs out of memory, that run is retried as well and the retry is not counted: the cause is the sharing, and from
    then on the GPU takes one run less. This ends, because each such retry shares the GPU with fewer runs.

    Args:
        most: retries per run.
        slots: all slots of the matrix.
    """

    def __init__(self, most: int, slots: Iterable[Slot]) -> None:
        self._most = most
        self._tries: Counter[str] = Counter()
        self._sharing = Counter(slot.name for slot in slots)

    def sharing(self, slot: Slot) -> int:
        """How many runs share the slot's device now."""
        return self._sharing[slot.name]

    def judge(self, run_id: str, kind: str | None, slot: Slot | None, shared: int) -> Again | None:
        """Decide whether a run is retried.

        Args:
            run_id: of the run that failed.
            kind: of the transient error, one of errors.KINDS; None: the error is not transient.
            slot: where it ran; None: in another command.
            shared: how many runs shared that device when it started.
        """
        if kind == MEMORY and slot is not None and slot.device == "cuda" and shared > 1:
            if fewer := shared == self.sharing(slot):  # else another has made room since
                self._sharing[slot.name] -= 1
            at_once = f"from now on, at most {self.sharing(slot)} at a time run there"
            return Again(f"{run_id} ran out of memory on {slot.name} and is retried; {at_once}", fewer)
        if kind is None or self._tries[run_id] >= self._most:
            return None
        self._tries[run_id] += 1
        number = f"retry {self._tries[run_id]} of {self._most}"
        return Again(f"{run_id} failed with a transient error ({kind}); {number}")
