"""Which failed runs are tried again in the same call, and on how full a device."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from replicate.errors import MEMORY
from replicate.matrix.slots import Slot


@dataclass(frozen=True, slots=True)
class Again:
    """A run is to be tried again.

    Args:
        why: for people.
        fewer: whether the slot that it had is to be given up.
    """

    why: str
    fewer: bool = False


class Retries:
    """Decides what becomes of failed runs.

    What may be passing is tried again, at most `most` times a run. Where several runs share a GPU and one runs out of
    memory, it is tried again too, without being counted: the fault is the sharing, and the GPU takes one run less from
    then on. So no run can be tried for ever: each such try shares with fewer.

    Args:
        most: retries of a run.
        slots: all that there are.
    """

    def __init__(self, most: int, slots: Iterable[Slot]) -> None:
        self._most = most
        self._tries: Counter[str] = Counter()
        self._sharing = Counter(slot.name for slot in slots)

    def sharing(self, slot: Slot) -> int:
        """Runs at a time on the slot's device, as of now."""
        return self._sharing[slot.name]

    def judge(self, run_id: str, kind: str | None, slot: Slot | None, shared: int) -> Again | None:
        """Decide whether a run is tried again.

        Args:
            run_id: of the run that failed.
            kind: one of passing.KINDS; None: the run's own fault.
            slot: where it was; None: in another command.
            shared: runs at a time on that device when it was started.
        """
        if kind == MEMORY and slot is not None and slot.device == "cuda" and shared > 1:
            if fewer := shared == self.sharing(slot):  # else another has made room since
                self._sharing[slot.name] -= 1
            at_once = f"at most {self.sharing(slot)} at a time there from now on"
            return Again(f"{run_id} ran out of memory on {slot.name}, and is run again, {at_once}", fewer)
        if kind is None or self._tries[run_id] >= self._most:
            return None
        self._tries[run_id] += 1
        number = f"retry {self._tries[run_id]} of {self._most}"
        return Again(f"{run_id} failed by what may pass ({kind}), and is run again, {number}")
