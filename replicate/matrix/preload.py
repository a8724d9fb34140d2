"""Imported by the server of local processes: loads a module, named by REPLICATE_PRELOAD, and keeps what goes wrong."""

import importlib
import os
import traceback

failure = ""  # the first error; a second import in the same process may hide it behind another one
try:
    importlib.import_module(os.environ["REPLICATE_PRELOAD"])
except BaseException as error:  # the server must live to report it
    traceback.print_exc()
    failure = f"cannot load {os.environ['REPLICATE_PRELOAD']}: {type(error).__name__}: {error}"
