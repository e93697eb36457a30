"""When a run ends before its last step: a rule over the scores of cases that are neither trained on nor reported."""

from __future__ import annotations

from collections.abc import Sequence

from se_med.config.training import EarlyStopping

SELECTION = "selection_"
"""How columns of ``metrics.csv`` begin that score the selection cases."""


def stop_reason(scores: Sequence[float], rule: EarlyStopping) -> str:
    """Return why a run stops now; empty where it goes on.

    Progress is a score more than ``min_delta`` above the best one that was progress. The run stops at the validation that is the
    ``patience``-th in a row without.

    Args:
        scores: mean Dice of the selection cases at each validation so far.
        rule: how long to wait for how much.
    """
    best, at = float("-inf"), 0
    for number, score in enumerate(scores):
        if score > best + rule.min_delta:
            best, at = score, number
    waited = len(scores) - 1 - at
    if waited < rule.patience:
        return ""
    more = f" by more than {rule.min_delta:g}" if rule.min_delta else ""
    return f"the selection Dice of {best:.4f} at validation {at + 1} was not exceeded{more} in the {waited} validations after it"
