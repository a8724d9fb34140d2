"""requirements.lock: every dependency is pinned by hash."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PINNED = re.compile(r"([\w.-]+)(?:\[[^]]*\])?==[\w.!+-]+(?: ; [^\\\n]+)?(?: \\\n +--hash=sha256:[0-9a-f]{64})+\n")
LINES = (ROOT / "requirements.lock").read_text().splitlines(keepends=True)
LOCK = "".join(line for line in LINES if line.strip()[:1] != "#")


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_requirement_is_pinned_by_hash() -> None:
    assert PINNED.sub("", LOCK) == ""  # there is nothing else, such as the address of an index


def test_what_the_project_asks_for_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {normal(name) for line in asked for name in re.findall(r"^[\w.-]+", line)}
    assert len(names) > 20
    assert names <= set(map(normal, PINNED.findall(LOCK)))
