"""What can be written of a case beside its labels: maps of probability and uncertainty, a picture."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from se_med.inference.segmentation import Segmentation
from se_med.io.maps import write_map

Draw = Callable[..., None]
"""Draws a picture: takes image (a volume), prediction (label values), path, labels (name and values) and title, by name."""

_DRAWING = threading.Lock()  # matplotlib is not made for several threads


@dataclass(frozen=True)
class Outputs:
    """What to write beside label file and sidecar.

    Attributes:
        probabilities: a map of the probability of each output of the network, `probabilities/NAME.nii.gz`, in four dimensions.
        uncertainty: maps of uncertainty, `uncertainty/NAME_entropy.nii.gz` and, of several passes or networks,
            `NAME_disagreement.nii.gz`; both from 0 to 1.
        preview: what draws the picture `previews/NAME.png`; None for none.
        intensities: mean and standard deviation of the image within each structure, in sidecar and table.
    """

    probabilities: bool = False
    uncertainty: bool = False
    preview: Draw | None = None
    intensities: bool = False

    @property
    def names(self) -> list[str]:
        """Names of those that are wanted."""
        return [name for name in ("probabilities", "uncertainty", "preview", "intensities") if getattr(self, name)]


LABELS_ALONE = Outputs()


def write_outputs(folder: Path, name: str, segmentation: Segmentation, outputs: Outputs) -> None:
    """Write what is wanted of one case into subfolders of a folder.

    Raises:
        RunError: a file cannot be written.
        OSError: likewise.
    """
    native = segmentation.native
    for path, values in (
        (f"probabilities/{name}.nii.gz", segmentation.probabilities if outputs.probabilities else None),
        (f"uncertainty/{name}_entropy.nii.gz", segmentation.entropy if outputs.uncertainty else None),
        (f"uncertainty/{name}_disagreement.nii.gz", segmentation.disagreement if outputs.uncertainty else None),
    ):
        if values is not None:
            (folder / path).parent.mkdir(exist_ok=True)
            write_map(folder / path, values, native)
    if outputs.preview is not None:
        picture = folder / "previews" / f"{name}.png"
        picture.parent.mkdir()
        structures = dict(segmentation.structures)
        with _DRAWING:
            outputs.preview(image=native, prediction=segmentation.labels, path=picture, labels=structures, title=name)
