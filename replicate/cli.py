"""The command line: the options of every command, and the exit codes."""

import signal
import sys
from collections.abc import Callable

from cyclopts import App, CycloptsError, Parameter, UnknownCommandError, UnusedCliTokensError

from replicate import __version__, commands
from replicate.errors import UsageError, transient_kind, unknown

MAX_MESSAGE = 2000  # characters of a message, which may repeat the content of a file

app = App(
    name="replicate",
    help="""Replication of "All you need is a good init" (Mishkin & Matas, ICLR 2016).

    Start with: replicate matrix experiments/smoke.yaml
    """,
    version=__version__,
    suppress_keyboard_interrupt=False,  # main returns 3
    # `--set a=1 b=2` takes all words up to the next option; without this, b=2 would be the next positional argument.
    default_parameter=Parameter(consume_multiple=1, negative="", show_default=False),
)
COMMANDS: dict[str, Callable[..., int]] = {
    "matrix": commands.matrix,
    "run": commands.run,
    "status": commands.status,
    "table": commands.table,
    "figures": commands.figures,
    "report": commands.report,
    "verify": commands.verify,
    "score": commands.score,
    "collect": commands.collect,
    "sync": commands.sync,
    "dashboard": commands.dashboard,
    "doctor": commands.doctor,
    "list": commands.list_names,
}
for position, (name, command) in enumerate(COMMANDS.items()):
    app.command(command, name=name, sort_key=position)


def main(arguments: list[str] | None = None) -> int:
    """Carry out a command line.

    Args:
        arguments: words after the program's name; None: those of this process.

    Returns:
        The exit code: 0 done (n/c and diverged are results), 1 some runs ended in an error, 2 wrong usage, 3 stopped
        early with runs left.
    """
    terminate = signal.signal(signal.SIGTERM, signal.default_int_handler)  # handle SIGTERM like Ctrl-C
    try:
        words = sys.argv[1:] if arguments is None else arguments
        code = app(words, exit_on_error=False, print_error=False, result_action="return_value")
        return (code or 0) if words else 2  # no code: the help or the version was shown
    except UnknownCommandError as error:
        return _refuse(str(unknown("command", (error.unused_tokens or [""])[0], COMMANDS)))
    except UnusedCliTokensError as error:
        return _refuse(f"unexpected argument {(error.unused_tokens or [''])[0]!r}")
    except (UsageError, CycloptsError) as error:
        return _refuse(str(error))
    except OSError as error:
        if not (transient_kind(error) or isinstance(error, PermissionError | NotADirectoryError | FileExistsError)):
            raise
        return _refuse(f"cannot write {error.filename or 'a file'}: {error.strerror}; make room, or give another --out")
    except KeyboardInterrupt:  # before or after the runs; while they run, the scheduler stops them
        print("replicate: stopped", file=sys.stderr)
        return 3
    finally:
        signal.signal(signal.SIGTERM, terminate)


def _refuse(message: str) -> int:
    from replicate.store.files import escape_control_chars

    print(f"replicate: {escape_control_chars(message[:MAX_MESSAGE])}", file=sys.stderr)
    return 2
