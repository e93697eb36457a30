"""``python -m se_med`` is the ``se-med`` command."""

import sys

from se_med.cli.app import main

sys.exit(main())
