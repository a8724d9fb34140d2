"""The audit of the lock: what it says of pip-audit's reports, and that it needs no network."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "audit.py"


@pytest.fixture
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_findings_are_named_and_end_in_1(audit: ModuleType) -> None:
    report = [
        {"name": "sound", "version": "1.0", "vulns": []},
        {"name": "leaky", "version": "2.0", "vulns": [{"id": "CVE-1", "fix_versions": ["2.1", "3.0"]}]},
        {"name": "open", "version": "3.0", "vulns": [{"id": "CVE-2", "fix_versions": []}]},
    ]
    code, text = audit.judge(report)
    assert code == 1
    assert text.splitlines() == [
        "leaky 2.0: CVE-1 (mended in 2.1, 3.0)",
        "open 3.0: CVE-2 (mended in no version yet)",
        "3 dependencies audited, 2 known vulnerabilities",
    ]


def test_nothing_found_ends_in_0_and_hides_nothing(audit: ModuleType) -> None:
    report = [{"name": "a", "version": "1", "vulns": []}, {"name": "b", "skip_reason": "not found"}]
    one = "1 dependencies audited, no known vulnerabilities; 1 more are unknown to the advisory service"
    assert audit.judge(report) == (0, one)
    none = "the advisory service knows none of the 1 dependencies; nothing was audited"
    assert audit.judge(report[1:]) == (0, none)


def test_without_a_network_it_says_so_in_a_line_and_ends_in_0(tmp_path: Path) -> None:
    nowhere = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9") | {"XDG_CACHE_HOME": str(tmp_path)}
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), **nowhere}
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.stdout == "the advisory service could not be reached; nothing was audited\n"
    assert done.returncode == 0
