"""The command line: the options of every command, and the exit codes."""

import contextlib
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Literal, get_args, get_origin

from cyclopts import (
    App,
    Argument,
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    Parameter,
    RepeatArgumentError,
    Token,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from replicate import __version__, streams
from replicate.commands import matrix, results, tools
from replicate.errors import WANTED, UsageError, synonym, transient_kind, unknown
from replicate.isolation import isolated

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
    "matrix": matrix.matrix,
    "run": matrix.run,
    "search": matrix.search,
    "status": matrix.status,
    "table": results.table,
    "figures": results.figures,
    "report": results.report,
    "show": results.show,
    "diff": results.diff,
    "verify": matrix.verify,
    "score": results.score,
    "ensemble": results.ensemble,
    "power": results.power,
    "collect": results.collect,
    "sync": tools.sync,
    "dashboard": tools.dashboard,
    "check": tools.check,
    "check-init": tools.check_init,
    "doctor": tools.doctor,
    "list": tools.list_names,
}
for position, (name, command) in enumerate(COMMANDS.items()):
    app.command(command, name=name, sort_key=position)
app.register_install_completion_command(help="Install the completion of commands and options for your shell.")


def main(arguments: list[str] | None = None) -> int:
    """Carry out a command line.

    Args:
        arguments: words after the program's name; None: those of this process.

    Returns:
        The exit code: 0 done (n/c and diverged are results), 1 some runs ended in an error, 2 wrong usage, 3 stopped
        early with runs left, 141 nobody reads the output any more.
    """
    streams.prepare()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as nohup sets it
            signal.signal(number, signal.default_int_handler)  # like Ctrl-C
    try:
        with isolated(), streams.patient_output() as error:
            code = _call(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:  # before or after the runs; while they run, the scheduler stops them
        _say("stopped")
        return 3
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    match error():
        case None:
            return code
        case BrokenPipeError():  # `| head` has read enough
            return 128 + signal.SIGPIPE
        case lost:
            _say(f"cannot write the output: {lost.strerror}")
            return max(1, code)


def _call(words: list[str]) -> int:
    try:
        code = app(checked_words(words), exit_on_error=False, print_error=False, result_action="return_value")
        return (code or 0) if words else 2  # no code: the help or the version was shown
    except (UsageError, CycloptsError) as error:
        return _refuse(_sentence(error))
    except OSError as error:
        if not (transient_kind(error) or isinstance(error, PermissionError | NotADirectoryError | FileExistsError)):
            raise
        return _refuse(f"cannot write {error.filename or 'a file'}: {error.strerror}; make room, or give another --out")


def checked_words(words: Iterable[str]) -> list[str]:
    """Check the words of a command line, and replace `~/` where the shell leaves it, as in `--out=~/x`.

    An empty word is refused: somebody forgot to set a variable, and as a folder it would mean the current one.

    Raises:
        UsageError: a word is empty, or an option such as `--out=`.
    """
    home = os.path.expanduser("~")
    given = [re.sub(r"^(--[\w.-]+=)?~(?=/|$)", lambda option: (option[1] or "") + home, word) for word in words]
    for before, word in pairwise(["", *given]):
        if not word.strip() or (word.startswith("--") and word.endswith("=")):
            option = word[:-1] if word.strip() else before if before.startswith("--") else "an argument"
            raise UsageError(f"{option} is empty; give it a value, or leave it out")
    return given


def _sentence(error: UsageError | CycloptsError) -> str:
    """Say what is wrong with a command line. A UsageError says it already."""
    sentence: Exception | str = error
    match error:
        case UnknownCommandError(unused_tokens=[word, *_]):
            sentence = unknown("command", word, COMMANDS)
        case UnusedCliTokensError(unused_tokens=[word, *_]):
            sentence = f"unexpected argument {word!r}"
        case RepeatArgumentError(token=Token(keyword=option)):
            sentence = f"{option} is given twice"
        case MissingArgumentError(keyword=str(option)):
            sentence = f"{option} needs a value"
        case MissingArgumentError(argument=Argument(name="FILE")):
            sentence = "FILE is missing; give an experiment file, such as experiments/smoke.yaml"
        case MissingArgumentError(argument=Argument(name=name), command_chain=[command, *_]):
            sentence = f"{name} is missing; see: replicate {command} --help"
        case CoercionError(token=Token(keyword=str(option), value=value), target_type=kind):
            if get_origin(kind) is Literal:
                sentence = unknown(option, value, get_args(kind))
            elif get_origin(kind) is dict:
                sentence = f"{option} needs a name, such as {option}.NAME {value}"
            elif wanted := WANTED.get(f"{(get_args(kind) or (kind,))[0].__name__}_type"):
                sentence = f"{option} must be {wanted}, not {value!r}"
        case UnknownOptionError(token=Token(keyword=str(option))):
            from replicate.run import TYPES

            name = option.removeprefix("--").replace("-", "_")
            key = name if name in TYPES or "Did you mean" in str(error) else synonym(name)
            if key in TYPES and any("--set" in argument.names for argument in error.argument_collection):
                sentence = f"unknown option {option}; it is a setting of the runs: --set {key}=VALUE"
    return str(sentence)


def _refuse(message: str) -> int:
    from replicate.store.files import escape_control_chars

    _say(escape_control_chars(message[:MAX_MESSAGE]))
    return 2


def _say(message: str) -> None:
    with contextlib.suppress(OSError):  # of a terminal that was closed
        print(f"replicate: {message}", file=sys.stderr)
