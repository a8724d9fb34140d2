"""Reads the YAML files that describe runs, and says what is wrong with one."""

import difflib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from replicate.errors import UsageError, explain
from replicate.store.files import read_bytes
from replicate.yamlfile import MAX_BYTES, parse

T = TypeVar("T")


def read_file(path: Path, check: Callable[[Any], T], keys: Mapping[str, Iterable[str]]) -> T:
    """Read an experiment file, or another YAML file that describes runs.

    Args:
        path: the file. Its name is the default of the key `name`.
        check: makes the result from the content.
        keys: section -> its known keys, for messages.

    Raises:
        UsageError: the file is missing, empty or not YAML, or `check` raises. The message starts with the file's name.
    """
    try:
        content = parse(read_bytes(path, MAX_BYTES).decode())
        if content is None:
            raise UsageError(f"the experiment file is empty; it needs: {', '.join([*keys['']][:2])}")
        return check({"name": path.stem, **content} if isinstance(content, dict) else content)
    except (OSError, UnicodeDecodeError) as error:
        problem = f"cannot read the experiment file: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}"
        problem += _other_files(path) if isinstance(error, FileNotFoundError) else ""
    except yaml.YAMLError as error:
        where, text = getattr(error, "problem_mark", None), getattr(error, "problem", None) or str(error)
        problem = f"not a YAML file{f' (line {where.line + 1})' if where else ''}: {' '.join(text.split())}"
    except ValidationError as error:
        problem = explain(error, keys)
    except UsageError as error:
        problem = str(error)
    raise UsageError(f"{path}: {problem}")


def _other_files(path: Path) -> str:
    """Name the experiment file that was meant by `path`, which does not exist, or those that there are."""
    known = {file.stem: str(file) for file in sorted(Path("experiments").glob("*.yaml"))}
    if near := difflib.get_close_matches(path.stem, known, n=1):
        return f"; did you mean {known[near[0]]}?"
    return f"; choose from: {', '.join(known.values())}" if known else ""
