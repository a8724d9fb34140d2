"""Tables as files. The golden files hold every kind of cell; look at their difference before you update them."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_records import fill, make_records, many

from replicate.experiment import Experiment, TableSpec
from replicate.report.document import Document, document, strict_json
from replicate.report.render import RENDERERS, aligned, cell_rows, escape_latex, latex, markdown, run_rows, write_table
from replicate.store.result import Result


def test_golden_files(everything: Document, golden: Callable[[str, str], None], tmp_path: Path) -> None:
    paths = write_table(everything, tmp_path / "new")
    assert [path.name for path in paths] == ["table.md", "table.tex", "table.csv", "runs.csv", "table.json"]
    read = json.loads(strict_json(everything))
    for path in paths:
        golden(path.name, text := path.read_text(encoding="utf-8"))
        assert RENDERERS[path.name](read) == text  # table.json is enough


def test_a_field_is_never_a_formula_or_blank_text(everything: Document) -> None:
    everything["protocol"]["data_label"] = "=1+1"
    everything["runs"][0]["error"] = " \n"
    assert cell_rows(everything)[0]["data_label"] == "'=1+1"
    assert run_rows(everything)[0]["error"] == ""


def test_commits_and_devices_are_named_once_in_order(everything: Document) -> None:
    commits = [("b" * 40, None), ("b" * 40, False), ("a" * 40, True), ("a" * 40, False)]
    everything["provenance"]["code"] = [{"commit": commit, "dirty": dirty} for commit, dirty in commits]
    everything["provenance"]["devices"] = [{"name": name} for name in ("Xeon_", "EPYC", "EPYC")]
    text = markdown(everything)
    assert f"- Code: commit {'a' * 12}, {'a' * 12} with changes, {'b' * 12}\n" in text
    assert "- Device: EPYC, Xeon\\_\n" in text


def test_without_published_numbers(small: Experiment, small_results: list[Result]) -> None:
    doc = document(replace(small, table=TableSpec()), small.runs(), make_records(small_results))
    text = markdown(doc)
    assert "| paper " not in text.partition("## Cells")[0]
    assert "## Claims" not in text
    assert "published" not in latex(doc)


def test_long_lists_are_cut(everything: Document) -> None:
    crashed = next(run for run in everything["runs"] if run["status"] == "error")
    text = markdown({**everything, "runs": [crashed] * 12, "unreadable": everything["unreadable"] * 11})
    assert (text.count("- Error: "), text.count("- Unreadable: ")) == (10, 10)
    assert "- … and 2 more errors.\n" in text
    assert "- … and 1 more unreadable file.\n" in text


def test_escaped_pipes_and_latex_characters() -> None:
    assert aligned("| | b |\n| a \\| a |  1  2 |\n").splitlines()[2] == "| a \\| a | 1 2 |"
    assert escape_latex("a_b & 5 % #1 {x}~^\\") == (
        r"a\_b \& 5 \% \#1 \{x\}\textasciitilde{}\textasciicircum{}\textbackslash{}"
    )
    assert escape_latex("é ß 🙂 日\n") == "é ß ? ??"


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex on this machine")
def test_latex_compiles_as_a_page_and_in_a_paper(tmp_path: Path) -> None:
    # the widest table there is: five columns, with standard deviations, verdicts and footnotes
    whole = many(5)
    results = fill(tmp_path, whole.runs(), points=1, layers=False)
    records = make_records(replace(result, data_label="cifar10_jpeg 100% ~^\\ é日") for result in results)
    (tmp_path / "table.tex").write_text(latex(document(whole, whole.runs(), records)))
    (tmp_path / "paper.tex").write_text(
        r"\documentclass{article}\usepackage{booktabs}\begin{document}"
        r"See Table~\ref{tab:table3}. \input{table} After.\end{document}"
    )
    for name in ("table", "paper") * 2:  # as references need it
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", name]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout[-2000:]
    for name in ("table", "paper"):
        log = (tmp_path / f"{name}.log").read_text(encoding="latin-1")
        assert "(1 page" in log
        assert not re.findall(r"Overfull.*|Warning.*", log)
