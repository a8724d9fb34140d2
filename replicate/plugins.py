"""Plugins: files with initialisations of the user's own, which only the command line names (`--plugin`).

Commands that train nothing read such a file as text. Its code is run where a run is trained or checked.
"""

import hashlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path
from types import ModuleType
from typing import Any

from replicate.errors import UsageError
from replicate.names import INITS

NAME = "[a-z][a-z0-9_]{0,59}"  # of an initialisation; it begins the names of folders
DIGEST = "sha256:[0-9a-f]{16}"  # the prefix keeps YAML from reading digits as a number
MAX_BYTES = 1_000_000  # of a file
KINDS = ("shape", "model")  # the first parameter of a scheme, and that of a model initialisation


@dataclass(frozen=True, slots=True)
class Plugin:
    """A file as it was when the command started. It travels to the processes that train, so an edit cannot mix in.

    Args:
        path: of the file, for messages.
        source: its content.
        inits: the name of each initialisation, and what the file says about it: the first line of its docstring.
    """

    path: Path
    source: bytes
    inits: tuple[tuple[str, str], ...]

    @property
    def digest(self) -> str:
        """The digest of the content, which is part of the identity of the runs that use it."""
        return f"sha256:{hashlib.sha256(self.source).hexdigest()[:16]}"


_registered: list[Plugin] = []
_any_name = False


def register(plugins: Iterable[Plugin], any_name: bool = False) -> None:
    """Make the initialisations of some plugins known in this process, and forget those of others.

    Args:
        plugins: the files.
        any_name: whether names of other plugins are known too, because the user gives the digest of theirs.

    Raises:
        UsageError: two have an initialisation of the same name.
    """
    owners: dict[str, Plugin] = {}
    plugins = [*dict.fromkeys(plugins)]
    for plugin in plugins:
        for name, _ in plugin.inits:
            if name in owners:
                raise UsageError(f"{plugin.path}: {name} is in {owners[name].path} too; rename one of them")
            owners[name] = plugin
    global _any_name  # what the command line says holds for the whole process
    _registered[:], _any_name = plugins, any_name


def registered() -> tuple[Plugin, ...]:
    """The plugins that this process knows."""
    return tuple(_registered)


def find(init: str) -> Plugin | None:
    """The plugin that has an initialisation of this name; None: there is none."""
    return next((plugin for plugin in _registered if init in dict(plugin.inits)), None)


def has(init: str) -> bool:
    """Whether there is an initialisation of this name, in the package or in a plugin."""
    return init in INITS or find(init) is not None or (_any_name and re.fullmatch(NAME, init) is not None)


def read_plugin(path: Path) -> Plugin:
    """Read a file, without running its code. Its initialisations are the public functions of shape or model in it.

    Raises:
        UsageError: it cannot be read, is not Python, has no initialisation, or one with a wrong name.
    """
    import ast  # here, because most commands have no plugin

    try:
        if path.exists() and not (path.is_file() and path.stat().st_size <= MAX_BYTES):  # a pipe would block
            raise UsageError(f"cannot read the plugin {path}: it is no file, or it has more than {MAX_BYTES:,} bytes")
        source = path.read_bytes()
        body = ast.parse(source).body
    except OSError as error:
        raise UsageError(f"cannot read the plugin {path}: {error.strerror}") from None
    except SyntaxError as error:
        where = f"line {error.lineno}: " if error.lineno else ""
        raise UsageError(f"cannot read the plugin {path}: {where}{error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise UsageError(f"cannot read the plugin {path}: {str(error) or type(error).__name__}") from None
    functions = [one for one in body if isinstance(one, ast.FunctionDef) and not one.name.startswith("_")]
    found = {}
    for one in functions:
        arguments = [*one.args.posonlyargs, *one.args.args]
        if not arguments or arguments[0].arg not in KINDS or (len(arguments) < 3 and one.args.vararg is None):
            continue
        if not re.fullmatch(NAME, one.name):
            problem = f"{path}: {one.name} is no name of an initialisation"
            raise UsageError(f"{problem}; use up to 60 lower-case letters, digits and _")
        if one.name in INITS:
            raise UsageError(f"{path}: there is an initialisation {one.name} already; give yours another name")
        says = (ast.get_docstring(one) or one.name).splitlines()[0]
        found[one.name] = says.encode("utf-8", "replace").decode()  # lone surrogates cannot be written
    if not found:
        kinds = "(shape, generator, negative_slope) or of (model, batches, generator)"
        raise UsageError(f"{path} has no initialisation: no public `def` of {kinds} at its top level")
    return Plugin(path.absolute(), source, tuple(found.items()))


def require(init: str, digest: str) -> Plugin:
    """Return the plugin of an initialisation.

    Raises:
        UsageError: it was not given, or its content has another digest.
    """
    plugin = find(init)
    if plugin is None:
        raise UsageError(f"{init} is from a plugin with digest {digest}; give its file with --plugin")
    if plugin.digest != digest:
        raise UsageError(f"{init} is from a plugin with digest {digest}, but {plugin.path} has {plugin.digest}")
    return plugin


@cache
def load(plugin: Plugin) -> ModuleType:
    """Run the code of a plugin.

    Raises:
        UsageError: it fails, or an initialisation is no function of shape or model after it.
    """
    module = ModuleType(f"replicate_plugin_{plugin.digest.removeprefix('sha256:')}")
    module.__file__ = str(plugin.path)
    sys.modules[module.__name__] = module  # where dataclasses and pickle look for it
    try:
        exec(compile(plugin.source, plugin.path, "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:
        lines = [
            frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(plugin.path)
        ]
        where = f"line {lines[-1]}: " if lines else ""
        why = " ".join([f"{type(error).__name__}:", *str(error).splitlines()[:1]])
        raise UsageError(f"cannot import {plugin.path}: {where}{why}") from None
    if wrong := [name for name, _ in plugin.inits if _first_parameter(vars(module).get(name)) not in KINDS]:
        raise UsageError(
            f"{plugin.path}: {wrong[0]} is no function of shape or model any more, after a decorator or `del`"
        )
    return module


def _first_parameter(function: Any) -> str | None:
    try:
        return next(iter(inspect.signature(function).parameters), None)
    except (TypeError, ValueError):  # it is no function, or one of C
        return None


def function_of(init: str, digest: str) -> Callable[..., Any]:
    """Return the function of an initialisation. Raises UsageError as `require` and `load`."""
    function: Callable[..., Any] = getattr(load(require(init, digest)), init)

    @wraps(function)
    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except SystemExit as error:
            raise RuntimeError(f"{init} calls sys.exit") from error

    return call
