"""The script that compares lsuv_ with the package `lsuv`."""

import runpy
from pathlib import Path

import pytest

pytest.importorskip("lsuv", reason="the package `lsuv` is not installed")

SCRIPT = Path(__file__).parents[2] / "experiments" / "compare_lsuv.py"


def test_the_table_says_what_each_gets_right(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [str(SCRIPT), "--only", "registered in another order"])
    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| registered")]
    _, _, theirs, ours, _ = (cell.strip() for cell in line.split("|"))
    assert ours.startswith("4 of 4 right, ")
    assert not theirs.startswith("4 of 4")
