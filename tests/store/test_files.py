"""The door to the disk: what is read, how it is written, and text for terminals."""

import os
from pathlib import Path

import pytest

from replicate.errors import UsageError
from replicate.store.files import escape_control_chars, make_writable, read_bytes, refuse_links, write_atomically

CLEAR_SCREEN, RIGHT_TO_LEFT = "\x1b[2J", "\u202e"


def test_only_plain_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    assert read_bytes(tmp_path / "file", 3) == read_bytes(tmp_path / "link", 3) == b"abc"
    for name, problem in {"pipe": "not a plain file", ".": "Is a directory", "no": "No such file"}.items():
        with pytest.raises(OSError, match=problem):
            read_bytes(tmp_path / name, 3)
    with pytest.raises(OSError, match="not a plain file"):
        read_bytes(Path("/dev/zero"), 3)
    with pytest.raises(OSError, match="it has 3 bytes, and 2 are the most"):
        read_bytes(tmp_path / "file", 2)


def test_an_interrupted_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text(before := "before")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "something else")
    assert path.read_text() == before
    assert [file.name for file in path.parent.iterdir()] == ["file"]


def test_an_output_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot write to the output folder .*file/out: Not a directory"):
        make_writable(tmp_path / "file" / "out")
    make_writable(tmp_path / "new" / "out")
    assert list((tmp_path / "new" / "out" / "runs").iterdir()) == []


def test_the_output_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk" / "runs").mkdir(parents=True)
    (tmp_path / "out").symlink_to("disk")
    refuse_links(tmp_path / "out", ["no-such-run"])


def test_text_that_a_terminal_obeys_or_hides() -> None:
    assert escape_control_chars("plain – ünïcode 図 ± 'q'") == "plain – ünïcode 図 ± 'q'"
    assert (
        escape_control_chars(f"a{CLEAR_SCREEN}b\r\n\t{RIGHT_TO_LEFT}\x9b\udc80") == r"a\x1b[2Jb\r\n\t\u202e\x9b\udc80"
    )
