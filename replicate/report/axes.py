"""Values of a table's axes: checked when they are read from a file, and titled for people."""

from typing import Any

from replicate.errors import unknown
from replicate.run import CHOICES, coerce

# As the paper and its field write them. A value that is not here stands as it is.
TITLES = {
    "lsuv": "LSUV",
    "orthonormal": "OrthoNorm",
    "orthonormal_msra": "OrthoNorm-MSRA scaled",
    "xavier": "Xavier",
    "msra": "MSRA",
    "relu": "ReLU",
    "vlrelu": "VLReLU",
}


def title(value: object) -> str:
    """Name the value of a Run's field for people: `LSUV`, `40,000 / 60,000`, `0.25`, `none`."""
    if isinstance(value, tuple):
        return " / ".join(map(title, value)) or "none"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    return TITLES.get(str(value), str(value))


def checked(field: str, value: object) -> Any:
    """Coerce a value that a file gives for a field of Run, and check it against the known names.

    Raises:
        UsageError: unknown field, wrong type, or a name that is not among the field's choices.
    """
    value = coerce(field, value)
    if field in CHOICES and value not in CHOICES[field]:
        raise unknown(field, value, CHOICES[field])
    return value
