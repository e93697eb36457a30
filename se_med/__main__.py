"""``python -m se_med`` is the ``se-med`` command."""

from __future__ import annotations

import gc
import sys


def main() -> int:
    """Run the command; Ctrl-C while it is still being imported ends as it does later."""
    gc.disable()  # what is imported stays, and looking through it time and again takes a twentieth of the start
    try:
        from se_med.cli.app import main as run

        gc.freeze()
        gc.enable()
        return run()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
