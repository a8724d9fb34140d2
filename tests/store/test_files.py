"""Access to the disk: what is read, how it is written, and text for terminals."""

import os
from pathlib import Path

import pytest
from odd_files import make_odd

from replicate.errors import UsageError
from replicate.store.files import (
    NotPlainFileError,
    escape_control_chars,
    open_log,
    prepare_output_folder,
    read_bytes,
    read_end,
    write_atomically,
)


def test_only_plain_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    assert read_bytes(tmp_path / "file", 3) == read_bytes(tmp_path / "link", 3) == b"abc"
    for name, problem in {"pipe": "not a plain file", "/dev/zero": "not a plain file", "no": "No such file"}.items():
        with pytest.raises(OSError, match=problem):
            read_bytes(tmp_path / name, 3)
    with pytest.raises(NotPlainFileError, match="it has 3 bytes, and 2 are the most"):
        read_bytes(tmp_path / "file", 2)
    assert read_end(tmp_path / "file", 2) == b"bc"
    assert read_end(tmp_path / "file", 5) == b"abc"


def test_no_link_below_an_output_folder_is_followed(tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "link to out", tmp_path / "elsewhere"
    (tmp_path / "disk" / "a" / "b").mkdir(parents=True)
    out.symlink_to("disk")  # its owner put it there
    elsewhere.mkdir()
    for folder in (elsewhere, out / "a" / "b"):
        (folder / "file").write_bytes(b"abc")
    assert read_bytes(out / "a" / "b" / "file", below=out) == b"abc"
    (out / "a" / "b" / "link").symlink_to(elsewhere / "file")
    (out / "a" / "folder").symlink_to(elsewhere)
    (out / "top").symlink_to(elsewhere)
    os.mkfifo(out / "a" / "pipe")
    for name in ("a/b/link", "a/folder/file", "top/file", "a/b/file/x", "a/pipe", "a/b"):
        with pytest.raises(NotPlainFileError, match="not a plain file"):
            read_bytes(out / name, below=out)
        with pytest.raises(NotPlainFileError, match="not a plain file"):
            read_end(out / name, 2, below=out)
    with pytest.raises(FileNotFoundError):
        read_bytes(out / "a" / "none", below=out)


@pytest.mark.parametrize("kind", ["pipe", "folder", "link"])
def test_a_log_is_a_plain_file(tmp_path: Path, kind: str) -> None:
    log = tmp_path / "run" / "log.txt"
    make_odd(log, kind, tmp_path / "victim")
    for text in (b"one", b"two"):
        handle = open_log(log)
        os.write(handle, text + b"\n")
        os.close(handle)
    said = f"what was at {log} is not a plain file; set aside as log.txt.set-aside-1\none\ntwo\n"
    assert log.read_text() == said
    assert sorted(path.name for path in log.parent.iterdir()) == ["log.txt", "log.txt.set-aside-1"]
    if kind == "link":
        assert (tmp_path / "victim").read_text() == "precious"


def test_an_output_folder_is_created_or_refused_and_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot write to the output folder .*file/out: Not a directory"):
        prepare_output_folder(tmp_path / "file" / "out", [])
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    prepare_output_folder(tmp_path / "link" / "out", ["no-such-run"])
    assert list((tmp_path / "disk" / "out" / "runs").iterdir()) == []


def test_text_that_a_terminal_obeys_or_hides() -> None:
    assert escape_control_chars("plain – ünïcode 図 ± 'q'") == "plain – ünïcode 図 ± 'q'"
    assert escape_control_chars("a\x1b[2Jb\r\n\t\u202e\x9b\udc80") == r"a\x1b[2Jb\r\n\t\u202e\x9b\udc80"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_decides_who_can_read(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "file", "content")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode
