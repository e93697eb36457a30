"""`se-med explain` as a function: cases through the network, gates watched, everything asked for computed and written."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from se_med.data.case import Case
from se_med.data.folds import read_split
from se_med.data.layouts import find_dataset
from se_med.errors import RunError, SeMedError, UsageError
from se_med.evaluation.folders import volumes_by_name
from se_med.explain.analysis import Analysis, Explanation, Failure, Picture, analyse
from se_med.explain.collect import CaseGates, collect_case, find_watched
from se_med.explain.context import compare_context
from se_med.explain.covariates import Covariate, read_covariates
from se_med.explain.gates import GateSite
from se_med.explain.knockout import Knockouts, knock_out
from se_med.explain.maps import spatial_gates, write_maps
from se_med.explain.pictures import draw_overlays, write_picture
from se_med.explain.prune import Pruned, prune
from se_med.explain.ranking import ALLOWED, Ranking, rank_gates
from se_med.explain.report import write_explanation
from se_med.explain.rescoring import draw_cases
from se_med.inference.cases import InputCase
from se_med.inference.predictor import Predictor
from se_med.io.atomic import sweep_temporaries
from se_med.io.images import read_label
from se_med.progress import Progress, silent

log = logging.getLogger(__name__)

CASE_ERRORS = (SeMedError, OSError, MemoryError, torch.OutOfMemoryError)
"""What leaves one case out and lets the others go on."""
MAPS = "maps"
"""Folder of the maps within the output."""


@dataclass(frozen=True)
class Choices:
    """What to compute.

    Attributes:
        covariates: table of what is known of the cases; None for none.
        maps: of how many cases the spatial gates are drawn.
        cases: how many cases are used at most, drawn at random; None for all.
        knockout: knock gates out; None where there are references.
        context: compare windows with one another.
        against: folder of another run for `context`.
        window: size of the windows for `context`; None for the patch.
        prune: folder for a configuration and a model without the gates that could go; None for none.
        allowed: Dice that their removal may cost.
        seed: of all draws.
    """

    covariates: Path | None = None
    maps: int = 3
    cases: int | None = None
    knockout: bool | None = None
    context: bool = False
    against: Path | None = None
    window: Sequence[int] | None = None
    prune: Path | None = None
    allowed: float = ALLOWED
    seed: int = 0


def explain(
    run: Path, predictor: Predictor, inputs: Sequence[Case], output: Path, choices: Choices, progress: Progress = silent
) -> Explanation:
    """Explain the gates of a run and write tables, maps and the page into a folder.

    A case that fails is named, the rest go on.

    Args:
        run: the run folder, for its split and for messages.
        predictor: its network.
        inputs: the cases, see `with_labels` and `held_out`.
        output: folder that is written; made where it is missing.
        choices: what to compute.
        progress: told of the cases.

    Raises:
        UsageError: the network has no gates, a file of the choices cannot be used, or there is no reference where one is needed.
        RunError: no case could be used, or a file cannot be written.
    """
    _refuse(run, predictor, inputs, choices)
    covariates = read_covariates(choices.covariates) if choices.covariates is not None else []
    cases = draw_cases(inputs, choices.cases, choices.seed)
    against = None if choices.against is None else Predictor.load(choices.against, predictor.device)
    try:
        (output / MAPS if choices.maps else output).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{output}: cannot be made: {error.strerror}; name another folder with -o") from None
    sweep_temporaries(output)
    records, failures = _collect(predictor, cases, progress)
    usable = [case for case in cases if case.name in {record.name for record in records}]
    analysis = analyse(predictor, records, covariates)
    pictures = _draw(predictor, analysis, usable[: choices.maps], output / MAPS, failures, progress)
    knockouts, ranking = _knock_out(predictor, analysis, usable, choices, progress)
    context = None
    if choices.context:
        context = compare_context(predictor, usable, against, window=choices.window, progress=progress)
    explanation = Explanation(
        predictor.config.name,
        run,
        predictor.digest,
        analysis,
        tuple(failures),
        tuple(_notes(run, predictor, inputs, usable, choices, covariates)),
        tuple(pictures),
        knockouts,
        ranking,
        context,
        _prune(predictor, analysis, ranking, choices.prune),
    )
    write_explanation(explanation, output)
    return explanation


def with_labels(inputs: Sequence[InputCase], labels: Path | None) -> list[Case]:
    """Return cases with the reference of the same name, where there is one.

    Args:
        inputs: at least one.
        labels: folder of reference segmentations, or one file for a single case; None for none.

    Raises:
        UsageError: there is no such folder, or it has no reference of any case.
    """
    files = {} if labels is None else volumes_by_name(labels)
    if labels is not None and labels.is_file() and len(inputs) == 1:
        files = {inputs[0].name: labels}
    found = [Case(one.name, one.files, files.get(one.name)) for one in inputs]
    if labels is not None and not any(case.label for case in found):
        raise UsageError(f"{labels}: no label file has the name of a case; the first case is {found[0].name}")
    return found


def held_out(run: Path, predictor: Predictor) -> list[Case]:
    """Return the cases that the run held out from training, where its configuration says that they are, with references.

    Raises:
        UsageError: the run held out none, or its data are not there.
        DataError: the data set cannot be read.
    """
    folds = read_split(run / "split.json")
    names = {name for fold in folds for name in fold.validation}
    cases = [case for case in find_dataset(predictor.config.data).cases if case.name in names]
    if not cases:
        raise UsageError(f"{run}: held out no case; name images after the run folder")
    return cases


def _refuse(run: Path, predictor: Predictor, inputs: Sequence[Case], choices: Choices) -> None:
    if not find_watched(predictor):
        raise UsageError(f"{run}: the network has no attention blocks (attention: null), so there is nothing to explain")
    labelled = any(case.label for case in inputs)
    if choices.knockout and not labelled:
        raise UsageError("--knockout: needs references to score against; name their folder with --labels")
    if choices.prune is not None and (not labelled or choices.knockout is False):
        raise UsageError("--prune: which gates can go is measured by knocking them out; give --labels, without --no-knockout")
    if choices.against is not None and not choices.context:
        raise UsageError("--against: another run is compared in --context alone; give both")
    if (choices.cases is not None and choices.cases < 1) or choices.maps < 0:
        raise UsageError(f"cases {choices.cases}, maps {choices.maps}: at least one case, and no negative number of maps")


def _collect(predictor: Predictor, cases: Sequence[Case], progress: Progress) -> tuple[list[CaseGates], list[Failure]]:
    records: list[CaseGates] = []
    failures: list[Failure] = []
    with progress("watching gates", len(cases)) as advance:
        for number, case in enumerate(cases, 1):
            try:
                records.append(collect_case(predictor, case.name, case.images, case.label))
            except CASE_ERRORS as error:
                failures.append(_failure(case.name, error))
            advance(number, case.name)
    if not records:
        raise RunError(f"no case could be used; the first says: {failures[0].message}" if failures else "no case")
    return records, failures


def _draw(
    predictor: Predictor, analysis: Analysis, cases: Sequence[Case], folder: Path, failures: list[Failure], progress: Progress
) -> list[Picture]:
    gates = spatial_gates(analysis.gates)
    if not gates or not cases:
        return []
    pictures = []
    with progress("drawing maps", len(cases)) as advance:
        for number, case in enumerate(cases, 1):
            try:
                pictures.append(_draw_case(predictor, gates, case, folder))
            except CASE_ERRORS as error:
                failures.append(_failure(case.name, error))
            advance(number, case.name)
    return pictures


def _draw_case(predictor: Predictor, gates: Sequence[GateSite], case: Case, folder: Path) -> Picture:
    native, maps, files = write_maps(predictor, gates, case.images, folder, case.name)
    label = predictor.predict(native).labels if case.label is None else read_label(case.label).array
    path = folder / f"{case.name}.png"
    write_picture(path, draw_overlays(native, maps, label, predictor.plan.structures.values))
    return Picture(case.name, path, tuple(files))


def _failure(case: str, error: BaseException) -> Failure:
    failure = Failure(case, " ".join((str(error) or type(error).__name__).splitlines()))
    log.warning("%s: %s", case, failure.message)
    return failure


def _knock_out(
    predictor: Predictor, analysis: Analysis, cases: Sequence[Case], choices: Choices, progress: Progress
) -> tuple[Knockouts | None, Ranking | None]:
    labelled = [case for case in cases if case.label is not None]
    if choices.knockout is False or not labelled or not analysis.mean_factors:
        return None, None
    means = analysis.mean_factors
    knockouts = knock_out(predictor, labelled, means, seed=choices.seed, progress=progress)
    return knockouts, rank_gates(predictor, labelled, knockouts, means, allowed=choices.allowed, progress=progress)


def _prune(predictor: Predictor, analysis: Analysis, ranking: Ranking | None, folder: Path | None) -> Pruned | None:
    if folder is None or ranking is None:
        return None
    if ranking.proposal is None:
        log.warning("%s: nothing written: %s", folder, ranking.sentence)
        return None
    return prune(predictor, ranking.proposal.gates, ranking.factors(analysis.mean_factors), folder)


def _notes(
    run: Path,
    predictor: Predictor,
    inputs: Sequence[Case],
    cases: Sequence[Case],
    choices: Choices,
    covariates: Sequence[Covariate],
) -> list[str]:
    notes = []
    if choices.cases is not None and choices.cases < len(inputs):
        notes.append(f"{choices.cases} of {len(inputs)} cases were drawn at random, with seed {choices.seed}.")
    names = {case.name for case in cases}
    trained = names & _trained_on(run)
    if trained:
        notes.append(
            f"The network was trained on {len(trained)} of these {len(names)} cases: its Dice there is not that of new cases."
        )
    unlabelled = [case.name for case in cases if case.label is None]
    if len(unlabelled) == len(cases):
        notes.append("There are no references: classes are where the network predicts them.")
    elif unlabelled:
        notes.append(f"{len(unlabelled)} cases have no reference; their classes are where the network predicts them.")
    if covariates and (missing := names - {case for one in covariates for case in one.values}):
        notes.append(f"{len(missing)} cases are not in the table of covariates.")
    if len(cases) < 5:
        notes.append("With so few cases, what varies between cases is hardly known.")
    if predictor.members[0].count > 1:
        notes.append("A single pass was watched: test-time flips, shifts and rotations are left out.")
    return notes


def _trained_on(run: Path) -> set[str]:
    """Return the cases that the run was trained on; none where it does not say."""
    try:
        folds = read_split(run / "split.json")
    except SeMedError:
        return set()
    return {name for fold in folds for name in fold.train}
