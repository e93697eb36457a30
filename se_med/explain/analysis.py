"""All that is known of the gates of a run, put together: statistics, classes, covariates, knock-outs, windows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from se_med.explain.collect import CaseGates, find_watched
from se_med.explain.context import Context
from se_med.explain.covariates import Association, Covariate, associate, volumes
from se_med.explain.gates import GateSite, find_parts
from se_med.explain.knockout import Knockouts
from se_med.explain.profiles import Profile, best_view, profile
from se_med.explain.prune import Pruned
from se_med.explain.ranking import Ranking
from se_med.explain.statistics import GateStatistics, case_means, gate_statistics, with_parts
from se_med.inference.predictor import Predictor


@dataclass(frozen=True)
class Failure:
    """A case that could not be used, and why, in one line."""

    case: str
    message: str


@dataclass(frozen=True, eq=False)
class Analysis:
    """What the gates of a network do on some cases.

    Attributes:
        gates: in the order in which a map passes them, each followed by its parts.
        cases: what was collected.
        classes: background and structures.
        statistics: one per gate.
        profiles: by class, of each gate up to two views.
        associations: with covariates, the strongest first.
        covariates: names of what was tested.
    """

    gates: tuple[GateSite, ...]
    cases: tuple[CaseGates, ...]
    classes: tuple[str, ...]
    statistics: tuple[GateStatistics, ...]
    profiles: tuple[Profile, ...]
    associations: tuple[Association, ...]
    covariates: tuple[str, ...]

    @property
    def whole_gates(self) -> list[GateSite]:
        """The gates without their parts."""
        return [gate for gate in self.gates if not gate.part]

    @property
    def whole(self) -> list[GateStatistics]:
        """The statistics of the gates without their parts."""
        return [one for one in self.statistics if not one.gate.part]

    @property
    def finest(self) -> list[GateStatistics]:
        """The statistics of the parts of blocks with several, and of all other gates."""
        return [one for one in self.statistics if not _splits(one.gate)]

    @property
    def best_profiles(self) -> list[Profile]:
        """The view that says most about each gate, in the order of the gates; of blocks with parts that of the parts."""
        return [one for one in self.profiles if one.view == best_view(one.gate) and not _splits(one.gate)]

    @property
    def mean_factors(self) -> dict[str, Tensor]:
        """By name of the gate, its mean factor over cases and space, (C,) or (1,); gates without a factor are left out."""
        means = {}
        for gate in self.whole_gates:
            records = [case.gates[gate.name] for case in self.cases if gate.name in case.gates]
            if records:
                means[gate.name] = torch.from_numpy(case_means(records).mean(0)).float()
        return means


@dataclass(frozen=True, eq=False)
class Picture:
    """The maps of one case: its name, the file with the picture, and the NIfTI files."""

    case: str
    path: Path
    maps: tuple[Path, ...]


@dataclass(frozen=True, eq=False)
class Explanation:
    """An analysis with all that was asked for beside it.

    Attributes:
        run: name of the run.
        folder: of the run.
        digest: of the model.
        analysis: of the gates.
        failures: cases that could not be used.
        notes: what limits the numbers.
        pictures: of spatial gates.
        knockouts: None where not asked for, or without references.
        ranking: likewise.
        context: None where not asked for.
        pruned: None where not asked for.
    """

    run: str
    folder: Path
    digest: str
    analysis: Analysis
    failures: tuple[Failure, ...] = ()
    notes: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    knockouts: Knockouts | None = None
    ranking: Ranking | None = None
    context: Context | None = None
    pruned: Pruned | None = None


def _splits(gate: GateSite) -> bool:
    """Return whether all that a gate does is told by its parts."""
    return len(find_parts(gate)) > 1


def analyse(predictor: Predictor, cases: Sequence[CaseGates], covariates: Iterable[Covariate] = ()) -> Analysis:
    """Put together what was collected.

    Args:
        predictor: the network that was watched.
        cases: what `collect_case` gave, at least one.
        covariates: what else is known of the cases; volumes, and Dice where there are references, are added.
    """
    gates = find_watched(predictor)
    statistics = [gate_statistics(gate, cases) for gate in gates]
    classes = ("background", *predictor.plan.structures.values)
    profiles = [profile(gate, cases, classes, view) for gate in gates for view in ("regions", "windows")]
    known = [*covariates, *volumes(cases)]
    associations = associate(gates, cases, known)
    return Analysis(
        gates,
        tuple(cases),
        classes,
        tuple(with_parts(one, statistics) for one in statistics),
        tuple(one for one in profiles if one is not None),
        tuple(associations),
        tuple(dict.fromkeys(one.name for one in known)),
    )
