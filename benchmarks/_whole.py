"""Whether files are what their names say: every file that stands under a final name must be whole, whenever one looks."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

TEMPORARY = re.compile(r"\..+\.\d+\.[0-9a-f]{16}\.tmp")
"""Name of a file or folder that is being written."""
UNCHECKED = {".txt", ".lock", ".stop", ""}
"""Logs, which grow line by line, and files whose existence is all that they say."""


def broken_files(folder: Path) -> list[str]:
    """Return the files below a folder that are not whole, with what is wrong; temporaries are left out."""
    found = []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).parts
        if any(TEMPORARY.fullmatch(part) for part in inside) or path.is_symlink() or not path.is_file():
            continue
        if path.suffix in UNCHECKED:
            continue
        check = _CHECKS.get(path.suffix)
        try:
            if check is None:
                raise ValueError("nobody knows how to check such a file")
            check(path)
        except Exception as error:  # noqa: BLE001  (whatever a reader raises says that the file is broken)
            found.append(f"{path.relative_to(folder)}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
    return found


def temporaries(folder: Path) -> list[str]:
    """Return the temporary files and folders below a folder."""
    return [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.name.endswith(".tmp")]


def _json(path: Path) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    if path.name == "case.json":  # of an entry of the cache, which appears as a whole
        for name, size in content["sizes"].items():
            if (path.parent / name).stat().st_size != size:
                raise ValueError(f"{name} has another size")


def _yaml(path: Path) -> None:
    import yaml

    if not isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict):
        raise ValueError("no mapping")


def _csv(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    rows = list(csv.reader(io.StringIO(text)))
    if not text.endswith("\n") or len({len(row) for row in rows}) != 1:
        raise ValueError("its last line is cut, or its lines are of several lengths")


def _weights(path: Path) -> None:
    from safetensors.numpy import load_file

    load_file(path)


def _checkpoint(path: Path) -> None:
    from se_med.training.checkpoint import load_checkpoint

    load_checkpoint(path)


def _array(path: Path) -> None:
    import numpy as np

    np.load(path, allow_pickle=False)
    if not (path.parent / "case.json").exists():
        raise ValueError("an entry without its manifest")


def _volume(path: Path) -> None:
    from se_med.io.images import read_label

    read_label(path)
    if not (path.parent / path.name.replace(".nii.gz", ".json")).exists():
        raise ValueError("a label file without its sidecar")


def _picture(path: Path) -> None:
    from PIL import Image

    with Image.open(path) as picture:
        picture.load()


def _page(path: Path) -> None:
    if not path.read_text(encoding="utf-8").rstrip().endswith("</html>"):
        raise ValueError("the page has no end")


_CHECKS: dict[str, Callable[[Path], None]] = {
    ".json": _json,
    ".yaml": _yaml,
    ".csv": _csv,
    ".safetensors": _weights,
    ".ckpt": _checkpoint,
    ".npy": _array,
    ".gz": _volume,
    ".png": _picture,
    ".html": _page,
}
