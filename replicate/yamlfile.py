"""YAML of files and of `--set`: plain data, no duplicate keys, numbers as in YAML 1.2, no endless aliases."""

import json
import re
from collections.abc import Iterable
from typing import Any, get_args

import yaml

from replicate.errors import UsageError, unknown
from replicate.run import TYPES

MAX_BYTES = 50_000  # of a file, so that it is read in half a second; ours have less than 3,000
MAX_VALUES = 100_000  # after expanding aliases


def parse(text: str) -> Any:
    """Read one YAML document of plain data.

    Raises:
        yaml.YAMLError: it is not YAML, has a key twice, or its aliases expand to more than MAX_VALUES values.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        raise
    except Exception as error:  # PyYAML passes on errors of a wrong `!!int`, a wrong date and endless nesting
        raise yaml.YAMLError(str(error) or type(error).__name__) from None


def assignments(option: str, words: Iterable[str]) -> dict[str, Any]:
    """Read `key=value` words from the command line, such as `iterations=100`, as fields of a Run.

    A value is read as YAML; commas make a list, and so does a range of whole numbers. `seed=0,1` gives [0, 1],
    `seed=0-4` gives [0, 1, 2, 3, 4], `milestones=[40,60]` gives [40, 60].

    Args:
        option: `--set` or `--only`, named in errors.
        words: words such as `init=lsuv,xavier`.

    Raises:
        UsageError: not `key=value`, no value, an unknown key, a key given twice, or a range that is empty or too long.
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
        if not text.strip():  # a variable that somebody forgot to set; YAML would read it as null
            raise UsageError(f"{option} {word} has no value; give one, or leave it out")
        try:
            value = parse(text)
            if isinstance(value, str) and (items := _items(f"{option} {word}", key, text)) != [value]:
                value = items
            found[key] = value
        except yaml.YAMLError:
            raise UsageError(f"{option} {word}: cannot read the value {text!r}") from None
    return found


_RANGE = re.compile(r"([0-9]{1,18})(?:-([0-9]{1,18}))?")  # a single number too: YAML takes long to read thousands


def is_whole(key: str) -> bool:
    """Whether a field of Run is a whole number."""
    return get_args(TYPES[key])[:1] == (int,)


def _items(assignment: str, key: str, text: str) -> list[Any]:
    """Read items separated by commas. An item of a whole number may be a range: `0-2,5` gives [0, 1, 2, 5]."""
    items: list[Any] = []
    for item in text.split(","):
        if is_whole(key) and (match := _RANGE.fullmatch(item)):
            first, last = int(match[1]), int(match[2] or match[1])
            if last < first:
                raise UsageError(f"{assignment}: the range {item} is empty; give the smaller number first")
            if len(items) + last - first >= MAX_VALUES:
                raise UsageError(f"{assignment}: the range {item} is too long; give at most {MAX_VALUES:,} values")
            items += range(first, last + 1)
        else:
            items.append(parse(item))
    return items


def assignment(key: str, value: Any) -> str:
    """Write a `key=value` word that `assignments` reads; a list of values if `value` is a list of texts.

    Three or more whole numbers in a row are written as a range: `seed=0-4`.
    """
    if isinstance(value, list) and value:
        if all(isinstance(item, str) for item in value):
            value = ",".join(value)
        elif len(value) > 2 and is_whole(key) and value == list(range(value[0], value[-1] + 1)):
            value = f"{value[0]}-{value[-1]}"
    return f"{key}={value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}"


class _Loader(yaml.SafeLoader):
    """Refuses duplicate keys, of which YAML would take the last, and aliases that expand too far."""

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            _values(node, {})
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value} occurs twice", key.start_mark)
            seen.add(str(key.value))
        return dict(super().construct_mapping(node, deep))


# What is not text, as in YAML 1.2. PyYAML follows 1.1, where 010 is 8, 1:30 is 90, 5e-4 is text, and no is false.
_FLOAT = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
_NOT_TEXT = {  # tag -> pattern, and the characters with which it begins
    "null": ("~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": ("true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": ("[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (_FLOAT, list("-+.0123456789")),
    "merge": ("<<", ["<"]),
}
_Loader.yaml_implicit_resolvers = {}
for _tag, (_pattern, _first) in _NOT_TEXT.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def _int(_: _Loader, node: yaml.ScalarNode) -> int:
    return int(node.value, 0 if node.value[:2] in ("0o", "0x") else 10)


_Loader.add_constructor("tag:yaml.org,2002:int", _int)


def _values(node: yaml.Node, known: dict[int, int | None]) -> int:
    """Count the values of a node with aliases expanded; `known` has the counts so far, None for nodes in progress."""
    if id(node) not in known:
        known[id(node)] = None
        below = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [part for item in below for part in (item if isinstance(item, tuple) else (item,))]
        known[id(node)] = 1 + sum(_values(part, known) for part in parts)
    count = known[id(node)]
    if count is None or count > MAX_VALUES:
        problem = "an alias contains itself" if count is None else f"it expands to more than {MAX_VALUES:,} values"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
    return count
