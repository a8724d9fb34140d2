"""YAML files: plain data, no duplicate keys, numbers as in YAML 1.2, and no aliases that unfold without end."""

import re
from typing import Any

import yaml

MOST_BYTES = 1_000_000  # of a file; ours have less than 3,000
MOST_VALUES = 100_000  # once its aliases are unfolded


def parse(text: str) -> Any:
    """Read one YAML document of plain data.

    Raises:
        yaml.YAMLError: it is none, holds a key twice, or its aliases unfold to more than MOST_VALUES values.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        raise
    except Exception as error:  # of a wrong `!!int` or date, or of nesting without end, PyYAML raises what it meets
        raise yaml.YAMLError(str(error) or type(error).__name__) from None


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping, of which YAML would take the last, and aliases of aliases."""

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            _values(node, {})
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} stands there twice", key.start_mark)
            seen.add(str(key.value))
        return dict(super().construct_mapping(node, deep))


# PyYAML knows the numbers of YAML 1.1, in which 5e-4 is text; what it takes for a whole number stays one.
_FLOAT = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def _values(node: yaml.Node, known: dict[int, int | None]) -> int:
    """Count the values of a node with its aliases unfolded; `known` holds the nodes counted, None while they are."""
    if id(node) not in known:
        known[id(node)] = None
        below = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [part for item in below for part in (item if isinstance(item, tuple) else (item,))]
        known[id(node)] = 1 + sum(_values(part, known) for part in parts)
    count = known[id(node)]
    if count is None or count > MOST_VALUES:
        problem = "an alias stands for itself" if count is None else f"it unfolds to more than {MOST_VALUES:,} values"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
    return count
