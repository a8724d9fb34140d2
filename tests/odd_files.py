"""Things in place of a file that would block, flood or mislead who opens them."""

import os
from pathlib import Path

KINDS = ("pipe", "folder", "link", "huge")


def make_odd(path: Path, kind: str, victim: Path) -> None:
    """Put something at a path that is not a plain file of a reasonable size. A link leads to the victim."""
    path.parent.mkdir(parents=True, exist_ok=True)
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
            (path / "in it").touch()
        case "link":
            path.symlink_to(victim)
            victim.write_text("precious")
        case "huge":
            path.touch()
            os.truncate(path, 5 * 10**9)
