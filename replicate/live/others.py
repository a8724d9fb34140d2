"""The other records of an output folder: what settings tell them from the runs that a command asks for."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from replicate.report.text import count
from replicate.run import Run
from replicate.store.run_folder import recorded
from replicate.yamlfile import assignment

FEW = 4  # settings that are worth naming with their values; records that differ in more are of another experiment


class Others(NamedTuple):
    """Records that differ from the runs asked for in the same settings.

    Args:
        number: of records.
        settings: field of Run -> the values of these records, none of which the runs asked for have. It is empty if the
            runs asked for have every value, but not in this combination.
    """

    number: int
    settings: dict[str, list[Any]]

    @property
    def words(self) -> list[str]:
        """The settings as words for `--set`: `dataset=folder:jpeg`, `seed=[3,4]`."""
        given = dict(self.settings)
        if "plugin" in given:  # that a run has none follows from its init, and a table holds one
            given["plugin"] = [value for value in given["plugin"] if value is not None][:1]
        return [assignment(name, some[0] if len(some) == 1 else some) for name, some in given.items() if some]

    def __str__(self) -> str:
        records = count(self.number, "record")
        if not self.settings:
            return f"{records} of other combinations of these settings"
        if len(self.settings) > FEW:
            return f"{records} that differ{'s' * (self.number == 1)} in {', '.join(self.settings)}"
        return f"{records} with {' '.join(self.words)}"


def other_records(out: Path, runs: Sequence[Run], finished: bool = False) -> list[Others]:
    """Group the readable records of an output folder that belong to none of these runs. The largest group is first.

    Args:
        out: the output folder; it need not exist.
        runs: that were asked for.
        finished: whether to leave out the records of runs that ended in an error.
    """
    asked = {field.name: {getattr(run, field.name) for run in runs} for field in fields(Run)}
    run_ids = {run.run_id for run in runs}
    groups: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for folder in recorded(out):
        if folder.run_id not in run_ids and (result := folder.record()) and (result.final or not finished):
            names = tuple(name for name, known in asked.items() if getattr(result.run, name) not in known)
            groups[names].append(result.run)
    found = []
    for names, group in groups.items():
        values = {name: {getattr(run, name) for run in group} for name in names}
        in_order = {name: sorted(some, key=lambda value: (value is not None, value)) for name, some in values.items()}
        found.append(Others(len(group), in_order))
    return sorted(found, key=lambda others: -others.number)
