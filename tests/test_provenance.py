"""The commit of a record."""

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from replicate.provenance import PACKAGE, code, commit, cpu_name, sources, versions


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    return subprocess.check_output(["git", "-C", folder, *identity, *arguments], text=True).strip()


def test_the_commit_and_whether_the_code_differs_from_it(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    assert commit(tmp_path) == ("unknown", None)  # no commit yet
    code = tmp_path / "replicate" / "code.py"
    code.parent.mkdir()
    code.write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    head = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "notes.txt").write_text("no part of the code")
    os.utime(code, (1, 1))  # git would note the new time in its index, under a lock that outlives a kill
    index = (tmp_path / ".git" / "index").read_bytes()
    assert commit(tmp_path) == (head, False)
    assert (tmp_path / ".git" / "index").read_bytes() == index
    code.write_text("2")
    assert commit(tmp_path) == (head, True)


def test_without_git_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLICATE_COMMIT", "abc123")
    assert commit(tmp_path) == ("abc123", None)
    monkeypatch.setenv("REPLICATE_COMMIT", 2000 * "\x1b")
    assert commit(tmp_path) == ((250 * r"\x1b"), None)


def test_the_digest_is_of_the_python_files(tmp_path: Path) -> None:
    copy = shutil.copytree(PACKAGE, tmp_path / "copy")
    assert sources(copy) == sources() == code().sources
    (copy / "README.md").write_text("no code")
    (copy / "init" / ".#schemes.py").symlink_to("me@here.1234")  # an editor's mark of an unsaved file
    (copy / ".ipynb_checkpoints").mkdir()
    (copy / ".ipynb_checkpoints" / "run.py").touch()
    assert sources(copy) == sources()
    scheme = copy / "init" / "schemes.py"
    scheme.write_bytes(scheme.read_bytes() + b"\n")
    assert sources(copy) != sources()
    scheme.unlink()
    assert sources(copy) != sources()


def test_versions_and_processor() -> None:
    assert versions()["python"] == platform.python_version()
    assert versions()["torch"][0].isdigit()
    assert cpu_name()


def test_odd_names_of_processors_and_versions_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "model name\t: A\tCPU\x1b")
    monkeypatch.setattr(metadata, "version", lambda _: "1\n")
    assert cpu_name() == r"A\tCPU\x1b"
    assert versions()["torch"] == r"1\n"
