"""The commands that repeat the runs of a report, and of one cell."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class CommandLine:
    """How a report was asked for.

    Args:
        file: the experiment file, as given.
        settings: the words of `--set`.
        only: the words of `--only`.
    """

    file: Path
    settings: tuple[str, ...] = ()
    only: tuple[str, ...] = ()

    def whole(self) -> str:
        """The command that carries out all runs of the report."""
        return self._command(self.only)

    def cell(self, axes: tuple[str, str], place: tuple[object, object]) -> str:
        """The command that carries out the runs of one cell.

        Args:
            axes: the fields of Run that make the table's rows and columns.
            place: the cell's values of them.
        """
        fixed = [f"{axis}={_word(value)}" for axis, value in zip(axes, place, strict=True)]
        return self._command([*fixed, *(word for word in self.only if word.partition("=")[0] not in axes)])

    def _command(self, only: Sequence[str]) -> str:
        # folders above the file's own are nobody else's business
        file = Path(*self.file.parts[-2:]) if self.file.is_absolute() else self.file
        words = ["replicate", "matrix", str(file)]
        words += ["--only", *only] if only else []
        words += ["--set", *self.settings] if self.settings else []
        return shlex.join(words)


def _word(value: object) -> str:
    """A value as `--only` reads it."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
