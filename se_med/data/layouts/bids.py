"""BIDS: images in sub-*/[ses-*/]anat/, segmentations in derivatives/<pipeline>/sub-*/[ses-*/]anat/*_dseg.nii.gz.

A file name is a chain of entities and a suffix, `sub-01_ses-1_run-2_T1w.nii.gz`: bids-specification.readthedocs.io. A
segmentation belongs to the images of its subject and session that agree with all entities it shares with them. Subjects are
groups; the columns of `participants.tsv` are covariates.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from se_med.data.case import Case, refuse
from se_med.data.layouts.delimited import read_table
from se_med.data.layouts.layout import Found, Layout, Source
from se_med.errors import DataError
from se_med.io.images import image_stem, image_suffix

log = logging.getLogger(__name__)

DATATYPES = ("anat", "pet", "ct")
"""Folders of a session that are looked into."""
LABEL_SUFFIX = "dseg"
OF_SEGMENTATIONS = ("desc", "label", "space", "seg", "atlas", "res", "den", "hemi", "from", "to", "mode")
"""Entities that say how a segmentation was made; they are not those of the image."""

_NAME = re.compile(r"(?P<entities>sub-[A-Za-z0-9+]+(_[a-z]+-[A-Za-z0-9+]+)*)_(?P<suffix>[A-Za-z0-9]+)")
_ADVICE = "choose the files with data.image_files and data.label_files"


@dataclass(frozen=True)
class _File:
    path: Path
    entities: dict[str, str]
    suffix: str

    @property
    def session(self) -> tuple[str, str]:
        return self.entities["sub"], self.entities.get("ses", "")

    def of_image(self) -> dict[str, str]:
        """The entities without those that only segmentations have."""
        return {name: text for name, text in self.entities.items() if name not in OF_SEGMENTATIONS}


def detect(source: Source) -> bool:
    """Tell whether there are subjects, and derivatives with subjects."""
    return any(source.root.glob("sub-*/")) and any(source.root.glob("derivatives/*/sub-*/"))


def read(source: Source) -> Found:
    """Return one case for each segmentation; sessions without one are left out, which is logged.

    Raises:
        DataError: there are no segmentations, or a channel of a case is missing or ambiguous; every problem is listed.
    """
    root = source.root
    labels = [file for folder in sorted(root.glob("derivatives/*/")) for file in _files(folder) if file.suffix == LABEL_SUFFIX]
    if not labels:
        raise DataError(f"{root}: no segmentations, looked for derivatives/*/sub-*/[ses-*/]anat/*_{LABEL_SUFFIX}.nii.gz")
    images: dict[tuple[str, str], list[_File]] = {}
    for file in _files(root):
        images.setdefault(file.session, []).append(file)
    suffixes = source.data.channels or _suffixes(images, labels)
    people = _participants(root)
    cases: dict[str, Case] = {}
    problems: list[str] = []
    for label in labels:
        name = "_".join(f"{entity}-{text}" for entity, text in label.of_image().items())
        found = [_match(label, images.get(label.session, []), suffix) for suffix in suffixes]
        faults = [f"{label.path.relative_to(root)}: {item}" for item in found if isinstance(item, str)]
        if name in cases:
            faults.append(f"{label.path.relative_to(root)}: also {cases[name].label} segments {name}; {_ADVICE}")
        problems += faults
        if not faults:
            paths = tuple(item for item in found if isinstance(item, Path))
            covariates = people.get(f"sub-{label.entities['sub']}", {})
            cases[name] = Case(name, paths, label.path, f"sub-{label.entities['sub']}", None, covariates)
    refuse(root, problems)
    left = len(set(images) - {label.session for label in labels})
    if left:
        log.warning("%s: %d of %d sessions have no segmentation and are left out", root, left, len(images))
    return Found(list(cases.values()), suffixes)


def _files(folder: Path) -> list[_File]:
    """Return the images of all subjects below a folder, sorted."""
    found = []
    for datatype in DATATYPES:
        for pattern in (f"sub-*/{datatype}/sub-*", f"sub-*/ses-*/{datatype}/sub-*"):
            for path in sorted(folder.glob(pattern)):
                match = _NAME.fullmatch(image_stem(path))
                if match is not None and image_suffix(path) and path.is_file():
                    entities = dict(part.split("-", 1) for part in match["entities"].split("_"))
                    found.append(_File(path, entities, match["suffix"]))
    return found


def _suffixes(images: Mapping[tuple[str, str], list[_File]], labels: list[_File]) -> tuple[str, ...]:
    """Return the suffixes that some labelled session has; each has to be there in all of them."""
    return tuple(sorted({image.suffix for label in labels for image in images.get(label.session, [])} - {"mask", LABEL_SUFFIX}))


def _match(label: _File, images: list[_File], suffix: str) -> Path | str:
    """Return the image of a suffix that a segmentation belongs to, or what is wrong."""
    wanted = label.of_image()
    alike = [image for image in images if image.suffix == suffix]
    alike = [image for image in alike if all(image.entities.get(name, text) == text for name, text in wanted.items())]
    exact = [image for image in alike if image.entities == wanted]
    if len(exact) == 1 or len(alike) == 1:
        return (exact or alike)[0].path
    if not alike:
        return f"no image with the suffix {suffix}; name the channels that every case has in data.channels, e.g. [T1w]"
    return f"{alike[0].path.name} and {alike[1].path.name} may be its {suffix}; {_ADVICE}"


def _participants(root: Path) -> dict[str, dict[str, str]]:
    path = root / "participants.tsv"
    if not path.is_file():
        return {}
    table = read_table(path)
    if "participant_id" not in table.columns:
        raise DataError(f"{path}: no column participant_id")
    return {
        row["participant_id"]: {name: text for name, text in row.items() if name != "participant_id"} for _, row in table.rows
    }


LAYOUT = Layout("bids", "sub-*/[ses-*/]anat/ with segmentations in derivatives/*/sub-*/[ses-*/]anat/*_dseg.nii.gz", detect, read)
