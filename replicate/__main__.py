"""`python -m replicate`, the same as the command `replicate`."""

import sys

from replicate.cli import main

if __name__ == "__main__":
    sys.exit(main())
