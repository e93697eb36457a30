"""A plan that is given instead of made: read, checked against data set and configuration, and adapted to what the user sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from se_med.config.experiment import Config
from se_med.data.axes import GIVEN
from se_med.data.case import Dataset
from se_med.data.class_weights import choose_class_weights
from se_med.data.fingerprint import Fingerprint
from se_med.data.memory import case_geometry
from se_med.data.plan import Plan
from se_med.data.topology import check_patch
from se_med.errors import UsageError
from se_med.io.image2d import is_flat
from se_med.io.textfile import read_text

AGAIN = "give the plan of this data set, or make one with `se-med plan`"


def read_plan(path: Path) -> Plan:
    """Read a plan.

    Raises:
        UsageError: there is no such file, or it is not a plan.
    """
    try:
        return Plan.model_validate_json(read_text(path))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: is not the plan of a run ({str(error).splitlines()[0]})") from None


def adopt_plan(path: Path, config: Config, dataset: Dataset) -> Plan:
    """Return the plan in a file for a data set and configuration.

    What shapes the data (structures, channels, spacing, normalisation, rank) is used as it is. Sizes of the network, patch,
    batch, flips and class weights that the configuration sets win over those of the plan, as they do when a plan is made.

    Args:
        path: the plan.
        config: the configuration as the user wrote it.
        dataset: the data set that it is used on.

    Raises:
        UsageError: the file is no plan, or it does not fit the data set or the configuration; in one line.
    """
    plan = read_plan(path)
    problem = _unlike_data(plan, dataset) or _unlike_config(plan, config)
    if problem is not None:
        raise UsageError(f"{path}: {problem}; {AGAIN}")
    given: dict[str, Any] = {
        "features": config.network.features,
        "strides": config.network.strides,
        "kernels": config.network.kernels,
        "stem": config.network.stem,
        "patch": config.training.patch,
        "batch_size": config.training.batch_size,
        "flip_axes": config.augmentation.flip.axes,
    }
    changed = {key: value for key, value in given.items() if value is not None and value != getattr(plan, key)}
    reasons = dict.fromkeys(plan.reasons, f"from {path.name}") | dict.fromkeys(changed, GIVEN)
    if config.training.class_weights != "balanced":
        # Names and weights alone are needed from here on.
        names = Fingerprint((), plan.labels, len(plan.channels), ())
        changed["class_weights"] = choose_class_weights(config.training.class_weights, names, reasons, plan.regions)
    elif plan.class_weights is None:
        raise UsageError(f"{path}: was made without training.class_weights: balanced; {AGAIN}")
    plan = plan.model_copy(update=changed | {"reasons": reasons, "estimate": None})
    check_patch(plan.patch, tuple(_products(plan)))
    return plan


def _unlike_data(plan: Plan, dataset: Dataset) -> str | None:
    """Return what of the data set the plan was not made for; None where it fits."""
    first = dataset.cases[0]
    if plan.flat != is_flat(first.images[0]):
        kinds = ("2D images", "volumes") if plan.flat else ("volumes", "2D images")
        return f"was made for {kinds[0]}, the data set holds {kinds[1]}"
    if dataset.channels and dataset.channels != plan.channels:
        return f"was made for channels {_listed(plan.channels)}, the data set has {_listed(dataset.channels)}"
    geometry = case_geometry(first)
    if geometry is not None and geometry.channels != len(plan.channels):
        return f"was made for {len(plan.channels)} channels, {first.images[0].name} has {geometry.channels}"
    mine = (plan.labels, plan.structures.values, plan.regions)
    structures = dataset.structures
    if dataset.labels is not None and structures is not None and mine != (dataset.labels, structures.values, dataset.regions):
        return f"was made for {_structures(plan.labels)}, the data set has {_structures(dataset.labels)}"
    if plan.ignore_label != dataset.ignore_label:
        return f"was made for ignore label {plan.ignore_label}, data.ignore_label is {dataset.ignore_label}"
    if sorted(plan.background_values) != sorted(dataset.background_values):
        return f"was made for background values {list(plan.background_values)}, not {list(dataset.background_values)}"
    return None


def _unlike_config(plan: Plan, config: Config) -> str | None:
    """Return the first setting that shapes the data and is set to another value than the plan's; None where all agree."""
    for key, value, planned in (
        ("network.spatial_dims", config.network.spatial_dims, plan.spatial_dims),
        ("data.slice_axis", config.data.slice_axis, plan.slice_axis),
        ("data.spacing", config.data.spacing, plan.spacing),
    ):
        if value is not None and value != planned:
            return f"has {key} {_shown(planned)}, the configuration sets {_shown(value)}"
    methods = {entry.method for entry in plan.normalisation}
    expected = {"auto": methods, "ct": {"ct"}}.get(config.data.modality, {"zscore"})
    if methods != expected:
        return f"normalises by {_listed(sorted(methods))}, which is not for data.modality {config.data.modality}"
    return None


def _products(plan: Plan) -> list[int]:
    """Return what the patch must be a multiple of, per axis."""
    products = list(plan.stem)
    for stride in plan.strides:
        products = [product * step for product, step in zip(products, stride, strict=True)]
    return products


def _structures(labels: dict[str, int]) -> str:
    shown = [f"{name}: {value}" for name, value in labels.items()]
    return f"{{{', '.join(shown[:5])}{', ...' if len(shown) > 5 else ''}}}"


def _listed(names: Any) -> str:
    return ", ".join(map(str, names))


def _shown(value: Any) -> str:
    return "x".join(f"{one:g}" for one in value) if isinstance(value, tuple) else str(value)
