"""``python -m se_med`` is the ``se-med`` command."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command; Ctrl-C while it is still being imported ends as it does later."""
    try:
        from se_med.cli.app import main as run

        return run()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
