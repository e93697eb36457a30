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
from se_med.cli.console import printable
from se_med.errors import SeMedError

COMMANDS = {
    "cache": "List and clear the prepared cases that training keeps.",
    "check": "Read every case of a data set and tell what is wrong: errors stop training (exit code 3), warnings do not.",
    "compare": "Make every run of a study (arms x folds x seeds) and compare the arms with the reference.",
    "data": "Get data sets: download a public one, or make the sample.",
    "evaluate": "Score segmentations: Dice, HD95, NSD and volume error per structure, with missed and spurious ones counted.",
    "explain": "Explain attention: do gates depend on the image, do they tell structures apart, which could go?",
    "info": "Count a network stage by stage: parameters, multiplications, memory kept by training, and how much its attention "
    "adds.",
    "list": "List what can be chosen in a configuration.",
    "plan": "Read a data set and plan a run: spacing, normalisation, patch, network, batch; each with its reason.",
    "predict": "Segment volumes and 2D images; each result is on its image's grid, with a JSON file of the structures' sizes "
    "beside it.",
    "schema": "Print the JSON Schema of the configuration file (for editors: completion and checks while typing).",
    "train": "Train a network as a configuration file says and validate it on the held-out fold.",
}
"""What each command does, as the first line of its own help says it: the list of commands imports none of them."""

GROUPS = ("cache", "data", "list")
"""Commands that have commands of their own."""


def build_app(chosen: str | None) -> App:
    """Return the command line; of its commands the chosen one alone is imported with its whole help, the others when called."""
    app = App(
        name="se-med",
        version=__version__,
        help_format="plaintext",  # the commands list is plain, and markdown takes long to import
        help="Train, apply and compare U-Nets with squeeze-and-excitation on medical volumes.\n\n"
        "Add --debug to any command for the traceback of an error.",
    )
    for name, summary in COMMANDS.items():
        help_of_it = None if name == chosen else summary
        if name in GROUPS:
            app.command(f"se_med.cli.{name}:app", name=name, help=help_of_it)
        else:
            app.command(f"se_med.cli.{name}:{name}", name=name, help=help_of_it, help_format="markdown")
    return app


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
        app = build_app(arguments[0] if arguments else None)
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
