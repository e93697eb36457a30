"""`se-med train`: train one network from a configuration file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from se_med.cli.console import make_console


def train(
    config: Path,
    *overrides: Annotated[str, Parameter(allow_leading_hyphen=False)],
    runs: Path = Path("runs"),
    resume: bool = False,
) -> int:
    """Train a network as a configuration file says and validate it on the held-out fold.

    Args:
        config: configuration file (YAML).
        overrides: settings that replace those of the file, as key=value, e.g. attention=scse training.steps=2000.
        runs: folder in which the run folder runs/NAME is made.
        resume: go on with an interrupted run of that name.
    """
    begun = time.monotonic()
    from se_med.training.allocator import keep_memory_between_steps

    keep_memory_between_steps()
    from se_med.cli.loading import loading
    from se_med.config.load import load_config
    from se_med.data.root import require_root
    from se_med.training.run_folder import RunFolder

    configuration = load_config(config, overrides)
    require_root(configuration.data)
    RunFolder(runs / configuration.name).refuse(resume=resume)
    with loading():
        from se_med.cli.progress import progress_bar
        from se_med.training.fit import fit
    result = fit(configuration, runs / configuration.name, resume=resume, progress=progress_bar, begun=begun)

    console = make_console()
    console.print(result.summary.table())
    console.print(f"{result.steps} steps in {result.seconds / 60:.1f} minutes; run folder {result.folder}", soft_wrap=True)
    return 0
