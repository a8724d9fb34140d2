"""The command line: its parser, and the exit codes."""

import argparse
import signal
import sys
from pathlib import Path

from replicate import __version__
from replicate.arguments import (
    OUT,
    add_collect,
    add_dry_run,
    add_resources,
    add_sample,
    add_selection,
    add_shard,
    add_watch,
    split_cluster,
)
from replicate.commands import FILE_COMMANDS, collect_, doctor, names
from replicate.errors import UsageError, transient_kind
from replicate.store.files import escape_control_chars

LONGEST = 2000  # characters of a message, which may repeat what stands in a file


def make_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="replicate",
        description='Replication of "All you need is a good init" (Mishkin & Matas, ICLR 2016).',
        epilog="Begin with: replicate matrix experiments/smoke.yaml",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    made = {}
    for name, function in {**FILE_COMMANDS, "list": names, "doctor": doctor}.items():
        made[name] = commands.add_parser(name, help=function.__doc__, description=function.__doc__, allow_abbrev=False)
        made[name].set_defaults(function=function)
        if name in FILE_COMMANDS:
            add_selection(made[name])
        made[name].add_argument(
            "--data-dir", type=Path, default=Path("data"), help="where data sets are found, and downloaded to (data/)"
        )
    for name in ("matrix", "run", "verify"):
        add_resources(made[name], several=name != "run", mirrored=name != "verify")
    add_shard(made["matrix"], made["status"])
    add_sample(made["verify"])
    add_watch(made["status"])
    add_dry_run(made["sync"], made["dashboard"])
    made["dashboard"].add_argument("--entity", metavar="NAME", help="W&B user or team (WANDB_ENTITY, or the key's own)")
    made["doctor"].add_argument("--out", type=Path, default=OUT, metavar="DIR", help=f"output folder ({OUT})")
    made["collect"] = commands.add_parser(
        "collect", help=collect_.__doc__, description=collect_.__doc__, allow_abbrev=False
    )
    made["collect"].set_defaults(function=collect_)
    add_collect(made["collect"])
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Carry out a command line.

    Returns:
        The exit code: 0 done (n/c and diverged are results), 1 some runs ended in error, 2 wrong usage, 3 stopped early
        with more to do.
    """
    terminate = signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends what is going on, as Ctrl-C does
    try:
        words, cluster = split_cluster(sys.argv[1:] if arguments is None else arguments)
        args = make_parser().parse_args(words, argparse.Namespace(cluster=cluster))
        if unused := sorted(cluster.keys() - {getattr(args, "launcher", None)}):
            raise UsageError(f"--{unused[0]}.… is for replicate matrix and verify with --launcher {unused[0]}")
        code: int = args.function(args)
    except UsageError as error:
        print(f"replicate: {escape_control_chars(str(error)[:LONGEST])}", file=sys.stderr)
        return 2
    except OSError as error:
        if transient_kind(error) is None and not isinstance(
            error, PermissionError | NotADirectoryError | FileExistsError
        ):
            raise
        name = escape_control_chars(str(error.filename or "a file"))
        print(f"replicate: cannot write {name}: {error.strerror}; make room, or give another --out", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # before or after the runs; while they run, the scheduler ends them and says so
        print("replicate: stopped", file=sys.stderr)
        return 3
    finally:
        signal.signal(signal.SIGTERM, terminate)
    return code
