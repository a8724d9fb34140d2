"""Values and numbers as text, the same in tables, figures, the page and the terminal."""

from collections.abc import Sequence

from rich.text import Text

from replicate.store.files import escape_control_chars

# As the paper and its field write them. Other values are shown as they are.
DISPLAY_NAMES = {
    "lsuv": "LSUV",
    "orthonormal": "OrthoNorm",
    "orthonormal_msra": "OrthoNorm-MSRA scaled",
    "xavier": "Xavier",
    "msra": "MSRA",
    "small_gaussian": "Gaussian 0.01",
    "large_gaussian": "Gaussian 0.5",
    "torch_default": "PyTorch default",
    "xavier_uniform": "Xavier (both fans), uniform",
    "xavier_normal": "Xavier (both fans), normal",
    "kaiming_uniform_fan_in": "Kaiming (fan_in), uniform",
    "kaiming_normal_fan_in": "Kaiming (fan_in), normal",
    "kaiming_uniform_fan_out": "Kaiming (fan_out), uniform",
    "kaiming_normal_fan_out": "Kaiming (fan_out), normal",
    "delta_orthogonal": "delta-orthogonal",
    "random_walk": "random walk",
    "maxout_normal": "maxout rule",
    "krahenbuhl": "Krähenbühl",
    "fixup": "Fixup",
    "metainit": "MetaInit",
    "autoinit": "AutoInit",
    "relu": "ReLU",
    "vlrelu": "VLReLU",
    "leaky_relu": "Leaky ReLU 0.01",
    "leaky_relu_0.1": "Leaky ReLU 0.1",
    "prelu": "PReLU",
    "elu": "ELU",
    "selu": "SELU",
    "silu": "SiLU",
    "gelu": "GELU",
    "sgd": "SGD",
    "nesterov": "Nesterov's SGD",
    "rmsprop": "RMSprop",
    "adam": "Adam",
}


def display_name(value: object) -> str:
    """Show the value of a field of a Run: `LSUV`, `40,000 / 60,000`, `0.25`, `none`."""
    if isinstance(value, tuple | list):
        return " / ".join(map(display_name, value)) or "none"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    return DISPLAY_NAMES.get(str(value), str(value))


def cell_name(row: object, column: object) -> str:
    """The name of a cell: `LSUV × maxout`."""
    return f"{display_name(row)} × {display_name(column)}"


def snapshot_name(iteration: int) -> str:
    """A point in training: `after initialisation`, `after 1,000 iterations`."""
    return f"after {iteration:,} iterations" if iteration else "after initialisation"


def decimal(value: float | None) -> str:
    """A number with two decimals; empty for None."""
    return "" if value is None else f"{value:.2f}".replace("-", "−")


def signed(value: float | None) -> str:
    """A difference with its sign and two decimals; empty for None."""
    return "" if value is None else f"{value:+.2f}".replace("-", "−")


def published_number(value: float | str | None) -> str:
    """A published number with the paper's two decimals, `n/c`, or a dash for None."""
    return "–" if value is None else value if isinstance(value, str) else f"{value:.2f}"


def interval_text(interval: Sequence[float] | None, with_sign: bool = False) -> str:
    """Both ends of an interval; empty for None."""
    text = signed if with_sign else decimal
    return f"{text(interval[0])} to {text(interval[1])}" if interval else ""


def count(number: int, one: str, many: str = "") -> str:
    """A number and its noun: `1 run`, `2,000 runs`. Give `many` if the plural is not `one` with an s."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def footnote_mark(index: int) -> str:
    """The mark of a footnote: a, b, c, …, z, 27, 28, …"""
    return chr(ord("a") + index) if index < 26 else str(index + 1)


def last_line(traceback: str | None) -> str:
    """The last line of a traceback, which names the exception."""
    return ((traceback or "").strip().splitlines() or ["no traceback"])[-1].strip()


def terminal_text(text: str, style: str = "") -> Text:
    """Text for a terminal, which shows it as it is: no markup, no control characters."""
    return Text(escape_control_chars(text), style)
