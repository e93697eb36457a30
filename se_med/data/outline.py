"""A complete configuration without training: from the plan of a run, from the data as training does it, or from sizes alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from se_med.config.experiment import Config
from se_med.data.case import Dataset
from se_med.data.fingerprint import CaseFacts, Fingerprint, Intensities, take_fingerprint
from se_med.data.given_plan import adopt_plan, read_plan
from se_med.data.layouts import find_dataset
from se_med.data.plan import Plan
from se_med.data.planning import make_plan, resolve
from se_med.errors import UsageError
from se_med.progress import Progress, silent

PLAN = "plan.json"


@dataclass(frozen=True)
class Sizes:
    """What is known without a look at the data; it wins over what the data says.

    Attributes:
        patch: patch in voxels, per axis of the network.
        channels: channels of the image.
        classes: classes, background included.
    """

    patch: tuple[int, ...] | None = None
    channels: int | None = None
    classes: int | None = None


@dataclass(frozen=True)
class Outline:
    """What a network is built from.

    Attributes:
        config: the configuration with everything planned filled in.
        channels: channels of the image.
        classes: classes, background included.
    """

    config: Config
    channels: int
    classes: int


def outline(config: Config, folder: Path, sizes: Sizes, progress: Progress = silent) -> Outline:
    """Fill in what a configuration leaves open.

    A plan in the folder of the configuration is used as it is. Where all sizes are known the network is planned without data:
    for voxels of `data.spacing`, or of equal edges, and without a stem unless one is set. Otherwise it is planned from the data
    set, as training does.

    Args:
        config: the configuration as the user wrote it.
        folder: folder of the configuration; a run folder has a plan.
        sizes: what is known.
        progress: shows how far reading the data is.

    Raises:
        UsageError: a size is not possible, or the network can be planned from nothing: no plan, no data and not all sizes.
        DataError: cases of the data set cannot be used.
    """
    for key, least in (("channels", 1), ("classes", 2)):
        value = getattr(sizes, key)
        if value is not None and value < least:
            raise UsageError(f"--{key} {value}: must be at least {least}" + (", background included" if key == "classes" else ""))
    if sizes.patch is not None:
        config = _with(config, "training", patch=sizes.patch)
    patch, classes = config.training.patch, sizes.classes
    if classes is None and config.data.labels is not None:
        classes = len(config.data.labels) + 1
    if classes is None and config.data.regions is not None:
        classes = len(config.data.regions)
    if (folder / PLAN).is_file():
        plan = read_plan(folder / PLAN)
    elif patch is not None and sizes.channels is not None and classes is not None:
        config, plan = _plan_sizes(config, patch, sizes.channels, classes)
    elif config.data.root is not None and config.data.plan is not None:
        plan = adopt_plan(config.data.plan, config, find_dataset(config.data))
    elif config.data.root is not None:
        dataset = find_dataset(config.data)
        with progress("reading", len(dataset.cases)) as advance:
            plan = make_plan(config, dataset, take_fingerprint(dataset, lambda done, total: advance(done, "")))
    else:
        missing = [key for key, value in (("patch", patch), ("channels", sizes.channels), ("classes", classes)) if value is None]
        options = ", ".join(f"--{key}" for key in missing)
        raise UsageError(f"data.root: no data set is named to plan the network from; set data.root=FOLDER, or give {options}")
    return Outline(resolve(config, plan), sizes.channels or len(plan.channels), sizes.classes or plan.num_classes)


def _plan_sizes(config: Config, patch: tuple[int, ...], channels: int, classes: int) -> tuple[Config, Plan]:
    """Plan a network by the rules of training for one case that is as large as the patch."""
    if config.network.stem is None:
        config = _with(config, "network", stem=(1,) * config.network.rank)
    if config.augmentation.flip.axes is None:
        flip = config.augmentation.flip.model_copy(update={"axes": ()})
        config = config.model_copy(update={"augmentation": config.augmentation.model_copy(update={"flip": flip})})
    config = _with(config, "training", class_weights=None)  # they name structures, and change no network
    labels = {f"label_{value}": value for value in range(1, classes)}
    shape = (max(patch),) * 3
    case = CaseFacts("", shape, config.data.spacing or (1.0, 1.0, 1.0), {}, {}, np.zeros((channels, 0), np.float32))
    fingerprint = Fingerprint((case,), labels, channels, (Intensities(0.0, 0.0, 0.0, 0.0),) * channels)
    dataset = Dataset(cases=(), labels=labels, channels=(), modality="other", layout="", root=Path())
    return config, make_plan(config, dataset, fingerprint)


def _with(config: Config, part: str, **values: Any) -> Config:
    """Return the configuration with other values in one part, checked as if they stood in the file."""
    old = getattr(config, part)
    try:
        new = type(old).model_validate(old.model_dump() | values)
    except ValidationError as error:
        causes = "; ".join(problem["msg"].removeprefix("Value error, ") for problem in error.errors())
        raise UsageError(f"{part}.{', '.join(values)}: {causes}") from None
    return config.model_copy(update={part: new})
