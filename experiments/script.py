"""The command line of a script: the parameters of its functions are the options, and their docstrings the help."""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cyclopts import App, CycloptsError, Parameter

from replicate.cli import checked_words
from replicate.errors import UsageError


def make_app(name: str, text: str | None) -> App:
    """Make the app of a script.

    Args:
        name: of the script, without its suffix.
        text: what `--help` shows above the options.
    """
    return App(
        name=name,
        help=text,
        version_flags=(),
        suppress_keyboard_interrupt=False,
        default_parameter=Parameter(
            consume_multiple=1, negative="", show_default=lambda value: None if value in ((), "") else value
        ),
    )


def make_folder(out: Path) -> None:
    """Make the output folder, and fail now rather than after the work if it cannot be written.

    Raises:
        UsageError: it cannot be made or written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise UsageError(f"cannot write to the output folder {out}: {error.strerror}; give another --out") from None


def run_app(app: App, words: Sequence[str] | None = None) -> int:
    """Carry out a command line. Wrong usage (`UsageError`) is printed as one sentence.

    Args:
        app: of the script.
        words: words after the script's name; None: those of this process.

    Returns:
        The exit code: that of the command, 0 after `--help`, 2 for wrong usage.
    """
    given = sys.argv[1:] if words is None else words
    try:
        return app(checked_words(given), exit_on_error=False, print_error=False, result_action="return_value") or 0
    except (CycloptsError, UsageError) as error:
        print(f"{app.name[0]}: {error}", file=sys.stderr)
        return 2
