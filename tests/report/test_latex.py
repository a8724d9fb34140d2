import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_records import fill, many

from replicate.experiment import Experiment
from replicate.report.latex import escape
from replicate.report.table import build
from replicate.store.result import Result
from replicate.store.run_folder import Records


def test_escape() -> None:
    assert escape("a_b & 5 % ± #1 {x}~^\\") == (
        r"a\_b \& 5 \% $\pm$ \#1 \{x\}\textasciitilde{}\textasciicircum{}\textbackslash{}"
    )


@pytest.fixture
def text(small: Experiment, small_results: list[Result], make_records: Callable[..., Records]) -> str:
    named = [replace(result, data_label="cifar10_jpeg 100%") for result in small_results]
    return build(replace(small, name="small_one"), small.runs(), make_records(named), Path("out")).latex()


def test_every_line_of_the_grid_has_every_column(text: str) -> None:
    assert r"\begin{tabular}{lcc}" in text
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(lines) == 1 + 2 * 3
    assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {2}


def test_the_grid_holds_ours_and_the_papers(text: str) -> None:
    assert r"LSUV & 94.0 $\pm$ 0.2 & 92.2 $\pm$ 0.1 \\" in text
    assert r"& \scriptsize (n=3) & \scriptsize (n=2, 1 n/c) \\" in text
    assert r"\scriptsize paper & \scriptsize 93.94 $\approx$ & \scriptsize 92.11 \\" in text
    assert r"OrthoNorm-MSRA scaled & -- & n/c \\" in text
    assert r"&  & \scriptsize (1/1) \dots{} 1/3 \\" in text


def test_it_is_plain_latex(text: str) -> None:
    assert text.isascii()
    assert r"cifar10\_jpeg 100\%" in text
    assert r"\label{tab:small-one}" in text
    assert text.count("{") == text.count("}")
    opened, closed = re.findall(r"\\begin\{(\w+)\}", text), re.findall(r"\\end\{(\w+)\}", text)
    assert opened == ["document", "table", "tabular"]
    assert closed == ["document", "tabular", "table"]  # the first in the definition that ends the page


def test_letters_that_pdflatex_does_not_have_are_no_error() -> None:
    assert escape("é ß 🙂 日\n") == "é ß ? ??"


def compiled(folder: Path, name: str) -> str:
    """Run pdflatex twice, as references need it; return the log."""
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", name]
    for _ in range(2):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout[-2000:]
    return (folder / name).with_suffix(".log").read_text(encoding="latin-1")


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex on this machine")
@pytest.mark.parametrize("alone", [True, False], ids=["alone", "in a paper"])
def test_it_compiles_as_it_stands(tmp_path: Path, alone: bool) -> None:
    # the widest table there is: five columns, with standard deviations, verdicts and footnotes
    whole = many(5)
    results = fill(tmp_path, whole.runs(), points=1, layers=False)
    named = [replace(result, data_label="cifar10_jpeg 100% ~^\\ é日") for result in results]
    records = Records({result.run.run_id: result for result in named}, {}, 0)
    (tmp_path / "table.tex").write_text(build(whole, whole.runs(), records, tmp_path).latex())
    paper = (
        r"\documentclass{article}\usepackage{booktabs}\begin{document}"
        r"See Table~\ref{tab:table3}. \input{table} After.\end{document}"
    )
    (tmp_path / "paper.tex").write_text(paper)
    log = compiled(tmp_path, "table.tex" if alone else "paper.tex")
    assert "(1 page" in log
    assert not re.findall(r"Overfull.*|Warning.*", log)
