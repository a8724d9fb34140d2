"""The lock: every dependency pinned, by hash."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
# a requirement and the indented lines that belong to it
BLOCK = re.compile(r"^(\S[^\n]*\n(?:[ \t]+[^\n]*\n?)*)", re.MULTILINE)
PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(\[[^]]*\])?==[\w.!+-]+( ; [^\\]+)? \\\n")


def requirements() -> dict[str, str]:
    text = "".join(
        line for line in (ROOT / "requirements.lock").read_text().splitlines(True) if line.strip()[:1] != "#"
    )
    blocks = BLOCK.findall(text)
    assert "".join(blocks) == text  # nothing stands between them, such as the address of an index
    found = {}
    for block in blocks:
        pin = PIN.match(block)
        assert pin, block.splitlines()[0]
        found[normal(pin["name"])] = found.get(normal(pin["name"]), "") + block
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_line_is_pinned_by_hash() -> None:
    locked = requirements()
    assert len(locked) > 50
    for block in locked.values():
        head, *rest = block.splitlines()
        hashes = [line.strip().rstrip(" \\") for line in rest if "==" not in line]
        assert hashes, head
        for line in hashes:
            assert re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", line), f"{head}: {line}"


def test_what_the_project_asks_for_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {normal(re.match(r"[A-Za-z0-9._-]+", one)[0]) for one in asked}  # type: ignore[index]
    assert names <= requirements().keys()
