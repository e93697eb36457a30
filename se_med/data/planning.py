"""Plans every setting that depends on the data set and that the configuration leaves open, and says why.

A setting of the user always wins, and the others adapt to it: `make_plan` decides, `resolve` writes the decisions into the
configuration. The rules for spacing follow nnU-Net (Isensee et al. 2021, Nature Methods 18, arXiv 1904.08128); the sizes are
chosen for minutes on a processor, or for hours on a GPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from pydantic import ValidationError

from se_med.config.base import Part
from se_med.config.experiment import Config
from se_med.config.network import NetworkConfig
from se_med.data.axes import GIVEN, choose_rank, choose_slice_axis
from se_med.data.case import Dataset
from se_med.data.class_weights import choose_class_weights
from se_med.data.fingerprint import Fingerprint
from se_med.data.intensities import choose_normalisation
from se_med.data.plan import Plan
from se_med.data.symmetry import choose_flips
from se_med.data.topology import Axes, Topology, check_patch, choose_kernels, choose_patch, choose_stem, grow_topology
from se_med.errors import UsageError

SomePart = TypeVar("SomePart", bound=Part)

ANISOTROPY = 3.0
"""An axis this many times coarser, and with this many times fewer voxels, than the others is anisotropic."""
FIRST_FEATURES = 32
MOST_FEATURES = {2: 512, 3: 320}
MOST_STAGES = {2: 8, 3: 6}
MOST_BATCH = 16
FEWEST_BATCH = 2
FINE_STRUCTURE = 4.0
"""A structure whose edge (cube root of its volume) is shorter, in voxels, is too fine for a stem."""


@dataclass(frozen=True)
class Budget:
    """What one training step may cost.

    Attributes:
        device: for the reasons.
        patch: most positions of a patch in the first stage.
        step: positions of a batch in the first stage, to be filled with patches.
        stem: whether resolution is traded for speed.
    """

    device: str
    patch: int
    step: int
    stem: bool


# A step of 45,000 positions in 3D, 32-64-128 features, takes about 0.12 s on two cores (bf16), so 15 minutes are 7,500 steps.
# In 2D a position costs a third of that, but networks are deeper and wider: 64,000 positions take about as long.
BUDGETS = {
    ("cpu", 3): Budget("a processor", 40_000, 48_000, stem=True),
    ("cpu", 2): Budget("a processor", 34_000, 64_000, stem=True),
    ("gpu", 3): Budget("a GPU", 2_100_000, 4_200_000, stem=False),
    ("gpu", 2): Budget("a GPU", 270_000, 3_200_000, stem=False),
}


def make_plan(config: Config, dataset: Dataset, fingerprint: Fingerprint, share: float = 1.0) -> Plan:
    """Plan what the configuration leaves open.

    Args:
        config: the configuration as the user wrote it.
        dataset: declared labels, channels and modality.
        fingerprint: what the cases hold.
        share: share of the usual number of positions that patch and batch may have; less than 1 where memory is short.

    Raises:
        UsageError: settings of the user contradict each other or the data, such as a patch that the strides do not divide.
    """
    reasons: dict[str, str] = {}
    dims = choose_rank(config, fingerprint, reasons)
    config = config.model_copy(update={"network": _fill("network", config.network, {"spatial_dims": dims})})
    spacing = _spacing(config, fingerprint, reasons)
    median_shape = _median_shape(fingerprint, spacing)
    slice_axis = choose_slice_axis(config, fingerprint, spacing, reasons)
    axes = tuple(axis for axis in range(3) if axis != slice_axis)
    size, in_plane = [median_shape[axis] for axis in axes], [spacing[axis] for axis in axes]
    budget = BUDGETS[planned_device(config), dims]
    budget = replace(budget, patch=round(budget.patch * share), step=round(budget.step * share))
    topology, patch = _network(config, fingerprint, size, in_plane, budget, reasons)
    features = config.network.features
    reasons["features"] = GIVEN
    if features is None:
        stages = len(topology.strides) + 1
        features = tuple(min(FIRST_FEATURES * 2**stage, MOST_FEATURES[dims]) for stage in range(stages))
        reasons["features"] = f"{stages} stages, doubled from {FIRST_FEATURES} up to {MOST_FEATURES[dims]}"
    return Plan(
        spatial_dims=dims,
        slice_axis=slice_axis,
        channels=dataset.channels or tuple(f"channel_{number}" for number in range(fingerprint.channels)),
        labels=_labels(config, dataset, fingerprint, reasons),
        spacing=spacing,
        normalisation=choose_normalisation(config, dataset, fingerprint, reasons),
        patch=patch,
        batch_size=_batch_size(config, patch, topology, budget, reasons),
        features=features,
        strides=topology.strides,
        kernels=topology.kernels,
        stem=topology.stem,
        flip_axes=_flip_axes(config, fingerprint, axes, reasons),
        flat=fingerprint.flat,
        class_weights=choose_class_weights(config.training.class_weights, fingerprint, reasons, dataset.regions),
        ignore_label=config.data.ignore_label,
        values=dataset.values,
        regions=dataset.regions,
        background_values=config.data.background_values,
        median_shape=median_shape,
        cases=len(fingerprint.cases),
        reasons=reasons,
    )


def resolve(config: Config, plan: Plan) -> Config:
    """Return the configuration with everything that was planned filled in; what the user set is left as it is.

    Raises:
        UsageError: what was planned does not fit a setting of the user, such as more weights of deep supervision than stages.
    """
    network = {key: getattr(plan, key) for key in ("spatial_dims", "features", "strides", "kernels", "stem")}
    data: dict[str, Any] = {"spacing": plan.spacing, "slice_axis": plan.slice_axis}
    if plan.regions:
        data |= {"regions": plan.values, "region_values": plan.labels}
    elif config.data.regions is None:
        data["labels"] = plan.labels
    return config.model_copy(
        update={
            "data": _fill("data", config.data, data),
            "network": _fill("network", config.network, network),
            "training": _fill("training", config.training, {"patch": plan.patch, "batch_size": plan.batch_size}),
            "augmentation": config.augmentation.model_copy(
                update={"flip": _fill("augmentation.flip", config.augmentation.flip, {"axes": plan.flip_axes})}
            ),
        }
    )


def _fill(name: str, part: SomePart, planned: dict[str, Any]) -> SomePart:
    missing = {key: value for key, value in planned.items() if getattr(part, key) is None}
    try:
        return type(part).model_validate(part.model_dump() | missing)
    except ValidationError as error:
        causes = "; ".join(problem["msg"].removeprefix("Value error, ") for problem in error.errors())
        raise UsageError(f"{name}: {causes}") from None


def planned_device(config: Config) -> str:
    """Return the device that is planned for, "cpu" or "gpu"."""
    if config.training.device != "auto":
        return config.training.device
    import torch

    return "gpu" if torch.cuda.is_available() else "cpu"


def _spacing(config: Config, fingerprint: Fingerprint, reasons: dict[str, str]) -> tuple[float, float, float]:
    if config.data.spacing is not None:
        reasons["spacing"] = GIVEN
        return config.data.spacing
    spacing = np.median(fingerprint.spacings, axis=0)
    shape = np.median(fingerprint.shapes, axis=0)
    reasons["spacing"] = f"median of {len(fingerprint.cases)} cases"
    worst = int(np.argmax(spacing))
    others = [axis for axis in range(3) if axis != worst]
    coarse = spacing[worst] > ANISOTROPY * spacing[others].max()
    if coarse and shape[worst] * ANISOTROPY < shape[others].min():
        tenth = float(np.percentile(fingerprint.spacings[:, worst], 10))
        spacing[worst] = max(tenth, spacing[others].max())
        reasons["spacing"] += f"; axis {worst} is anisotropic and gets the 10th percentile"
    # Headers store float32: digits behind the sixth are noise.
    x, y, z = (float(f"{mm:.6g}") for mm in spacing)
    return x, y, z


def _median_shape(fingerprint: Fingerprint, spacing: tuple[float, float, float]) -> tuple[int, int, int]:
    x, y, z = (max(1, round(extent)) for extent in np.median(fingerprint.shapes * fingerprint.spacings / spacing, axis=0))
    return x, y, z


def _network(
    config: Config,
    fingerprint: Fingerprint,
    size: list[int],
    spacing: list[float],
    budget: Budget,
    reasons: dict[str, str],
) -> tuple[Topology, Axes]:
    network, dims = config.network, config.network.rank
    patch = config.training.patch
    if patch is not None and len(patch) != dims:
        raise UsageError(f"training.patch: {list(patch)} has {len(patch)} values, a {dims}D network needs {dims}")
    stages = _stages(network)
    stem = network.stem or _stem(config, fingerprint, size, spacing, budget, reasons)
    reasons.setdefault("stem", GIVEN)

    def plan(extent: Any) -> Topology:
        if network.strides is not None:
            topology = Topology(stem, network.strides, choose_kernels(spacing, stem, network.strides))
        else:
            topology = grow_topology(extent, spacing, stem, MOST_STAGES[dims], stages)
        return topology if network.kernels is None else Topology(stem, topology.strides, network.kernels)

    if patch is not None:
        topology = plan(patch)
        check_patch(patch, topology.multiple)
        reasons["patch"] = GIVEN
    else:
        patch, topology = choose_patch(size, spacing, budget.patch, plan)
        shown = "x".join(map(str, size))
        whole = all(extent * 1.04 >= full for extent, full in zip(patch, size, strict=True))
        what = (
            f"covers the median shape {shown}" if whole else f"of the median shape {shown}, what fits a step on {budget.device}"
        )
        reasons["patch"] = f"{what}; a multiple of {'x'.join(map(str, topology.multiple))}"
    if not topology.strides:
        shown = "x".join(map(str, patch))
        raise UsageError(f"training.patch: {shown} voxels are too small for two stages; set a larger patch or network.strides")
    reasons["strides"] = GIVEN if network.strides is not None else "axes are halved down to 4 positions, coarse axes later"
    reasons["kernels"] = GIVEN if network.kernels is not None else "3, but 1 along axes at least twice as coarse as the finest"
    return topology, patch


def _stages(network: NetworkConfig) -> int | None:
    """Return the number of stages that the user's settings imply; None where they imply none."""
    implied = {}
    for key, extra in (("features", 0), ("strides", 1), ("kernels", 0), ("encoder_units", 0), ("decoder_units", 1)):
        value = getattr(network, key)
        if isinstance(value, tuple):
            implied[key] = len(value) + extra
    if len(set(implied.values())) > 1:
        listed = ", ".join(f"{key} says {stages}" for key, stages in implied.items())
        raise UsageError(f"network: the number of stages is not clear: {listed}")
    stages = next(iter(implied.values()), None)
    if stages is not None and stages < 2:
        raise UsageError(f"network.{next(iter(implied))}: a U-Net needs two stages at least")
    return stages


