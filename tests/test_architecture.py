"""The architecture: imports point one way, and quick commands load nothing heavy."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "replicate"
BASE = {"errors", "run"}
# What each part may import of the others; the parts above `store` know nothing of each other but through it.
MAY = {
    "__main__": {"cli"},
    "arguments": {"options"},
    "cli": {"arguments", "commands", "store", "__init__"},
    "carry_out": {"arguments", "experiment", "options", "store", "matrix", "live"},
    "commands": {
        "arguments",
        "carry_out",
        "experiment",
        "store",
        "settings",
        "matrix",
        "live",
        "report",
        "verify",
        "tracking",
        "data",
        "doctor",
    },
    "doctor": {"matrix", "training", "data", "options", "store", "provenance", "nvidia_mps"},
    "report": {"experiment", "store", "yamlfile"},
    "matrix": {"options", "store", "provenance"},
    "live": {"matrix", "report", "experiment", "store"},
    "verify": {"report", "experiment", "store"},
    "training": {"nn", "init", "data", "options", "store", "provenance", "nvidia_mps"},
    "tracking": {"report", "experiment", "options", "store", "training"},
    "nn": set(),
    "init": set(),
    "data": {"store"},
    "store": set(),
    "experiment": {"store", "yamlfile"},
    "settings": {"yamlfile"},
    "options": set(),
    "provenance": {"store"},
    "nvidia_mps": {"store"},
    "run": set(),
    "worker": {"matrix", "options", "store", "tracking", "training"},
    "errors": set(),
    "yamlfile": set(),
    "__init__": set(),
}
NO_TORCH = {
    "arguments",
    "carry_out",
    "cli",
    "commands",
    "report",
    "tracking",
    "matrix",
    "live",
    "doctor",
    "verify",
    "store",
    "experiment",
    "settings",
    "options",
    "nvidia_mps",
    "provenance",
    "run",
    "errors",
    "worker",
    "yamlfile",
}


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports, those inside functions included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def parts() -> list[tuple[str, Path]]:
    return [(path.relative_to(ROOT).parts[0].removesuffix(".py"), path) for path in sorted(ROOT.rglob("*.py"))]


def test_every_part_is_known() -> None:
    assert {part for part, _ in parts()} == set(MAY)


@pytest.mark.parametrize(("part", "path"), parts(), ids=lambda value: str(value).removeprefix(str(ROOT)))
def test_imports_point_one_way(part: str, path: Path) -> None:
    names = {name.split(".")[1] for name in imports(path) if name.startswith("replicate.") and name.count(".")}
    inside = {name for name in names if (ROOT / name).is_dir() or (ROOT / f"{name}.py").is_file()}
    assert inside <= MAY[part] | BASE | {part}


@pytest.mark.parametrize(("part", "path"), parts(), ids=lambda value: str(value).removeprefix(str(ROOT)))
def test_torch_stays_where_it_is_needed(part: str, path: Path) -> None:
    heavy = {name for name in imports(path) if name.split(".")[0] in ("torch", "torchvision", "pytorch_lightning")}
    if part in NO_TORCH:
        assert not heavy
    if part in ("nn", "init"):
        assert all(name.split(".")[0] == "torch" for name in heavy)


def test_only_build_brings_nets_inits_and_data_together() -> None:
    three = {"nn", "init", "data"}
    users = {
        path.name for _, path in parts() if len({p for p in three for n in imports(path) if f"replicate.{p}" in n}) > 1
    }
    assert users == {"build.py"}


def test_only_a_lease_writes_into_the_folder_of_a_run() -> None:
    staged = "replicate.store.files.write_staged"
    assert {path.name for _, path in parts() if staged in imports(path)} == {"lease.py"}
    names = re.compile(r'"(result\.json|curve\.csv|layers\.json|predictions\.npz)"')
    spelled = [path for part, path in parts() if part != "store" and names.search(path.read_text())]
    assert not spelled, "store/run_folder.py names the files of a run"


@pytest.mark.parametrize(
    "command",
    ["--help", "status experiments/smoke.yaml", "table experiments/smoke.yaml", "score experiments/smoke.yaml"],
)
def test_quick_commands_load_no_torch_and_no_pandas(command: str, tmp_path: Path) -> None:
    code = (
        "import sys; from replicate.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print({'torch', 'pandas', 'seaborn', 'scipy.stats'} & set(sys.modules))"
    )
    words = command.split()
    words += ["--out", str(tmp_path)] if len(words) > 1 else []
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=ROOT.parent, check=True
    )
    assert done.stdout.strip().endswith("set()")


def test_training_knows_no_wandb_and_others_know_only_its_logger() -> None:
    assert not [path for part, path in parts() if part == "training" and "wandb" in path.read_text().lower()]
    seen = {name for part, path in parts() if part in ("tracking", "worker") for name in imports(path)}
    assert {name.split(".")[2] for name in seen if name.startswith("replicate.training.")} == {"logger"}


def test_nothing_in_training_takes_more_than_six_arguments() -> None:
    found = {}
    for part, path in parts():
        if part in ("training", "worker"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef):
                    names = [one.arg for one in (*node.args.args, *node.args.kwonlyargs) if one.arg != "self"]
                    found[f"{path.name}:{node.name}"] = len(names)
    assert {name: count for name, count in found.items() if count > 6} == {}


def test_files_that_the_report_reads_are_in_the_package() -> None:
    setup = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())
    patterns = setup["tool"]["setuptools"]["package-data"]["replicate.report"]
    packaged = {path for pattern in patterns for path in (ROOT / "report").glob(pattern)}
    assert {path for path in (ROOT / "report").rglob("*.*") if path.suffix not in (".py", ".pyc", ".md")} <= packaged


def test_files_are_short() -> None:
    # About 250 lines, one job each: beyond that a file is likely two jobs in one room.
    long = {str(path): lines for _, path in parts() if (lines := len(path.read_text().splitlines())) > 260}
    assert not long
