"""Plans a run: by the rules for its data, then down to what the memory of the device and the user's minutes allow.

Memory is estimated, so the same data and limit give the same plan everywhere. Time is measured, so it may change a plan only
where one is made to be kept (`se-med plan --trial`): runs that are compared share one plan, and none of them shrinks by itself.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from se_med.config.experiment import Config
from se_med.data.axes import GIVEN
from se_med.data.case import Case, Dataset
from se_med.data.fingerprint import Fingerprint, take_fingerprint
from se_med.data.folds import Fold, select_fold
from se_med.data.given_plan import adopt_plan
from se_med.data.layouts import find_dataset
from se_med.data.memory import total_memory
from se_med.data.plan import Plan
from se_med.data.planning import FEWEST_BATCH, make_plan, resolve
from se_med.errors import UsageError
from se_med.inference.flips import choose_test_time_flips
from se_med.inference.rotations import choose_rotations
from se_med.networks.build import refuse_vast
from se_med.progress import Progress
from se_med.training.memory import estimate_memory, is_limited, memory_budget

log = logging.getLogger(__name__)

FEWEST_FEATURES = 8
"""Features of the first stage are not planned below this."""
SHARES = (1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125)
"""Shares of the usual number of positions of a step that are tried where memory is short."""


@dataclass(frozen=True)
class Prescribed:
    """What a study decides for its runs, so that they need not read the whole data set again.

    Attributes:
        plan: the plan to train by.
        fold: the cases.
    """

    plan: Plan
    fold: Fold


@dataclass(frozen=True)
class Planned:
    """A data set, its fold and its plan.

    Attributes:
        config: the configuration with everything planned filled in.
        given: the configuration as the user wrote it.
        plan: the plan.
        dataset: the cases.
        fold: what is trained on and held out.
        fingerprint: what the cases hold; None where a given plan and split made it needless to read them.
    """

    config: Config
    given: Config
    plan: Plan
    dataset: Dataset
    fold: Fold
    fingerprint: Fingerprint | None

    def parts(self) -> list[list[Case]]:
        """Return the cases that are trained on, held out, and for selection."""
        return [
            [self.dataset.case(name) for name in part] for part in (self.fold.train, self.fold.validation, self.fold.selection)
        ]

    def with_plan(self, plan: Plan) -> Planned:
        """Return the same with another plan."""
        return replace(self, plan=plan, config=resolve(self.given, plan))


def plan_run(config: Config, progress: Progress, prescribed: Prescribed | None = None) -> Planned:
    """Find, read and plan the data of a run.

    Args:
        config: the configuration as the user wrote it.
        progress: shows how far reading the data is.
        prescribed: plan and cases, where a study has decided them.

    Raises:
        UsageError: no data set is named, it does not exist, the configuration contradicts the data, the given plan does not
            fit, or nothing that can be planned fits into the memory.
        DataError: cases cannot be used, each named on a line of its own.
    """
    dataset = find_dataset(config.data)
    if prescribed is not None:
        return _checked(Planned(config, config, prescribed.plan, dataset, prescribed.fold, None))
    dealt = config.data.split is not None or not config.data.stratify
    fold = select_fold(dataset, config.data) if dealt else None  # what is wrong with a split is told before cases are read
    path, fingerprint = config.data.plan, None
    plan = None if path is None else adopt_plan(path, config, dataset)
    if plan is None or fold is None:
        with progress("reading", len(dataset.cases)) as advance:
            fingerprint = take_fingerprint(dataset, lambda done, total: advance(done, ""), max_memory=config.training.max_memory)
        plan = plan or _fit_memory(config, dataset, fingerprint)
        fold = fold or select_fold(dataset, config.data, fingerprint)
    return _checked(Planned(config, config, plan, dataset, fold, fingerprint))


def _checked(planned: Planned) -> Planned:
    planned = planned.with_plan(planned.plan)
    choose_test_time_flips(planned.config)
    choose_rotations(planned.config, planned.plan)
    config, plan = planned.config, planned.plan
    refuse_vast(config.network, config.attention, len(plan.channels), plan.num_classes)  # before the cases are prepared
    _refuse_vast_batch(plan)
    return planned


def _refuse_vast_batch(plan: Plan) -> None:
    """Refuse patches of which not even the voxels of a batch fit into the machine."""
    size = 4 * math.prod(plan.patch) * plan.batch_size * (len(plan.channels) + 1)
    if size > total_memory():
        patch = "x".join(map(str, plan.patch))
        raise UsageError(
            f"training.patch, training.batch_size: {plan.batch_size} patches of {patch} voxels take {1e-9 * size:.3g} GB, the "
            f"machine has {1e-9 * total_memory():.3g} GB; make them smaller"
        )


def smaller_plan(planned: Planned, why: str) -> Plan | None:
    """Return the plan with half the batch, or else half the features; None where neither can be or both are set by the user.

    Args:
        planned: the plan as it is.
        why: added to the reasons.
    """
    plan, given = planned.plan, planned.given
    if given.training.batch_size is None and plan.batch_size > FEWEST_BATCH:
        return _changed(plan, "batch_size", max(FEWEST_BATCH, plan.batch_size // 2), why)
    if given.network.features is None and plan.features[0] >= 2 * FEWEST_FEATURES:
        return _changed(plan, "features", tuple(width // 2 for width in plan.features), why)
    return None


def _fit_memory(config: Config, dataset: Dataset, fingerprint: Fingerprint) -> Plan:
    """Return the largest plan, by the rules, that fits into the memory by an estimate."""
    plan = make_plan(config, dataset, fingerprint)
    if not is_limited(config):
        return plan
    limit, needed = memory_budget(config), 0
    for candidate, change in _candidates(config, dataset, fingerprint, plan):
        needed = estimate_memory(resolve(config, candidate), candidate)
        if needed <= limit:
            if not change:
                return candidate
            said = f"; smaller, so that training fits {limit / 2**30:.3g} GiB"
            reasons = {key: reason + said if key in change else reason for key, reason in candidate.reasons.items()}
            return candidate.model_copy(update={"reasons": reasons})
    message = f"training takes about {needed / 2**30:.1f} GiB at least, and {limit / 2**30:.3g} GiB are allowed"
    if config.training.max_memory is not None:
        raise UsageError(f"training.max_memory: {message}; allow more, or set a smaller training.patch or network.features")
    log.warning("warning: %s; set a smaller training.patch or network.features if it fails", message)
    return plan


def _candidates(config: Config, dataset: Dataset, fingerprint: Fingerprint, plan: Plan) -> Iterator[tuple[Plan, tuple[str, ...]]]:
    """Yield plans from large to small, each with the settings that differ from the first: batch, then patch, then features."""
    yield plan, ()
    batch_is_free, features_are_free = plan.reasons["batch_size"] != GIVEN, plan.reasons["features"] != GIVEN
    batch = plan.batch_size
    while batch_is_free and batch > FEWEST_BATCH:
        batch = max(FEWEST_BATCH, batch // 2)
        yield plan.model_copy(update={"batch_size": batch}), ("batch_size",)
    smallest = plan.model_copy(update={"batch_size": batch})
    for share in SHARES[1:]:
        found = make_plan(config, dataset, fingerprint, share)
        if found.patch != smallest.patch:
            smallest = found if not batch_is_free else found.model_copy(update={"batch_size": min(batch, found.batch_size)})
            yield smallest, ("batch_size", "patch") if batch_is_free else ("patch",)
    while features_are_free and smallest.features[0] >= 2 * FEWEST_FEATURES:
        smallest = smallest.model_copy(update={"features": tuple(width // 2 for width in smallest.features)})
        yield smallest, ("batch_size", "patch", "features")


def _changed(plan: Plan, key: str, value: object, why: str) -> Plan:
    return plan.model_copy(update={key: value, "reasons": plan.reasons | {key: f"{plan.reasons[key]}; halved: {why}"}})
