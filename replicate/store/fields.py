"""Types of the fields of files, with their bounds. A file may come from somebody else: everything in it is checked."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from replicate.store.files import escape_control_chars

MAX_LINE = 1000  # characters of a line
MAX_ERROR = 100_000  # characters of an error; its end says what was wrong
MAX_ENTRIES = 1000  # of a list or a mapping
MAX_DEPTH = 5  # of nested plain data
MAX_COUNT = 2**53  # beyond it a float64 is no longer exact
MAX_NUMBER = 1e39  # float32, in which losses are computed, ends at 3.4e38


def as_line(text: str) -> str:
    """Make a line of text from elsewhere, such as a version or a name, for a field of type Line."""
    return escape_control_chars(text[:MAX_LINE])[:MAX_LINE]


def _one_line(text: str) -> str:
    if len(text) > MAX_LINE or not text.isprintable():
        raise ValueError("it is not a line of text")
    return text


def _text(text: str) -> str:
    # not by pydantic, whose strings with a maximum may not hold half of a surrogate pair, as names of files may
    if len(text) > MAX_ERROR:
        raise ValueError("it is too long")
    return text


def check_digest(text: str) -> str:
    """Return a sha256 in hexadecimal digits; a ValueError if it is something else."""
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise ValueError("it does not have 64 hexadecimal digits")
    return text


def plain(value: Any, depth: int = MAX_DEPTH) -> Any:
    """Check what JSON may hold, with the bounds of the types below at every depth.

    Raises:
        ValueError: it is something else, or out of bounds.
    """
    match value:
        case list() | dict() if not depth or len(value) > MAX_ENTRIES:
            raise ValueError("it is too long or nested too deeply")
        case list():
            for one in value:
                plain(one, depth - 1)
        case dict():
            for key, one in value.items():
                if not isinstance(key, str):
                    raise ValueError("a key is not text")
                plain(key)
                plain(one, depth - 1)
        case str():
            _one_line(value)
        case None | bool():
            pass
        case int() if abs(value) <= MAX_COUNT:
            pass
        case float() if abs(value) <= MAX_NUMBER:
            pass
        case int() | float():
            raise ValueError("a number is out of range")
        case _:
            raise ValueError("it is not plain data")
    return value


Line = Annotated[str, AfterValidator(_one_line)]  # shown in tables and on terminals
Text = Annotated[str, AfterValidator(_text)]  # of any lines; escaped wherever it is shown
Digest = Annotated[str, AfterValidator(check_digest)]  # sha256
Fingerprint = Annotated[str, AfterValidator(lambda text: text if text == "unknown" else check_digest(text))]
Number = Annotated[float, Field(ge=-MAX_NUMBER, le=MAX_NUMBER)]
Size = Annotated[float, Field(ge=0, le=MAX_NUMBER)]
Accuracy = Annotated[float, Field(ge=0, le=100)]  # in %
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Plain = Annotated[dict[str, Any], AfterValidator(plain)]  # nested plain data
