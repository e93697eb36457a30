"""How intensities are normalised: declared modality, else Hounsfield units by their range."""

from __future__ import annotations

import dataclasses

import data_sets
import numpy as np
import pytest

from se_med.data.fingerprint import take_fingerprint
from se_med.data.intensities import choose_normalisation, looks_like_ct
from se_med.data.layouts import find_dataset

CT = (-1024.0, 1800.0)


def with_ranges(ranges):
    """A fingerprint with these lowest and highest values, one pair per case."""
    base = data_sets.fingerprint(count=len(ranges))
    cases = tuple(dataclasses.replace(case, ranges=(pair,)) for case, pair in zip(base.cases, ranges, strict=True))
    return dataclasses.replace(base, cases=cases)


@pytest.mark.parametrize(
    ("low", "high", "ct"),
    [
        (-1024, 3071, True),
        (-1000, 400, True),
        (-3024, 1500, True),  # padded outside of the scanner's circle
        (-2048, 12_000, True),
        (0, 4095, False),  # MR, or CT that was shifted
        (-5.3, 8.1, False),  # z-scored
        (-4096, 4095, False),  # phase images
        (-1000, 20, False),
        (0, 1.7e6, False),
    ],
)
def test_hounsfield_units_are_known_by_their_range(low, high, ct):
    assert looks_like_ct(with_ranges([(low, high)] * 10), 0) is ct


def test_nearly_all_cases_must_look_like_ct():
    assert looks_like_ct(with_ranges([CT] * 9 + [(0.0, 255.0)]), 0)
    assert not looks_like_ct(with_ranges([CT] * 8 + [(0.0, 255.0)] * 2), 0)
    assert not looks_like_ct(data_sets.fingerprint(), 0)  # nothing is known


@pytest.mark.parametrize(
    ("settings", "dataset", "method", "said"),
    [
        ({}, {}, "ct", "values from -1024 to 1800 are taken for Hounsfield units; set data.modality"),
        ({"modality": "mr"}, {}, "zscore", "MR intensities are relative"),
        ({}, {"channels": ("MRI",)}, "zscore", "MR intensities are relative"),
        ({}, {"modality": "mr"}, "zscore", "MR intensities are relative"),
        ({"modality": "ct"}, {}, "ct", "CT is clipped"),
        ({}, {"channels": ("CT",)}, "ct", "CT is clipped"),
    ],
)
def test_what_is_declared_wins_over_the_range(settings, dataset, method, said):
    reasons: dict[str, str] = {}
    found = with_ranges([CT] * 4)
    (entry,) = choose_normalisation(data_sets.config(data=settings), data_sets.dataset(**dataset), found, reasons)
    assert entry.method == method
    assert said in reasons["normalisation"]


def test_the_range_of_every_case_is_read(tmp_path):
    root = data_sets.make_folders(tmp_path)
    voxels = np.full((6, 7, 8), 30, np.int16)
    voxels[0, 0, :2] = -1024, 900
    for name in ("a", "b", "c"):
        data_sets.save(root / "images" / f"{name}.nii.gz", voxels)
    config = data_sets.config(data={"root": root})
    found = take_fingerprint(find_dataset(config.data))
    assert [case.ranges for case in found.cases] == [((-1024.0, 900.0),)] * 3
    assert looks_like_ct(found, 0)
