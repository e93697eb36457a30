"""The `se-med` command: its subcommands, its errors and its exit codes.

Nothing heavy is imported here or at the top of a command's file: torch and MONAI cost seconds.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import TextIO

from cyclopts import App

from se_med import __version__
from se_med.cli.cache import app as cache
from se_med.cli.check import check
from se_med.cli.compare import compare
from se_med.cli.console import printable
from se_med.cli.data import app as data
from se_med.cli.evaluate import evaluate
from se_med.cli.explain import explain
from se_med.cli.info import info
from se_med.cli.list import app as list_app
from se_med.cli.plan import plan
from se_med.cli.predict import predict
from se_med.cli.schema import schema
from se_med.cli.train import train
from se_med.errors import SeMedError

app = App(
    name="se-med",
    version=__version__,
    help_format="plaintext",  # the commands list is plain, and markdown takes long to import
    help="Train, apply and compare U-Nets with squeeze-and-excitation on medical volumes.\n\n"
    "Add --debug to any command for the traceback of an error.",
)
for command in (plan, train, predict, evaluate, explain, compare, check, info, schema):
    app.command(command, help_format="markdown")
for group in (list_app, data, cache):
    app.command(group)


def main(tokens: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (0 done, 1 failed, 2 usage, 3 data, 130/143 interrupted)."""
    arguments = list(sys.argv[1:] if tokens is None else tokens)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    _log_to_stderr()
    if not debug:
        # Libraries warn of their own changes to come; what a user should know is logged.
        warnings.simplefilter("ignore")
    try:
        return int(app(arguments, result_action="return_value") or 0)
    except SeMedError as error:
        if debug:
            traceback.print_exc()
        sys.stderr.write(f"{printable(error.message)}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except (OSError, MemoryError) as error:  # of the machine, not of se-med: a path that is too long, a disk that fails
        if debug:
            traceback.print_exc()
        sys.stderr.write(f"{printable(_of_the_machine(error))}\n")
        return 1


def _of_the_machine(error: OSError | MemoryError) -> str:
    if isinstance(error, MemoryError):
        return "out of memory: close other programs, or use smaller volumes, patches or batches"
    where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    return f"{where}{error.strerror or error}; check the path, its rights and the free space"


class _PrintableFormatter(logging.Formatter):
    """Writes out what a terminal would obey: messages name files, whose names come from anybody."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to whatever ``sys.stderr`` is now: a progress bar replaces it to keep lines above the bar."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def _log_to_stderr() -> None:
    logger = logging.getLogger("se_med")
    if not logger.handlers:
        handler = _StderrHandler()
        handler.setFormatter(_PrintableFormatter("%(message)s"))
        # On a terminal the progress bar shows what the line of each epoch says.
        handler.setLevel(logging.INFO if sys.stderr.isatty() else logging.DEBUG)
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
