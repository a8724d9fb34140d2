"""The audit of the locked dependencies: its report, and that it works without a network."""

import runpy
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / ".ci" / "audit.py"
judge = runpy.run_path(str(SCRIPT))["judge"]
SOUND = {"name": "sound", "version": "1.0", "vulns": []}


def test_findings_are_named_and_exit_with_1() -> None:
    leaky = {"name": "leaky", "version": "2.0", "vulns": [{"id": "CVE-1", "fix_versions": ["2.1", "3.0"]}]}
    unfixed = {"name": "open", "version": "3.0", "vulns": [{"id": "CVE-2", "fix_versions": []}]}
    code, text = judge([SOUND, leaky, unfixed])
    assert code == 1
    assert text.splitlines() == [
        "leaky 2.0: CVE-1 (fixed in 2.1, 3.0)",
        "open 3.0: CVE-2 (fixed in no version yet)",
        "3 dependencies audited, 2 known vulnerabilities",
    ]


def test_without_findings_it_exits_with_0_and_names_what_was_not_audited() -> None:
    skipped = {"name": "b", "skip_reason": "not found"}
    one = "1 dependencies audited, no known vulnerabilities; 1 more are unknown to the advisory service"
    assert judge([SOUND, skipped]) == (0, one)
    assert judge([skipped]) == (0, "the advisory service knows none of the 1 dependencies; nothing was audited")


def test_without_a_network_it_reports_so_and_exits_with_0(tmp_path: Path) -> None:
    nowhere = dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9") | {"XDG_CACHE_HOME": str(tmp_path)}
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), **nowhere}
    found = subprocess.check_output([sys.executable, str(SCRIPT)], env=environment, text=True, timeout=300)
    assert found == "the advisory service could not be reached; nothing was audited\n"
