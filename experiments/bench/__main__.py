"""Start the benchmark: python experiments/bench --devices cpu."""

import os
import signal
import sys
from pathlib import Path


def main() -> int:
    """Make `bench` and `replicate` importable, here and in the processes started from here, and measure."""
    root = Path(__file__).resolve().parents[2]
    paths = [str(root / "experiments"), str(root)]
    sys.path[:1] = paths  # the first was this folder, whose modules are those of the package `bench`
    # The launcher's server imports `replicate` before it receives our path.
    os.environ["PYTHONPATH"] = os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])])
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the measuring processes, as Ctrl-C does
    from bench import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
