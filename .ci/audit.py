"""Ask the advisory service about every locked dependency: exit code 1 on findings, 0 without, or without an answer."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

LOCK = Path(__file__).resolve().parents[1] / "requirements.lock"
# What pip-audit leaves on standard error when the service does not answer; its exit code is 1 then, as on findings.
UNREACHABLE = re.compile(r"requests\.exceptions\.|ConnectionError|Could not connect|network may be blocking|urllib3")


def judge(dependencies: list[dict[str, Any]]) -> tuple[int, str]:
    """Judge pip-audit's report.

    Args:
        dependencies: of its JSON: name and version of each with its vulnerabilities `vulns`, or a `skip_reason`.

    Returns:
        The exit code, and what to say: one line per finding, and one of totals.
    """
    asked = [one for one in dependencies if "skip_reason" not in one]
    lines = []
    for one in asked:
        for found in one["vulns"]:
            fixed = ", ".join(found["fix_versions"]) or "no version yet"
            lines.append(f"{one['name']} {one['version']}: {found['id']} (fixed in {fixed})")
    skipped = len(dependencies) - len(asked)
    if not asked:
        return 0, f"the advisory service knows none of the {skipped} dependencies; nothing was audited"
    unknown = f"; {skipped} more are unknown to the advisory service" if skipped else ""
    lines.append(f"{len(asked)} dependencies audited, {len(lines) or 'no'} known vulnerabilities{unknown}")
    return int(len(lines) > 1), "\n".join(lines)


def main() -> int:
    """Audit the lock."""
    options = ["--disable-pip", "--require-hashes", "--format=json", "--progress-spinner=off"]
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(LOCK), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        code, text = judge(json.loads(done.stdout)["dependencies"])
    except (ValueError, KeyError):
        if UNREACHABLE.search(done.stderr):
            code, text = 0, "the advisory service could not be reached; nothing was audited"
        else:
            code, text = 1, f"pip-audit failed:\n{done.stderr.strip()}"
    print(text)
    return code


if __name__ == "__main__":
    sys.exit(main())
