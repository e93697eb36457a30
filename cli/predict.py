"""`se-med predict`: segment volumes with a trained run."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

log = logging.getLogger(__name__)


def predict(
    run: Path,
    *inputs: Path,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    overwrite: bool = False,
    device: Literal["auto", "cpu", "gpu"] = "auto",
    test_time_flips: bool | None = None,
) -> int:
    """Segment volumes and 2D images; each result is on its image's grid, with a JSON file of the structures' sizes beside it.

    Args:
        run: run folder of a finished training.
        inputs: files or folders of .nii, .nii.gz, .png, .jpg and .tif; name_0000, name_0001, ... are the channels of one case.
        output: folder of the results.
        overwrite: segment again what has a result already.
        device: where the network runs.
        test_time_flips: average over flips along the axes that were flipped in training. Default: as the run is configured.
    """
    from se_med.cli.progress import progress_bar
    from se_med.inference.cases import find_cases, predict_cases
    from se_med.inference.predictor import Predictor

    predictor = Predictor.load(run, device, test_time_flips)
    if test_time_flips and not predictor.flips:
        log.warning("%s: no axis was flipped in training, so there are no test-time flips", run)
    cases = find_cases(inputs, output, len(predictor.plan.channels))
    counts: Counter[str] = Counter()
    failures = []
    with progress_bar("predict", len(cases)) as advance:
        for number, result in enumerate(predict_cases(predictor, cases, overwrite), 1):
            counts[result.status] += 1
            advance(number, result.name)
            log.debug("%s  %s  %.2f s", result.name, result.status, result.seconds)
            if result.status == "failed":
                failures.append(result)
            elif result.message:
                log.warning("%s: %s", result.name, result.message)
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if failures:
        table = Table("case", "failed because", title="failed", title_justify="left")
        for result in failures:
            table.add_row(result.name, result.message)
        console.print(table)
    console.print(
        f"{counts['done']} segmented, {counts['skipped']} skipped (had a result), {counts['failed']} failed; results in {output}",
        soft_wrap=True,
    )
    return 1 if failures else 0
