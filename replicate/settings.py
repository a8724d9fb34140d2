"""Settings from the command line: `--set iterations=100 seed=0,1` as fields of a Run."""

from collections.abc import Iterable
from typing import Any

import yaml

from replicate.errors import UsageError, unknown
from replicate.run import TYPES
from replicate.yamlfile import parse


def assignments(option: str, words: Iterable[str]) -> dict[str, Any]:
    """Read `key=value` words.

    A value is read as YAML would; commas make a list. `seed=0,1` gives [0, 1], `milestones=[40,60]` gives [40, 60].

    Args:
        option: `--set` or `--only`, for the message.
        words: such as `init=lsuv,xavier`.

    Raises:
        UsageError: not `key=value`, an unknown key, or a key given twice.
    """
    found: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise UsageError(f"{option} takes key=value words such as iterations=100, not {word!r}")
        if key not in TYPES:
            raise unknown(f"key in {option}", key, TYPES)
        if key in found:
            raise UsageError(f"{option} gives {key} twice; for several values write {key}=a,b")
        found[key] = _value(option, word, text)
    return found


def _value(option: str, word: str, text: str) -> Any:
    try:
        value = parse(text)
        return [parse(item) for item in text.split(",")] if isinstance(value, str) and "," in text else value
    except yaml.YAMLError:
        raise UsageError(f"{option} {word}: cannot read the value {text!r}") from None
