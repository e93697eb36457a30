"""`se-med schema`: the JSON Schema of the configuration, for editors."""

from __future__ import annotations

import json
import sys


def schema() -> int:
    """Print the JSON Schema of the configuration file (for editors: completion and checks while typing)."""
    from se_med.config.schema import json_schema

    sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")
    return 0
