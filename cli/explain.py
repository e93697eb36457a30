"""`se-med explain`: what the gates of a trained network do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from se_med.cli.console import make_console

if TYPE_CHECKING:
    from se_med.explain.analysis import Explanation


def explain(
    run: Path,
    *images: Path,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    labels: Path | None = None,
    covariates: Path | None = None,
    cases: int | None = None,
    maps: int = 3,
    knockout: bool | None = None,
    prune: Path | None = None,
    allowed: float = 0.005,
    context: bool = False,
    against: Path | None = None,
    window: tuple[int, int, int] | None = None,
    device: Literal["auto", "cpu", "gpu"] = "auto",
) -> int:
    """Explain attention: do gates depend on the image, do they tell structures apart, which could go?

    Writes explain.html, which opens without a network, and its tables.

    Args:
        run: run folder of a finished training of a network with attention blocks.
        images: images, folders, patterns in quotes, or CSV tables, as for predict. Default: the cases that the training held out,
            with their references.
        output: folder of the results.
        labels: folder of reference segmentations, named as the images. Default: structures are where the network predicts them.
        covariates: CSV with a column case and one column for everything else that is known of a case (age, site, scanner).
        cases: how many cases to use, drawn at random. Default: all.
        maps: of how many cases spatial gates are written as maps and shown.
        knockout: measure what each gate is worth by taking it out. Default: where there are labels.
        prune: folder for a configuration, and a model, without the gates that could go.
        allowed: Dice that leaving them out may cost.
        context: compare what overlapping windows say of the same voxel; takes two more predictions of each case.
        against: another run, such as one without attention, to compare in --context.
        window: size of the windows in --context, in voxels along the three axes. Default: the patch.
        device: where the network runs.
    """
    from se_med.cli.loading import loading
    from se_med.errors import UsageError

    if labels is not None and not images:
        raise UsageError("--labels: name the images that they belong to after the run folder")
    with loading():
        from se_med.cli.progress import progress_bar
        from se_med.explain.explain import Choices, held_out, with_labels
        from se_med.explain.explain import explain as explain_gates
        from se_med.inference.cases import find_cases
        from se_med.inference.predictor import Predictor
    predictor = Predictor.load(run, device)
    channels = len(predictor.plan.channels)
    inputs = with_labels(find_cases(images, output, channels), labels) if images else held_out(run, predictor)
    choices = Choices(covariates, maps, cases, knockout, context, against, window, prune, allowed)
    explanation = explain_gates(run, predictor, inputs, output, choices, progress_bar)
    _print(explanation, output)
    return 1 if explanation.failures else 0


def _print(explanation: Explanation, output: Path) -> None:
    from rich.table import Table

    from se_med.explain.report import HTML
    from se_med.explain.report.sentences import verdicts

    console = make_console()
    table = Table("gate", "block", "mean", "over channels", "over cases", "within cases", "verdict", title_justify="left")
    table.title = "mean and standard deviations of each gate"
    for one in explanation.analysis.statistics:
        numbers = (one.mean, one.over_channels, one.over_cases, one.over_positions)
        name = f"  {one.gate.part}" if one.gate.part else one.gate.label
        table.add_row(name, one.gate.block, *(f"{number:.4f}" for number in numbers), one.verdict)
    console.print(table)
    for _, sentence in verdicts(explanation):
        console.print(sentence, soft_wrap=True)
    for failure in explanation.failures:
        console.print(f"{failure.case}: {failure.message}", soft_wrap=True, style="red")
    console.print(f"{len(explanation.analysis.cases)} cases explained; see {output / HTML}", soft_wrap=True)
