"""The folder of a data set, which can be asked for before anything heavy is imported."""

from __future__ import annotations

from pathlib import Path

from se_med.config.data import DataConfig
from se_med.errors import UsageError


def require_root(data: DataConfig) -> Path:
    """Return the folder of the data set.

    Raises:
        UsageError: no folder is named, or it is not there.
    """
    if data.root is None:
        raise UsageError("data.root: no data set is named; set data.root in the file, or data.root=FOLDER on the command line")
    try:
        if not data.root.is_dir():
            fault = "is a file, not a folder" if data.root.exists() else "does not exist"
            raise UsageError(f"data.root: {data.root} {fault}")
    except OSError as error:  # a name that is too long, a folder above that may not be entered
        raise UsageError(f"data.root: {data.root} cannot be used: {error.strerror}") from None
    return data.root