def _stem(
    config: Config,
    fingerprint: Fingerprint,
    size: list[int],
    spacing: list[float],
    budget: Budget,
    reasons: dict[str, str],
) -> Axes:
    full = (1,) * len(size)
    if not budget.stem:
        reasons["stem"] = f"none: full resolution is affordable on {budget.device}"
        return full
    edge = _smallest_structure(fingerprint) / min(spacing)
    if edge < FINE_STRUCTURE:
        reasons["stem"] = f"none: the smallest structure is {edge:.1f} voxels wide"
        return full
    stem = choose_stem(config.training.patch or size, spacing)
    reasons["stem"] = (
        "fine axes at half resolution: several times the steps in the same time" if max(stem) > 1 else "none: too few voxels"
    )
    return stem


def _smallest_structure(fingerprint: Fingerprint) -> float:
    """Return the edge in mm of a cube with the median volume of the smallest structure; of a square where cases are 2D images."""
    volumes = []
    for value in fingerprint.labels.values():
        found = [case.voxels[value] * math.prod(case.spacing) for case in fingerprint.cases if value in case.voxels]
        if found:
            volumes.append(float(np.median(found)))
    return float(np.sqrt(min(volumes)) if fingerprint.flat else np.cbrt(min(volumes)))


def _batch_size(config: Config, patch: Axes, topology: Topology, budget: Budget, reasons: dict[str, str]) -> int:
    if config.training.batch_size is not None:
        reasons["batch_size"] = GIVEN
        return config.training.batch_size
    positions = math.prod(patch) / math.prod(topology.stem)
    reasons["batch_size"] = f"as many patches as fit a step on {budget.device}, {FEWEST_BATCH} to {MOST_BATCH}"
    return int(min(MOST_BATCH, max(FEWEST_BATCH, budget.step // positions)))


def _labels(config: Config, dataset: Dataset, fingerprint: Fingerprint, reasons: dict[str, str]) -> dict[str, int]:
    found = {value for case in fingerprint.cases for value in case.centroids}
    absent = [name for name, value in fingerprint.labels.items() if value not in found]
    reasons["labels"] = (
        GIVEN
        if config.data.labels is not None or config.data.region_values is not None
        else "regions, written one over the other in this order, each with a value that no later one has"
        if config.data.regions is not None
        else "declared by the data set"
        if dataset.labels is not None
        else "values found"
    )
    if absent:
        reasons["labels"] += f"; no case has {', '.join(absent)}"
    return dict(fingerprint.labels)


def _flip_axes(config: Config, fingerprint: Fingerprint, axes: Axes, reasons: dict[str, str]) -> Axes:
    given = config.augmentation.flip.axes
    if given is None:
        flips, reasons["flip_axes"] = choose_flips(fingerprint, axes)
        return flips
    unseen = sorted(set(given).difference(axes))
    if unseen:
        raise UsageError(f"augmentation.flip.axes: slices are taken across axis {unseen[0]}, so it cannot be flipped; remove it")
    reasons["flip_axes"] = GIVEN
    return given
