"""The protocol behind a table: its one data set, the settings its runs share, and where a cell departs from them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from replicate.errors import UsageError
from replicate.report.text import display_name
from replicate.run import Run
from replicate.store.result import Result


@dataclass(frozen=True, slots=True)
class Protocol:
    """What a table's header names.

    Args:
        data_label: name of the data set for people.
        dataset: the data set as runs name it.
        fingerprint: sha256 of the data set's content.
        settings: field of Run -> the value of most cells; the table's axes and the seed are left out.
        seeds: of the runs asked for, in ascending order.
        classes: of the data set; None where no record says so.
    """

    data_label: str
    dataset: str
    fingerprint: str
    settings: Mapping[str, Any]
    seeds: tuple[int, ...]
    classes: int | None

    def texts(self) -> dict[str, str]:
        """The protocol for people: `schedule`, `preprocessing`, `network`, `precision`, and `summary` for captions."""
        value = {field.name: "(an axis of the table)" for field in fields(Run)}
        value |= {name: display_name(setting) for name, setting in self.settings.items()}
        templates = {
            "schedule": "{iterations} iterations of {batch_size} images; learning rate {lr}, times {lr_factor} at "
            "{milestones}; momentum {momentum}; weight decay {weight_decay}",
            "preprocessing": "{preprocessing}, times {input_scale}",
            "network": "{model}, width {width}",
            "precision": "{precision}",
            "summary": "{model} at width {width}, {iterations} iterations, {precision}",
        }
        texts = {name: template.format_map(value) for name, template in templates.items()}
        return {**texts, "summary": f"{self.data_label}, {texts['summary']}"}  # a label may hold braces

    def departures(self, run: Run) -> str:
        """The settings of a run that are not those of most cells: `momentum 0.5`; empty if there are none."""
        odd = {name: getattr(run, name) for name, value in self.settings.items() if getattr(run, name) != value}
        return ", ".join(f"{name} {display_name(value)}" for name, value in odd.items())


def protocol(runs: Sequence[Run], results: Iterable[Result], axes: Iterable[str]) -> Protocol:
    """Find what runs share.

    Args:
        runs: the runs of the table.
        results: their records.
        axes: the fields of Run that make the table's rows and columns.

    Raises:
        UsageError: the records were made on more than one data set.
    """
    made_on: dict[str, list[Result]] = {}
    for result in results:
        if result.fingerprint != "unknown":  # it failed before the data was read
            made_on.setdefault(result.fingerprint, []).append(result)
    if len(made_on) > 1:
        named = [f"{len(made)} on {made[0].data_label} ({mark})" for mark, made in made_on.items()]
        raise UsageError(f"a table holds one data set, but of these runs {' and '.join(named)}; use one --out for each")
    mark, made = next(iter(made_on.items()), ("unknown", []))
    names = [field.name for field in fields(Run) if field.name not in ("seed", *axes)]
    settings = {name: Counter(getattr(run, name) for run in runs).most_common(1)[0][0] for name in names}
    label = made[0].data_label if made else runs[0].dataset
    classes = next((result.classes for result in made if result.classes), None)
    return Protocol(label, runs[0].dataset, mark, settings, tuple(sorted({run.seed for run in runs})), classes)
