"""Where prepared cases are kept."""

from __future__ import annotations

import os
from pathlib import Path


def default_cache() -> Path:
    """Return the user's folder for prepared cases: `$XDG_CACHE_HOME/se-med/prepared`, or the same below `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "se-med" / "prepared"
