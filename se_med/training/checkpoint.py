"""Checkpoints to resume from: plain tensors and numbers, written whole or not at all, checked when they are read."""

from __future__ import annotations

import pickle
import zipfile
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from se_med.errors import RunError
from se_med.io.atomic import replacing

CHECKPOINT_VERSION = 2


@dataclass
class TrainingState:
    """Everything that a run needs to go on as if it had never stopped.

    Batches and learning rate are functions of the step, so neither has a state of its own.
    """

    step: int = 0
    """Optimiser steps made."""
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
    """Write a checkpoint; the previous one stays until the new one is complete on disk."""
    content = {"version": CHECKPOINT_VERSION, **{entry.name: getattr(state, entry.name) for entry in fields(state)}}
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        torch.save(content, temporary)


def load_checkpoint(path: Path) -> TrainingState:
    """Read a checkpoint.

    Raises:
        RunError: the file is missing, damaged (checksums of all entries are verified), of another version, or holds anything
            but tensors and plain values.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise RunError(f"{path}: checksum of '{damaged}' is wrong, the checkpoint is damaged; start the run again")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise RunError(f"{path}: there is no checkpoint to resume from") from None
    except (OSError, zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise RunError(f"{path}: not a readable checkpoint ({str(error).splitlines()[0][:120]}); start the run again") from None
    if not isinstance(content, dict) or content.get("version") != CHECKPOINT_VERSION:
        raise RunError(f"{path}: not a checkpoint of this version of se-med; start the run again")
    expected = {entry.name for entry in fields(TrainingState)}
    if content.keys() - {"version"} != expected:
        raise RunError(f"{path}: entries {sorted(content.keys())} are not those of a checkpoint; start the run again")
    return TrainingState(**{key: content[key] for key in expected})
