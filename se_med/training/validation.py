"""Whole-volume validation: held-out cases segmented and scored on their own voxel grids."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from torch import nn

from se_med.config.experiment import Config
from se_med.data.cache import PreparedCase
from se_med.data.plan import Plan
from se_med.data.structures import Labels
from se_med.errors import UsageError
from se_med.evaluation.metrics import StructureScore, score_case
from se_med.inference.predictor import Predictor
from se_med.io.images import read_label
from se_med.io.volume import Volume
from se_med.training import processes

log = logging.getLogger(__name__)


class Validation:
    """Scores a network on the held-out cases.

    The prepared volumes come from the cache that training uses; the labels are restored to each volume's own grid and compared
    with the label file as it is on disk.

    Args:
        cases: the held-out cases, all labelled.
        config: the effective configuration.
        plan: the plan.
    """

    def __init__(self, cases: Sequence[PreparedCase], config: Config, plan: Plan) -> None:
        self.cases = cases
        self.config = config
        self.plan = plan

    def __call__(
        self,
        network: nn.Module,
        *,
        surfaces: bool = False,
        stop: Callable[[], bool] = lambda: False,
        advance: Callable[[int, str], None] = lambda done, note: None,
    ) -> list[StructureScore] | None:
        """Score every held-out case, once; the processes of a distributed run share them.

        Args:
            network: the network as it is now; its training mode is left as it was.
            surfaces: compute HD95 and NSD too, not only Dice and volumes.
            stop: asked before each case.
            advance: told the number of cases done.

        Returns:
            One score per case and structure, or ``None`` when ``stop`` said so.
        """
        predictor = Predictor(network, self.config, self.plan)
        scores: list[StructureScore] = []
        shared = processes.world() > 1
        for number, case in enumerate(self.cases[processes.rank() :: processes.world()]):
            # Processes that share the cases stop together, after all are done.
            if stop() and not shared:
                return None
            scores += self.score(predictor, case, surfaces=surfaces)
            advance(number + 1, case.case.name)
        scores = sorted(processes.gather_lists(scores), key=lambda score: score.case) if shared else scores
        if not any(score.prediction_ml for score in scores) and any(score.reference_ml for score in scores):
            log.warning(
                "warning: the network predicts nothing but background on all %d validation cases; train longer, or lower "
                "training.learning_rate",
                len(self.cases),
            )
        return scores

    def score(self, predictor: Predictor, case: PreparedCase, *, surfaces: bool) -> list[StructureScore]:
        """Segment and score one case.

        Raises:
            UsageError: the case has no label.
        """
        return self.compare(case, predictor.label(case.prepared), surfaces=surfaces)

    def reference(self, case: PreparedCase) -> Volume:
        """Read the label file of a case, as it is on disk.

        Raises:
            UsageError: the case has no label.
        """
        if case.case.label is None:
            raise UsageError(f"{case.case.name}: a held-out case needs a label")
        return read_label(case.case.label)

    def compare(self, case: PreparedCase, prediction: Labels, *, surfaces: bool) -> list[StructureScore]:
        """Score label values (X, Y, Z) on the grid of the label file of a case."""
        reference = self.reference(case)
        return score_case(
            case.case.name,
            prediction,
            reference.array,
            reference.spacing,
            self.plan.structures.values,
            self.config.evaluation.tolerance,
            surfaces=surfaces,
            ignore_label=self.plan.ignore_label,
            background_values=self.plan.background_values,
        )
