"""`python -m replicate`, the same as the command `replicate`."""

import sys

if not sys.flags.safe_path:  # the current folder is first, where a file may have a library's name
    sys.path.append(sys.path.pop(0))

from replicate.cli import main

if __name__ == "__main__":
    sys.exit(main())
