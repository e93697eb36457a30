"""What the values of label files mean where segmentations are scored: as given, or found beside the files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from se_med.config.labels import as_values, refuse_values
from se_med.config.load import load_config
from se_med.data.layouts import declared_structures
from se_med.data.layouts.description import FILE_NAME, read_description
from se_med.data.structures import LabelValues
from se_med.errors import ImageError, UsageError
from se_med.io.images import image_stem, read_label
from se_med.io.textfile import read_text

CONFIG = "config.yaml"


@dataclass(frozen=True)
class Meaning:
    """What label values mean.

    Attributes:
        labels: name and value of each structure, or its values where there are several.
        source: where that is said.
        background_values: values that count as background, beside 0.
        ignore_label: value of voxels that have no truth.
    """

    labels: dict[str, int | tuple[int, ...]]
    source: str
    background_values: tuple[int, ...] = ()
    ignore_label: int | None = None


def read_meaning(path: Path) -> Meaning:
    """Read what label values mean from the configuration of a run.

    Args:
        path: a run folder, or a YAML file.

    Raises:
        UsageError: the file cannot be read, or it declares neither labels nor regions.
        ConfigError: it is not a valid configuration.
    """
    path = path / CONFIG if path.is_dir() else path
    data = load_config(path).data
    structures = declared_structures(data)
    if structures is None:
        raise UsageError(f"{path}: says nothing of labels; set data.labels or data.regions, or name a run folder")
    return Meaning(structures.entries, str(path), data.background_values, data.ignore_label)


def find_meaning(
    given: LabelValues | None,
    predictions: Mapping[str, Path],
    references: Mapping[str, Path],
    reference: Path,
    ignore_label: int | None,
    background_values: Sequence[int],
) -> Meaning:
    """Return what label values mean: as given, as the predictions' sidecars say, as `dataset.json` says, or as they are found.

    Args:
        given: name and value, or values, of each structure.
        predictions: files by case.
        references: files by case.
        reference: their folder, or the file.
        ignore_label: value of voxels without a truth.
        background_values: values that count as background, beside 0 and those of the sidecars.

    Raises:
        UsageError: the labels are not usable, or those of several models are mixed.
        DataError: `dataset.json` is not usable.
    """
    meaning = _find(given, predictions, references, reference, ignore_label, tuple(background_values))
    if any(ignore_label in as_values(entry) for entry in meaning.labels.values()):
        raise UsageError(
            f"ignore label {ignore_label}: is the value of a structure ({meaning.source}: {meaning.labels}); give another value"
        )
    try:
        refuse_values(meaning.labels, meaning.background_values, ignore_label)
    except ValueError as error:
        raise UsageError(f"{meaning.source}: {error}") from None
    return replace(meaning, ignore_label=ignore_label)


def _find(
    given: LabelValues | None,
    predictions: Mapping[str, Path],
    references: Mapping[str, Path],
    reference: Path,
    ignore_label: int | None,
    background: tuple[int, ...],
) -> Meaning:
    if given is not None:
        return Meaning(_usable(given, "the given labels"), "given", background)
    sidecars = {path.parent / f"{image_stem(path)}.json" for path in predictions.values()}
    found = {str(path): entry for path in sorted(sidecars) if (entry := _read_sidecar(path)) is not None}
    if found:
        first = next(iter(found))
        for path, entry in found.items():
            if entry != found[first]:
                one, other = entry.labels, found[first].labels
                raise UsageError(f"{path}: has labels {one}, {first} has {other}; predictions of two models are mixed")
        labels, source, more = found[first].labels, found[first].source, found[first].background_values
        return Meaning(labels, source, tuple(dict.fromkeys((*background, *more))))
    folder = reference if reference.is_dir() else reference.parent
    for root in (folder, folder.parent):
        declared = read_description(root).structures(ignore_label, background)
        if declared is not None:
            return Meaning(declared.entries, str(root / FILE_NAME), background)
    values = [value for value in _values(references.values()) if value not in (ignore_label, *background)]
    if not values:
        raise UsageError(f"{reference}: no structure in any reference, and no labels given; give the name and value of each")
    return Meaning({str(value): value for value in values}, "values in the references", background)


def _read_sidecar(path: Path) -> Meaning | None:
    try:
        content = json.loads(read_text(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not readable as JSON: {error}; remove it, or give the labels") from None
    if not isinstance(content, dict) or "labels" not in content:
        return None
    labels = _usable(content["labels"], str(path))
    background = content.get("background_values", [])
    if not isinstance(background, list) or not all(type(value) is int for value in background):
        raise UsageError(f"{path}: background_values {background!r} are not a list of label values")
    return Meaning(labels, "sidecars of the predictions", tuple(background))


def _usable(labels: Any, where: str) -> dict[str, int | tuple[int, ...]]:
    """Check that labels map different names to one positive whole number or several, and no two to the same."""
    if not isinstance(labels, Mapping) or not labels:
        raise UsageError(f"{where}: labels {labels!r} are not a mapping from name to value")
    checked: dict[str, int | tuple[int, ...]] = {}
    for name, entry in labels.items():
        values = tuple(entry) if isinstance(entry, list | tuple) else (entry,)
        if not values or any(type(value) is not int or value < 1 for value in values):
            raise UsageError(f"{where}: label {name!r} has the value {entry!r}; use whole numbers from 1")
        checked[name] = values[0] if len(values) == 1 else values
    if len({frozenset(as_values(entry)) for entry in checked.values()}) != len(checked):
        raise UsageError(f"{where}: two labels have the same value: {dict(labels)}")
    return checked


def _values(references: Iterable[Path]) -> Sequence[int]:
    """Return all values in the references but 0; files that cannot be read fail later, one by one."""
    values: set[int] = set()
    for path in references:
        try:
            values.update(np.unique(read_label(path).array).tolist())
        except ImageError:
            continue
    return sorted(values - {0})
