"""Reads a command line as the command would, without carrying it out."""

from typing import Any

from replicate.cli import app


def parse(words: list[str]) -> tuple[str, dict[str, Any]]:
    """Return the name of a command's function and its arguments.

    Raises:
        CycloptsError: the command line is wrong.
    """
    command, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    bound.apply_defaults()
    return command.__name__, bound.arguments
