"""The errors that users can mend: one line that names the culprit and the choices."""

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """Wrong input from the user. The command line prints it as one line and exits with code 2."""


def unknown(kind: str, name: object, choices: Iterable[str]) -> UsageError:
    """Build the error for a name that is not among the choices: `unknown init 'lsvu'; choose from: lsuv, …`."""
    known = list(choices)
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return UsageError(f"unknown {kind} {name!r}{hint}; choose from: {', '.join(known)}")
