"""The command line of a script: the parameters of its functions are the options, and their docstrings the help."""

import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Parameter


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


def run_app(app: App, words: Sequence[str] | None = None, errors: tuple[type[Exception], ...] = ()) -> int:
    """Carry out a command line. Wrong usage is printed as one sentence.

    Args:
        app: of the script.
        words: words after the script's name; None: those of this process.
        errors: what the script raises if it is used wrongly.

    Returns:
        The exit code: that of the command, 0 after `--help`, 2 for wrong usage.
    """
    given = sys.argv[1:] if words is None else words
    try:
        return app(given, exit_on_error=False, print_error=False, result_action="return_value") or 0
    except (CycloptsError, *errors) as error:
        print(f"{app.name[0]}: {error}", file=sys.stderr)
        return 2
