"""Checkpoints to resume from: plain tensors and numbers, written whole or not at all, checked when they are read."""

from __future__ import annotations

import pickle
import struct
import zipfile
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from se_med.errors import RunError
from se_med.io.atomic import replacing
from se_med.training.pickled import fault_of
from se_med.training.schedule import FormerSteps

CHECKPOINT_VERSION = 3
# What zip archives, pickles and torch raise on damaged files.
_DAMAGE = (
    *(OSError, zipfile.BadZipFile, NotImplementedError, pickle.UnpicklingError, EOFError, RuntimeError, ValueError, struct.error),
    *(TypeError, AttributeError, LookupError, AssertionError, ArithmeticError, MemoryError),
)
_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("step", "steps", "loss_steps", "validated_step"), int),
    **dict.fromkeys(("loss_sum", "seconds", "deadline", "validation_seconds"), (int, float)),
    **dict.fromkeys(("stream_digest", "stopped"), str),
    **dict.fromkeys(("network", "optimizer", "environment"), dict),
    "average": (dict, type(None)),
    "selection_scores": list,
    "former_steps": tuple,
}
"""What the entries of a checkpoint are."""


@dataclass
class TrainingState:
    """Everything that a run needs to go on as if it had never stopped.

    Batches and, with the schedule, learning rate are functions of the step, so neither has a state of its own.
    """

    step: int = 0
    """Optimiser steps made."""
    steps: int = 0
    """Optimiser steps of the run; 0 before the first checkpoint, where the configuration says it."""
    former_steps: FormerSteps = ()
    """Where the number of steps was corrected, see `Schedule`."""
    deadline: float = 0.0
    """Seconds of training after which the last step is due; 0 where the number of steps was given."""
    validation_seconds: float = 0.0
    """Seconds that a validation on the way takes, as the trial foresaw it."""
    network: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    average: dict[str, Any] | None = None
    """State of the weight average, where there is one."""
    stream_digest: str = ""
    """Digest of all batches so far."""
    loss_sum: float = 0.0
    """Sum of the losses since the last log line."""
    loss_steps: int = 0
    """Steps since the last log line."""
    seconds: float = 0.0
    """Time spent in training so far."""
    validated_step: int = 0
    """Step of the last validation."""
    selection_scores: list[float] = field(default_factory=list)
    """Mean Dice of the selection cases at each validation, where there are such cases."""
    stopped: str = ""
    """Why the run has ended before its last step; empty while it has not."""
    environment: dict[str, Any] = field(default_factory=dict)
    """Threads, dtype and switches that the numbers depend on."""


def save_checkpoint(path: Path, state: TrainingState) -> None:
    """Write a checkpoint; the previous one stays until the new one is complete on disk.

    Raises:
        RunError: it cannot be written: no space, no permission, ...
    """
    content = {"version": CHECKPOINT_VERSION, **{entry.name: getattr(state, entry.name) for entry in fields(state)}}
    with replacing(path) as temporary:
        path.parent.mkdir(parents=True, exist_ok=True)
        # By a file of Python's: torch's own writer does not tell what the system says, such as that the disk is full.
        with temporary.open("wb") as file:
            try:
                torch.save(content, file)
            except RuntimeError as error:
                raise _first_cause(error) from None


def _first_cause(error: BaseException) -> BaseException:
    """Return what the system said first, where torch has put an error of its own on top."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def load_checkpoint(path: Path) -> TrainingState:
    """Read a checkpoint.

    Raises:
        RunError: the file is missing, damaged (checksums of all entries are verified), of another version, or holds anything
            but tensors and plain values.
    """
    try:
        fault = fault_of(path)
        content = torch.load(path, map_location="cpu", weights_only=True) if fault is None else None
    except FileNotFoundError:
        raise RunError(f"{path}: there is no checkpoint to resume from") from None
    except _DAMAGE as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise RunError(f"{path}: not a readable checkpoint ({reason}); start the run again") from None
    if fault is not None:
        raise RunError(f"{path}: damaged, or not a checkpoint of se-med: {fault}; start the run again")
    if not isinstance(content, dict) or content.get("version") != CHECKPOINT_VERSION:
        raise RunError(f"{path}: not a checkpoint of this version of se-med; start the run again")
    expected = {entry.name for entry in fields(TrainingState)}
    if content.keys() - {"version"} != expected:
        raise RunError(f"{path}: entries {sorted(map(str, content))} are not those of a checkpoint; start the run again")
    for name, kinds in _KINDS.items():
        if not isinstance(content[name], kinds) or (kinds is int and content[name] < 0):
            raise RunError(f"{path}: entry {name!r} is {str(content[name])[:60]!r}, no checkpoint has that; start the run again")
    return TrainingState(**{key: content[key] for key in expected})
