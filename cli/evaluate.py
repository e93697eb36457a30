"""`se-med evaluate`: score segmentations against references."""

from __future__ import annotations

import json as json_format
import sys
from pathlib import Path

from se_med.cli.console import make_console


def evaluate(
    prediction: Path,
    reference: Path,
    *,
    tolerance: float = 1.0,
    ignore_label: int | None = None,
    config: Path | None = None,
    csv: Path | None = None,
    json: bool = False,
    only_predicted: bool = False,
    images: Path | None = None,
    picture: Path | None = None,
) -> int:
    """Score segmentations: Dice, HD95, NSD and volume error per structure, with missed and spurious ones counted.

    Args:
        prediction: folder of label maps, or one.
        reference: folder of label maps of the same names, or one.
        tolerance: tolerance of the NSD in mm.
        ignore_label: value in the references of voxels without a truth, which are not scored.
        config: run folder or configuration whose data.labels, data.regions, data.background_values and data.ignore_label say what
            the label values mean. Default: the JSON files beside the predictions, else the references' dataset.json.
        csv: file for the scores of every case.
        json: print one JSON document instead of tables.
        only_predicted: leave references without a prediction out, instead of counting their structures as missed.
        images: folder of the images, for the picture.
        picture: PNG of the case with the median Dice, both contours drawn.
    """
    from se_med.cli.loading import loading
    from se_med.errors import UsageError

    if (picture is None) != (images is None):
        raise UsageError("--picture and --images go together: the picture shows the contours on the image")
    for path in (prediction, reference):
        if not path.exists():
            raise UsageError(f"{path}: does not exist")
    with loading():
        from se_med.cli.progress import progress_bar
        from se_med.evaluation.folders import evaluate_folder
        from se_med.evaluation.meaning import read_meaning
        from se_med.evaluation.summary import write_csv
    meaning = None if config is None else read_meaning(config)
    result = evaluate_folder(
        prediction,
        reference,
        None if meaning is None else meaning.labels,
        tolerance,
        progress_bar,
        ignore_label=meaning.ignore_label if ignore_label is None and meaning is not None else ignore_label,
        background_values=() if meaning is None else meaning.background_values,
        only_predicted=only_predicted,
    )
    if csv is not None:
        write_csv(csv, result.summary.scores)
    if json:
        sys.stdout.write(json_format.dumps(result.to_dict(), indent=2) + "\n")
    else:
        _print(result)
    if picture is not None and images is not None:
        from se_med.evaluation.picture import draw_median_case

        draw_median_case(result, images, prediction, reference, picture)
    return 1 if result.failures else 0


def _print(result: object) -> None:
    from se_med.evaluation.folders import Evaluation

    if not isinstance(result, Evaluation):
        raise TypeError("only an Evaluation can be printed")
    console = make_console()
    if result.summary.cases <= 50:
        console.print(result.summary.case_table())
    console.print(result.summary.table())
    if result.mean_line:
        console.print(result.mean_line, soft_wrap=True)
    for failure in result.failures:
        console.print(f"{failure.case}: {failure.message}", soft_wrap=True, style="red")
    for line in result.warnings:
        console.print(line, soft_wrap=True, style="yellow")
