"""The command `bench`: what it takes, and what a measurement that fails leaves."""

import json
import re
from pathlib import Path

import pytest

from replicate.cli import main

WORDS = ["--devices", "cpu", "--width", "0.125", "--at-once", "1", "--windows", "1", "--seconds", "0.1"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--paths", "eagre"], "unknown path on cpu 'eagre' (did you mean 'eager'?); choose from: baseline, eager"),
        (["--paths", "eager,graph"], "unknown path on cpu 'graph'; choose from: baseline, eager"),
        (["--activations", "swish"], "unknown activation 'swish'; choose from: maxout, relu, vlrelu, tanh, sigmoid"),
        (["--profile", "nowhere/a.txt"], "--profile nowhere/a.txt: there is no folder nowhere; make it"),
    ],
)
def test_a_wrong_choice_is_named(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--out", str(tmp_path), *WORDS, *words]) == 2
    assert capsys.readouterr().err == f"replicate: {message}\n"
    assert not list(tmp_path.glob("*.*"))


def test_one_path_of_one_net_is_written_for_people_and_programs(tmp_path: Path) -> None:
    profile = tmp_path / "kernels.txt"
    words = ["--paths", "eager", "--activations", "relu", "--profile", str(profile)]
    assert main(["bench", "--out", str(tmp_path), *WORDS, *words]) == 0
    (found,) = tmp_path.glob("*.json")
    (row,) = json.loads(found.read_text())["rows"]
    assert (row["path"], row["activation"], row["at_once"]) == ("eager", "relu", 1)
    assert row["iterations_per_second"] > 0
    assert re.search(r"\| relu \| 1 \| eager \| .* \| – \|", found.with_suffix(".md").read_text())
    assert profile.read_text().startswith("relu, 1 at once, eager: 4 iterations\n")


def test_a_failed_measurement_is_one_sentence_and_no_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("replicate.bench.compare.MEASURE", "builtins:int")  # it does not take what a measurement takes
    assert main(["bench", "--out", str(tmp_path), *WORDS, "--paths", "eager", "--activations", "relu"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("replicate: a measurement failed: relu, 1 at once, eager: the process ended: ")
    assert "TypeError" in err
    assert err.count("\n") == 1
    assert not list(tmp_path.glob("*.*"))
