"""Access to the disk: what is read, how it is written, and text for terminals."""

import os
from pathlib import Path

import pytest

from replicate.errors import UsageError
from replicate.store.files import escape_control_chars, prepare_output_folder, read_bytes, write_atomically


def test_only_plain_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    assert read_bytes(tmp_path / "file", 3) == read_bytes(tmp_path / "link", 3) == b"abc"
    for name, problem in {"pipe": "not a plain file", "/dev/zero": "not a plain file", "no": "No such file"}.items():
        with pytest.raises(OSError, match=problem):
            read_bytes(tmp_path / name, 3)
    with pytest.raises(OSError, match="it has 3 bytes, and 2 are the most"):
        read_bytes(tmp_path / "file", 2)


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
