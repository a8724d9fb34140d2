"""Values of a table's axes, and moments of training, titled for people."""

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


def moment_text(iteration: int) -> str:
    """A moment of training for people: `after initialisation`, `after 1,000 iterations`."""
    return f"after {iteration:,} iterations" if iteration else "after initialisation"
