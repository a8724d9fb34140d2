"""Errors that users can fix, each one sentence, and transient errors, which another attempt may not meet."""

import difflib
import errno
import re
import reprlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

# pydantic's type of an error -> what the value should have been
WANTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "string_pattern_mismatch": "a plain word",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping of `key: value` lines",
    "dataclass_type": "a mapping of `key: value` lines",
}
SENTENCES = {
    "greater_than_equal": "{name} = {value} is out of range; give at least {ge:g}",
    "less_than_equal": "{name} = {value} is out of range; give at most {le:g}",
    "literal_error": "unknown {name} {value}; choose from: {expected}",
    "missing": "{name} is missing",
    "too_short": "{name} is empty; give at least one value",
    "too_long": "{name} has too many values; give at most {max_length}",
    **{kind: f"{{name}} must be {wanted}, not {{value}}" for kind, wanted in WANTED.items()},
}
# Kinds of transient failures
KILLED, MEMORY, CUDA, DISK = KINDS = ("killed", "out of memory", "CUDA error", "disk")
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE)
# name of a setting or a value -> what others call it, in lower case, without hyphens and underscores
_OTHER_NAMES = {
    "lr": "learningrate baselr alpha eta",
    "lr_factor": "gamma lrgamma",
    "milestones": "schedule lrsteps",
    "iterations": "epochs maxepochs steps maxsteps",
    "batch_size": "bs minibatch",
    "weight_decay": "wd l2",
    "model": "arch architecture net network",
    "activation": "nonlinearity",
    "dataset": "data",
    "mirror": "flip hflip",
    "precision": "amp dtype",
    "msra": "he kaiming",
    "xavier": "glorot",
    "vlrelu": "leakyrelu",
}
SYNONYMS = {word: name for name, words in _OTHER_NAMES.items() for word in words.split()}
UNKNOWN_KEY = ("unexpected_keyword_argument", "extra_forbidden", "invalid_key")


# Not a ValueError: pydantic would collect it and lose its sentence. Raised by a validator, it passes through.
class UsageError(Exception):
    """Wrong input from the user. The command line prints it as one line and exits with code 2."""


def synonym(name: str) -> str | None:
    """Return our name of a setting or a value for that of others: `lr` for `Learning-Rate`; None: there is none."""
    return SYNONYMS.get(re.sub("[-_ ]", "", name).lower())


def unknown(kind: str, name: object, choices: Iterable[str]) -> UsageError:
    """Build the error for a name that is not among the choices: `unknown init 'lsvu'; choose from: lsuv, …`."""
    known, ours = list(choices), synonym(str(name))
    near = [ours] if ours in known else difflib.get_close_matches(str(name), known, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return UsageError(f"unknown {kind} {name!r}{hint}; choose from: {', '.join(known)}")


def explain(error: "ValidationError", keys: Mapping[str, Iterable[str]] = {}, whole: str = "the file") -> str:
    """Describe the first error of a pydantic validation in one sentence.

    Args:
        error: pydantic's error.
        keys: section of the input -> its known keys, which are listed if one is unknown; the outermost section is "".
        whole: name of the whole input in the sentence.
    """
    errors = error.errors(include_url=False)
    first = next((one for one in errors if one["type"] in UNKNOWN_KEY), errors[0])  # a typo is also a missing key
    *outer, key = first["loc"] or (whole,)
    if first["type"] in UNKNOWN_KEY:
        section = next((str(part) for part in reversed(outer) if isinstance(part, str)), "")
        return str(unknown(f"key in {section or whole}", key, keys[section])) if keys else f"unknown key {key!r}"
    name, value = ".".join(map(str, (*outer, key))), reprlib.repr(first["input"])
    details = {"msg": first["msg"].removeprefix("Value error, "), **first.get("ctx", {})}
    return SENTENCES.get(first["type"], "{name} is {value}: {msg}").format(name=name, value=value, **details)


class RankFailedError(Exception):
    """A failure in another process of the same run.

    Args:
        message: what happened there.
        kind: one of KINDS; None if the failure is not transient.
    """

    def __init__(self, message: str, kind: str | None) -> None:
        super().__init__(message)
        self.kind = kind


class GraphError(Exception):
    """A CUDA graph cannot be captured, or its replays differ from the training that it was captured from.

    Args:
        name: training-step backend, such as `graph`.
        cause: the reason.
    """

    def __init__(self, name: str, cause: BaseException) -> None:
        lines = str(cause).strip().splitlines() or [type(cause).__name__]
        super().__init__(f"{name}: {lines[0][:200]}")


def first_error(error: BaseException) -> BaseException:
    """Return the first error of a chain: the one during whose handling the others were raised."""
    while (earlier := error.__cause__ or error.__context__) is not None:
        error = earlier
    return error


def transient_kind(error: BaseException) -> str | None:
    """Return which of KINDS an exception is; None if it is not transient, so that another attempt would repeat it."""
    if isinstance(error, RankFailedError):
        return error.kind
    if isinstance(error, OSError):
        return DISK if error.errno in DISK_ERRORS else MEMORY if error.errno == errno.ENOMEM else None
    # By name, because torch may not be loaded; by text, because errors of libraries below torch have no type.
    names, text = {kind.__name__ for kind in type(error).__mro__}, str(error) if isinstance(error, RuntimeError) else ""
    if names & {"MemoryError", "OutOfMemoryError"} or "can't allocate memory" in text or "_STATUS_ALLOC_FAILED" in text:
        return MEMORY
    cuda = "AcceleratorError" in names or text.startswith(("CUDA error", "cuDNN error", "CUDA driver"))
    return CUDA if cuda else None
