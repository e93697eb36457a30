"""One plan for the study: the base's, which every arm uses with only its own settings changed; and all cases prepared once."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from se_med.config.experiment import Config
from se_med.config.merge import merge
from se_med.config.source import Mark, Source
from se_med.config.yaml_tree import Loc, Place, Tree
from se_med.data.cache import PreparedCase, prepare_cases
from se_med.data.case import Dataset
from se_med.data.fingerprint import Fingerprint, take_fingerprint
from se_med.data.folds import Fold, select_fold
from se_med.data.layouts import find_dataset
from se_med.data.plan import Plan
from se_med.data.planning import make_plan, resolve
from se_med.errors import ConfigError, SeMedError, UsageError
from se_med.networks.build import build_network, count_parameters
from se_med.networks.cost import Cost, measure_network
from se_med.progress import Progress, silent
from se_med.study.arms import Arm, Study
from se_med.study.wider import widen
from se_med.training.planned import plan_run
from se_med.training.run_data import flatten

log = logging.getLogger(__name__)

PLANNED: tuple[Loc, ...] = (
    ("data",),
    *(("network", key) for key in ("spatial_dims", "features", "strides", "kernels", "stem", "encoder_units", "decoder_units")),
    *(("training", key) for key in ("patch", "batch_size", "class_weights", "device")),
    ("augmentation", "flip"),
)
"""Settings that a plan is made from."""
UNPLANNED_DATA = frozenset(
    {
        *("fold", "folds", "fold_seed", "split", "stratify", "selection", "train_cases", "group", "plan", "cache"),
        *("empty_slices", "slice_axis", "spacing"),
    }
)
"""Settings of data that do not change which cases there are and what they hold."""
COMMENTS = frozenset({"reasons", "median_shape", "cases"})
"""What a plan says besides its decisions."""


@dataclass(frozen=True)
class PlannedArm:
    """One arm with everything planned.

    Attributes:
        arm: the arm as written.
        config: its effective configuration; fold, seed and name are those of the base, steps perhaps still open.
        plan: the plan that it uses.
        own_plan: what its plan changes in the plan of the study: ``{key: [study, arm]}``.
        cost: parameters, MACs for a patch and memory kept for a batch.
        folds: the cases of each fold of the study.
        cases: every case of these folds, prepared, by name.
        note: what else to know about it.
    """

    arm: Arm
    config: Config
    plan: Plan
    own_plan: dict[str, list[Any]]
    cost: Cost
    folds: dict[int, Fold]
    cases: dict[str, PreparedCase] = field(repr=False)
    note: str = ""

    @property
    def name(self) -> str:
        """Name of the arm."""
        return self.arm.name


@dataclass(frozen=True)
class PlannedStudy:
    """A study with everything planned, and all cases prepared.

    Attributes:
        study: as written.
        config: the effective configuration of the base.
        plan: the plan of the base.
        arms: the arms, the reference first.
    """

    study: Study
    config: Config
    plan: Plan
    arms: tuple[PlannedArm, ...]


def plan_study(study: Study, progress: Progress = silent) -> PlannedStudy:
    """Plan the base, give every arm its plan, and prepare the cases of all folds.

    Raises:
        UsageError: no data set is named, a fold does not exist, or the settings of an arm contradict each other or the data.
        ConfigError: a gate that cannot stand where an arm puts it.
        DataError: cases cannot be used, each named on a line of its own.
    """
    data = _Data(progress)
    first = plan_run(study.base, progress)
    if first.fingerprint is not None:
        data.found[data.key(study.base)] = first.dataset, first.fingerprint
    plan, config = first.plan, first.config
    arms: dict[str, PlannedArm] = {}
    # A control needs the arm that it belongs to, so these come last.
    for arm in sorted(study.arms, key=lambda arm: arm.control != ""):
        below = arms[arm.control_of].config if arm.control else config
        try:
            arms[arm.name] = _plan_arm(arm, study, below, plan, arms, data)
        except SeMedError as error:
            raise type(error)(*_said_of(arm, error)) from None
    return PlannedStudy(study, config, plan, tuple(arms[arm.name] for arm in study.arms))


def _said_of(arm: Arm, error: SeMedError) -> tuple[Any, ...]:
    problems = error.problems if isinstance(error, ConfigError) else error.message.splitlines()
    said = [f"arm {arm.name}: {problem}" for problem in problems]
    return (said,) if isinstance(error, ConfigError) else ("\n".join(said),)


class _Data:
    """Data sets, fingerprints and prepared cases, each read once however many arms use them."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.found: dict[str, tuple[Dataset, Fingerprint]] = {}
        self.prepared: dict[str, dict[str, PreparedCase]] = {}

    def key(self, config: Config) -> str:
        """Return a key of all that decides which cases there are and what they hold."""
        return config.data.model_dump_json(exclude=set(UNPLANNED_DATA & type(config.data).model_fields.keys()))

    def read(self, config: Config) -> tuple[Dataset, Fingerprint]:
        """Return the data set of a configuration, and what it holds."""
        key = self.key(config)
        if key not in self.found:
            dataset = find_dataset(config.data)
            with self.progress("reading", len(dataset.cases)) as advance:
                self.found[key] = dataset, take_fingerprint(dataset, lambda done, total: advance(done, ""))
        return self.found[key]

    def prepare(self, dataset: Dataset, config: Config, plan: Plan, folds: dict[int, Fold]) -> dict[str, PreparedCase]:
        """Return the prepared cases of all folds by name."""
        names = {name for fold in folds.values() for name in (*fold.train, *fold.validation, *fold.selection)}
        key = f"{dataset.root} {config.data.cache} {plan.model_dump_json(exclude=set(COMMENTS))}"
        known = self.prepared.setdefault(key, {})
        missing = [case for case in dataset.cases if case.name in names - known.keys()]
        if missing:
            with self.progress("preparing", len(missing)) as advance:
                prepared = prepare_cases(missing, plan, config.data.cache, lambda done, total: advance(done, ""))
            known |= {case.case.name: case for case in prepared}
        return known


