"""`se-med schema`: the JSON Schemas of configurations and studies, for editors."""

from __future__ import annotations

import json
import sys


def schema(*, study: bool = False) -> int:
    """Print the JSON Schema of the configuration file (for editors: completion and checks while typing).

    Args:
        study: print that of a study file instead.
    """
    from se_med.config.schema import json_schema

    if study:
        from se_med.study.config import json_schema as schema_of_studies

        document = schema_of_studies()
    else:
        document = json_schema()
    sys.stdout.write(json.dumps(document, indent=2) + "\n")
    return 0
