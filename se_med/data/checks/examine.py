"""Everything that `se-med check` wants to know of one case: its findings, and the numbers that it is compared by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from se_med.data.case import Case, Dataset
from se_med.data.checks.finding import Finding
from se_med.data.checks.headers import channel_findings, header_findings, spacing_findings
from se_med.data.checks.reading import ReadCase, constant_channels, pixel_digest, read_case
from se_med.data.fingerprint import CaseFacts, facts_of

_SAMPLES = 200_000  # voxels of a channel that percentiles are taken from


@dataclass(frozen=True)
class Channel:
    """Intensities of one channel of one case.

    Attributes:
        low: 0.5th percentile of the whole image.
        median: of the whole image.
        high: 99.5th percentile.
        contrast: median inside the structures less that of the whole image, as a share of high - low, -1 to 1; None where there
            is no structure or high is low.
    """

    low: float
    median: float
    high: float
    contrast: float | None


@dataclass(frozen=True)
class Examined:
    """What is known of a case.

    Attributes:
        case: the case.
        findings: what is wrong with the case by itself.
        facts: shape, spacing, voxels; None where an error leaves nothing to compare.
        channels: intensities, one entry per channel; () where there are no facts.
        traits: number of channels, and whether it is a 2D image; None where the image cannot be read.
        image_digest: equal for images with the same pixels; "" where it cannot be read or is constant.
        label_digest: likewise of the label map; "" where it is empty.
    """

    case: Case
    findings: tuple[Finding, ...]
    facts: CaseFacts | None = None
    channels: tuple[Channel, ...] = ()
    traits: tuple[int, bool] | None = None
    image_digest: str = ""
    label_digest: str = field(default="")


def reader(dataset: Dataset) -> Callable[[Case], ReadCase]:
    """Return what reads a case of a data set by what the data set declares."""
    structures = dataset.structures
    return partial(
        read_case,
        declared=None if structures is None else structures.declared,
        ignore_label=dataset.ignore_label,
        background_values=dataset.background_values,
    )


def examine(case: Case, read: Callable[[Case], ReadCase], names: tuple[str, ...] = ()) -> Examined:
    """Read a case and check it.

    Args:
        case: a case of a data set.
        read: what `reader` gives for the data set.
        names: declared name of each channel, for messages.
    """
    found = read(case)
    findings = list(found.findings)
    image, label = found.image, found.label
    constant = np.zeros(0, np.bool_) if image is None else constant_channels(image.array)
    if image is not None:
        findings += [*spacing_findings(case, image), *channel_findings(case)]
        if constant.any() and not constant.all():
            findings.append(_constant_channel(case, image.array, constant, names))
    if image is not None and label is not None:
        findings += header_findings(case, image, label)
    filled = any(count for value, count in found.voxels.items() if value)
    if label is not None and not filled:
        message = "no voxel of any structure; right where there is nothing to see, else draw it or take the case out"
        findings.append(Finding("empty", "warning", message, case.name, case.label))
    stopped = any(finding.severity == "error" for finding in findings)
    facts = None if stopped else facts_of(found)
    return Examined(
        case,
        tuple(findings),
        facts,
        () if facts is None or image is None else _channels(image.array, facts),
        None if image is None else (len(image.array), image.flat),
        "" if image is None or constant.all() else facts.digest if facts is not None else pixel_digest(image.array),
        pixel_digest(label.array) if label is not None and filled else "",
    )


def _constant_channel(case: Case, image: NDArray[np.float32], constant: NDArray[np.bool_], names: tuple[str, ...]) -> Finding:
    numbers = np.flatnonzero(constant).tolist()
    named = ", ".join(f"{number} ({names[number]})" if number < len(names) else str(number) for number in numbers)
    value = float(image[numbers[0]].flat[0])
    message = f"channel {named} is {value:g} in every voxel; is that file missing? Export it again, or take the case out"
    return Finding("constant", "warning", message, case.name, case.images[numbers[0] if len(case.images) == len(image) else 0])


def _channels(image: NDArray[np.float32], facts: CaseFacts) -> tuple[Channel, ...]:
    channels = []
    for voxels, inside in zip(image.reshape(len(image), -1), facts.intensities, strict=True):
        low, median, high = np.percentile(voxels[:: max(1, len(voxels) // _SAMPLES)], (0.5, 50, 99.5)).tolist()
        contrast = (float(np.median(inside)) - median) / (high - low) if len(inside) and high > low else None
        channels.append(Channel(low, median, high, contrast))
    return tuple(channels)