def _plan_arm(arm: Arm, study: Study, below: Config, plan: Plan, arms: dict[str, PlannedArm], data: _Data) -> PlannedArm:
    own_plan, note = plan, ""
    if arm.control:
        below, own_plan = below.model_copy(update={"attention": arm.config.attention}), arms[arm.control_of].plan
    if arm.control == "wider":
        below, note = _widened(below, own_plan, arms[arm.control_of])
    dataset, fingerprint = data.read(arm.config)
    touched = arm.control == "wider" or any(key[: len(prefix)] == prefix for key in arm.keys for prefix in PLANNED)
    try:
        config = _laid_over(below, arm)
        if touched:
            own_plan = make_plan(config, dataset, fingerprint)
    except (ValidationError, UsageError):
        # Its settings do not go together with what was planned for the base, such as fewer stages than there are strides.
        own_plan = make_plan(arm.config, dataset, fingerprint)
        config = resolve(arm.config, own_plan)
        note = "planned anew, since its settings contradict the plan of the base"
    config = resolve(config, own_plan)
    if config.training.processes > 1:
        raise UsageError("training.processes: a study trains each run in one process; set it to 1, and workers of the study")
    changed = compare_flat(_decisions(plan), _decisions(own_plan))
    folds = {number: _fold(dataset, fingerprint, config, number) for number in study.config.folds}
    cases = data.prepare(dataset, config, own_plan, folds)
    network = build_network(config.network, config.attention, len(own_plan.channels), own_plan.num_classes, config.seed)
    try:
        cost = measure_network(network, len(own_plan.channels), own_plan.patch, own_plan.batch_size).total
    except ValueError as error:
        raise UsageError(str(error)) from None
    return PlannedArm(arm, config, own_plan, changed, cost, folds, cases, note)


def _laid_over(below: Config, arm: Arm) -> Config:
    """Return an effective configuration with the settings of an arm laid over it."""
    mark = Mark(Source("", "", Path.cwd()))
    tree = merge(Tree(below.model_dump(), {(): Place(mark, mark)}), arm.settings, Config)
    return Config.model_validate(tree.value, strict=True)


def _widened(config: Config, plan: Plan, of: PlannedArm) -> tuple[Config, str]:
    channels, classes = len(plan.channels), plan.num_classes
    wanted = count_parameters(of.config.network, of.config.attention, channels, classes)
    network, found = widen(config.network, channels, classes, wanted)
    how = f"{found:,} parameters, {100 * (found / wanted - 1):+.2f} % of the {wanted:,} of {of.name}"
    if network.features == config.network.features:
        how += "; one channel more would be further off, so it is the plain network"
    return config.model_copy(update={"network": network}), f"features {list(network.features or ())}: {how}"


def _fold(dataset: Dataset, fingerprint: Fingerprint, config: Config, number: int) -> Fold:
    if config.data.split is None and number >= config.data.folds:
        raise UsageError(
            f"folds: there is no fold {number} with data.folds: {config.data.folds} (the first is 0); correct the folds"
        )
    return select_fold(dataset, config.data.model_copy(update={"fold": number}), fingerprint)


def _decisions(plan: Plan) -> dict[str, Any]:
    return {key: value for key, value in plan.model_dump(mode="json").items() if key not in COMMENTS}


def compare_flat(one: dict[str, Any], other: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the dotted keys in which two nested mappings differ, with both values; None where a key does not exist."""
    mine, theirs = flatten(one), flatten(other)
    keys = dict.fromkeys((*mine, *theirs))
    return {key: [mine.get(key), theirs.get(key)] for key in keys if mine.get(key) != theirs.get(key)}


def with_steps(arm: PlannedArm, steps: int) -> PlannedArm:
    """Return the arm with its number of steps decided."""
    training = arm.config.training.model_copy(update={"steps": steps, "max_minutes": None})
    return replace(arm, config=arm.config.model_copy(update={"training": training}))
