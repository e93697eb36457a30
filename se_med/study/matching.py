"""Whether two arms were trained on the same batches from the same start, and if not, why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from se_med.data.stream import PatchStream, StepSampler, batch_digest, make_loader
from se_med.study.planning import PlannedArm, compare_flat
from se_med.study.work import start_digests
from se_med.training.run_data import flatten

BATCHES = 2
"""First batches that are compared before anything is trained."""
SHOWN = 4
"""Settings that a reason names at most."""
SHAPING = (
    "seed",
    "data.",
    "augmentation.",
    "training.patch",
    "training.batch_size",
    "training.foreground",
    "training.accumulate",
)
"""Settings that decide what the batches are."""


def foresee(arms: Sequence[PlannedArm], fold: int, seed: int) -> dict[str, str]:
    """Return why each arm will not be matched with the first one, by name; empty text where nothing speaks against it.

    The first batches, and the tensors before the first step, are made and compared for one fold and seed; so are the numbers of
    steps, where they are known.

    Args:
        arms: the arms, the reference first.
        fold: a fold of the study.
        seed: a seed of the study.
    """
    reference = arms[0]
    batches, start = _first_batches(reference, fold, seed), _start(reference, seed)
    reasons = {reference.name: ""}
    for arm in arms[1:]:
        other = differing_starts(start, _start(arm, seed))
        steps = (reference.config.training.steps, arm.config.training.steps)
        if arm.folds[fold].train != reference.folds[fold].train:
            reasons[arm.name] = other_cases(reference.folds[fold].train, arm.folds[fold].train)
        elif _first_batches(arm, fold, seed) != batches:
            reasons[arm.name] = other_batches(shaping_differences(reference, arm))
        elif None not in steps and steps[0] != steps[1]:
            reasons[arm.name] = other_steps(*steps)
        else:
            reasons[arm.name] = other
    return reasons


def match(reference: Mapping[str, Any], run: Mapping[str, Any], differences: Sequence[str]) -> str:
    """Return why two finished runs of one fold and seed are not matched; empty text where they are.

    Args:
        reference: ``steps``, ``stream_digest``, ``train`` (digests of the files of each training case by name) and ``start``
            (digest of each tensor) of the reference's run.
        run: likewise, of the arm's.
        differences: settings that shape the batches and differ.
    """
    if run["train"] != reference["train"]:
        return other_cases(reference["train"], run["train"])
    if run["steps"] != reference["steps"]:
        return other_steps(reference["steps"], run["steps"])
    if run["stream_digest"] != reference["stream_digest"]:
        return other_batches(differences)
    return differing_starts(reference["start"], run["start"])


def other_cases(reference: Any, own: Any) -> str:
    """Say that other cases were trained on."""
    common = len(set(reference) & set(own))
    return f"trained on {len(own)} cases, of which {common} are among the {len(reference)} of the reference"


def other_steps(reference: int | None, own: int | None) -> str:
    """Say that another number of steps was made."""
    return f"{own} steps, the reference {reference}"


def other_batches(differences: Sequence[str]) -> str:
    """Say that the batches were others, and by which settings."""
    more = f" and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
    return "other batches" + (f" ({', '.join(differences[:SHOWN])}{more})" if differences else "")


def differing_starts(reference: Mapping[str, str], own: Mapping[str, str]) -> str:
    """Say which tensors that both have started from other values; empty text where none did.

    Args:
        reference: shape and digest of each tensor of the reference, as `start_digests` gives them.
        own: likewise, of the arm; a tensor is shared where name and shape agree.
    """
    shared = [name for name in own if name in reference and own[name].split()[0] == reference[name].split()[0]]
    differing = [name for name in shared if own[name] != reference[name]]
    if not differing:
        return ""
    return f"{len(differing)} of {len(shared)} shared tensors start from other values ({differing[0]}, ...)"


def shaping_differences(reference: PlannedArm, arm: PlannedArm) -> list[str]:
    """Return the settings that shape the batches and differ between two arms."""
    found = compare_flat(reference.config.model_dump(mode="json"), arm.config.model_dump(mode="json"))
    plans = {f"plan.{key}": values for key, values in compare_flat(*map(_shaping_plan, (reference, arm))).items()}
    return [key for key in (*found, *plans) if key.startswith((*SHAPING, "plan."))]


def _shaping_plan(arm: PlannedArm) -> dict[str, Any]:
    kept = arm.plan.model_dump(mode="json", include={"spacing", "normalisation", "flip_axes", "slice_axis"})
    return flatten(kept)


def _first_batches(arm: PlannedArm, fold: int, seed: int) -> str:
    config = arm.config
    cases = [arm.cases[name] for name in arm.folds[fold].train]
    stream = PatchStream(cases, arm.plan, config.augmentation, config.training.foreground, seed, config.data.empty_slices)
    digest = ""
    for batch in make_loader(stream, StepSampler(BATCHES, arm.plan.batch_size)):
        digest = batch_digest(digest, batch)
    return f"{config.training.accumulate} {digest}"


def _start(arm: PlannedArm, seed: int) -> dict[str, str]:
    return start_digests(arm.config.model_copy(update={"seed": seed}), arm.plan)
