"""Tables as files. The golden files hold every kind of cell; look at their difference before you update them."""

import csv
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_records import fill, many

from replicate.report.document import document, strict_json
from replicate.report.render import cells_csv, escape_latex, latex, markdown, runs_csv, write_table
from replicate.report.table import Table, build
from replicate.store.run_folder import Records

Golden = Callable[[str, str], None]


def test_golden_files(everything: Table, golden: Golden, tmp_path: Path) -> None:
    paths = write_table(document(everything), tmp_path / "new")
    assert [path.name for path in paths] == ["table.md", "table.tex", "table.csv", "runs.csv", "table.json"]
    for path in paths:
        golden(path.name, path.read_text(encoding="utf-8"))


def test_renderers_need_nothing_but_table_json(everything: Table) -> None:
    doc = document(everything)
    read = json.loads(strict_json(doc))
    assert [render(read) for render in (markdown, latex, cells_csv, runs_csv)] == [
        render(doc) for render in (markdown, latex, cells_csv, runs_csv)
    ]


def test_csv_numbers_by_hand(everything: Table) -> None:
    first, *_ = csv.DictReader(io.StringIO(cells_csv(document(everything))))
    assert float(first["interval_low"]) == pytest.approx(94 - 4.302653 * 0.2 / 3**0.5)  # t table, 2 degrees of freedom
    assert (first["accuracies"], first["seeds"], first["nc"]) == ("93.8 94 94.2", "0 1 2", "False")
    rows = csv.DictReader(io.StringIO(runs_csv(document(everything))))
    (crashed,) = (row for row in rows if row["status"] == "error")
    assert (crashed["error"], crashed["test_accuracy"], crashed["clip_norm"]) == ("OSError: no | room", "", "")
    assert crashed["milestones"] == "40000 60000 80000"


def test_a_spreadsheet_finds_no_formula(everything: Table) -> None:
    doc = document(everything)
    doc["protocol"]["data_label"] = "=1+1"
    assert next(csv.DictReader(io.StringIO(cells_csv(doc))))["data_label"] == "'=1+1"


def test_commits_and_devices_are_named_once_in_order(everything: Table) -> None:
    commits = [("b" * 40, None), ("b" * 40, False), ("a" * 40, True), ("a" * 40, False)]
    devices = ["Xeon_", "EPYC"]
    results = [
        replace(result, commit=commit, dirty=dirty, device=devices[index % 2])
        for index, (result, (commit, dirty)) in enumerate(zip(everything.results, commits, strict=False))
    ]
    text = markdown(document(replace(everything, results=tuple(results))))
    assert f"- Code: commit {'a' * 12}, {'a' * 12} with changes, {'b' * 12}\n" in text
    assert "- Device: EPYC, Xeon\\_\n" in text


def test_an_error_without_text_is_an_empty_field(everything: Table) -> None:
    doc = document(everything)
    doc["runs"][0]["error"] = " \n"
    assert next(csv.DictReader(io.StringIO(runs_csv(doc))))["error"] == ""


def test_without_published_numbers(everything: Table) -> None:
    doc = document(replace(everything, reference=False, judgements=()))
    text = markdown(doc)
    assert "| paper " not in text.partition("## Cells")[0]
    assert "## Claims" not in text
    assert "published" not in latex(doc)


def test_long_lists_are_cut(everything: Table) -> None:
    doc = document(everything)
    crashed = next(run for run in doc["runs"] if run["status"] == "error")
    text = markdown({**doc, "runs": [crashed] * 12, "unreadable": doc["unreadable"] * 11})
    assert (text.count("- Error: "), text.count("- Unreadable: ")) == (10, 10)
    assert "- … and 2 more errors.\n" in text
    assert "- … and 1 more unreadable file.\n" in text


def test_latex_characters() -> None:
    assert escape_latex("a_b & 5 % ± #1 {x}~^\\") == (
        r"a\_b \& 5 \% $\pm$ \#1 \{x\}\textasciitilde{}\textasciicircum{}\textbackslash{}"
    )
    assert escape_latex("é ß 🙂 日\n") == "é ß ? ??"


def test_latex_is_plain(everything: Table) -> None:
    text = latex(document(replace(everything, name="small_one")))
    assert text.isascii()
    assert r"\label{tab:small-one}" in text
    assert text.count("{") == text.count("}")
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(lines) == 1 + 3 * 3
    assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {2}


def compiled(folder: Path, name: str) -> str:
    """Run pdflatex twice, as references need it; return the log."""
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", name]
    for _ in range(2):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout[-2000:]
    return (folder / name).with_suffix(".log").read_text(encoding="latin-1")


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex on this machine")
@pytest.mark.parametrize("own_page", [True, False], ids=["on its own page", "in a paper"])
def test_latex_compiles(tmp_path: Path, own_page: bool) -> None:
    # the widest table there is: five columns, with standard deviations, verdicts and footnotes
    whole = many(5)
    results = fill(tmp_path, whole.runs(), points=1, layers=False)
    named = [replace(result, data_label="cifar10_jpeg 100% ~^\\ é日") for result in results]
    records = Records({result.run.run_id: result for result in named}, {}, 0)
    (tmp_path / "table.tex").write_text(latex(document(build(whole, whole.runs(), records, tmp_path))))
    paper = (
        r"\documentclass{article}\usepackage{booktabs}\begin{document}"
        r"See Table~\ref{tab:table3}. \input{table} After.\end{document}"
    )
    (tmp_path / "paper.tex").write_text(paper)
    log = compiled(tmp_path, "table.tex" if own_page else "paper.tex")
    assert "(1 page" in log
    assert not re.findall(r"Overfull.*|Warning.*", log)
