"""`python -m replicate`, the same as the command `replicate`."""

import sys
from pathlib import Path

if not sys.flags.safe_path:  # the current folder is first, where a file may have a library's name
    here = sys.path.pop(0)
    if Path(here) == Path(__file__).resolve().parents[1]:  # a checkout, which need not be installed
        sys.path.append(here)

from replicate.cli import main

if __name__ == "__main__":
    sys.exit(main())
