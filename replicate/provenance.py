"""Provenance of a number: the code's commit, the versions of libraries, the processor."""

import contextlib
import hashlib
import os
import platform
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from replicate.store.fields import as_line

LIBRARIES = ("torch", "torchvision", "pytorch-lightning", "numpy", "lsuv-replication")
PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent


@dataclass(frozen=True, slots=True)
class Code:
    """Which code made a number.

    Args:
        commit: see `commit`.
        dirty: see `commit`.
        sources: see `sources`.
    """

    commit: str
    dirty: bool | None
    sources: str


@cache
def code() -> Code:
    """The code on the disk when a process first asks.

    The server of the local processes asks before and after it loads the training, and the processes that it forks
    inherit the answer. So a record names the code that ran, even if the files are edited meanwhile. Python's cache of
    compiled files is trusted; it knows a file by its size and the second of its last change.
    """
    return Code(*commit(), sources())


def sources(package: Path = PACKAGE) -> str:
    """Return the sha256 (hexadecimal) over the lines `path sha256(bytes)` of the package's Python files, sorted.

    Hidden files are left out, as editors make them, and a file that is removed meanwhile.
    """
    lines = []
    for path in package.rglob("*.py"):
        name = path.relative_to(package)
        if not any(part.startswith(".") for part in name.parts):
            with contextlib.suppress(FileNotFoundError):
                lines.append(f"{name.as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n")
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def commit(root: Path = ROOT) -> tuple[str, bool | None]:
    """Return the commit of the code, and whether replicate/ or experiments/ differ from it.

    Without a `.git`, the commit is the environment variable REPLICATE_COMMIT, or `unknown`, and None is returned for
    the difference.
    """
    if not (root / ".git").exists():
        return as_line(os.environ.get("REPLICATE_COMMIT") or "unknown"), None
    try:
        head = _git(root, "rev-parse", "HEAD")
        return head, bool(_git(root, "status", "--porcelain", "--", "replicate", "experiments"))
    except (OSError, subprocess.CalledProcessError):  # no git here, or no commit yet
        return "unknown", None


def _git(root: Path, *arguments: str) -> str:
    # A run may be killed at any moment, and `git status` could leave a lock on the index.
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    # Git sets GIT_DIR and the like for its hooks; they name another repository.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or "CONFIG" in name}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=kept).stdout.strip()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that can change a number."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = as_line(metadata.version(name))
        except metadata.PackageNotFoundError:  # run from a checkout that is not installed
            found[name] = "not installed"
    return found


def cpu_name() -> str:
    """Return the name of the processor's model."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return as_line(next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")))
    except (OSError, StopIteration):
        return as_line(platform.processor() or platform.machine())
