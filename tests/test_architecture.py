"""What the linter of imports does not see: the package's files, and that quick commands load nothing heavy."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1] / "replicate"
FILES = {path: path.read_text() for path in sorted(ROOT.rglob("*.py"))}


def test_only_a_lease_writes_into_the_folder_of_a_run() -> None:
    assert {path.name for path, text in FILES.items() if "staging_dir" in text} == {"files.py", "lease.py"}
    names = re.compile(r'"(result\.json|curve\.csv|layers\.json|predictions\.npz)"')
    spelled = {path.parent.name for path, text in FILES.items() if names.search(text)}
    assert spelled == {"store"}, "store/run_folder.py names the files of a run"


def test_quick_commands_load_nothing_heavy(tmp_path: Path) -> None:
    code = """
import sys
from replicate.cli import main
main(["--help"])
print({"pydantic", "yaml", "numpy"} & set(sys.modules))
import replicate.carry_out, replicate.doctor
for command in ("status", "table", "score"):
    main([command, "experiments/smoke.yaml", "--out", sys.argv[1]])
print({"torch", "pandas", "seaborn", "scipy.stats"} & set(sys.modules))
"""
    words = [sys.executable, "-c", code, tmp_path]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT.parent, check=True)
    assert done.stdout.count("set()\n") == 2


def test_files_that_the_report_reads_are_in_the_package() -> None:
    setup = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())
    patterns = setup["tool"]["setuptools"]["package-data"]["replicate.report"]
    packaged = {path for pattern in patterns for path in (ROOT / "report").glob(pattern)}
    assert {path for path in (ROOT / "report").rglob("*.*") if path.suffix not in (".py", ".pyc", ".md")} <= packaged


def test_files_are_short() -> None:
    # A file of more than about 250 lines probably has two jobs.
    assert [str(path) for path, text in FILES.items() if len(text.splitlines()) > 260] == []
