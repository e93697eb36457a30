from __future__ import annotations

import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, ornt_transform
from tiny_model import make_plan, make_predictor

from se_med.evaluation.folders import evaluate_folder
from se_med.inference.batch import predict_cases
from se_med.inference.cases import find_cases

DATA = os.environ.get("SE_MED_DATA")

pytestmark = pytest.mark.skipif(DATA is None, reason="SE_MED_DATA is not set: it names the folder of the real data sets")


def test_real_volumes_in_three_orientations_get_the_same_labels_each_on_its_own_grid(tmp_path):
    source = sorted((Path(DATA) / "hippocampus" / "imagesTr").glob("hippocampus_*.nii.gz"))[:2]
    image = tmp_path / "images"
    image.mkdir()
    for path in source:
        volume = nibabel.load(path)
        nibabel.save(volume, image / path.name)
        for codes in ("LPS", "PIR", "ASL"):
            change = ornt_transform(axcodes2ornt(nibabel.aff2axcodes(volume.affine)), axcodes2ornt(codes))
            nibabel.save(volume.as_reoriented(change), image / f"{codes}_{path.name}")
    predictor = make_predictor(make_plan(patch=(32, 32, 32)))
    results = list(predict_cases(predictor, find_cases([image], tmp_path / "out", 1)))
    assert [result.status for result in results] == ["done"] * 8
    for path in source:
        straight = nibabel.load(tmp_path / "out" / path.name)
        assert len(np.unique(straight.dataobj)) > 1
        for codes in ("LPS", "PIR", "ASL"):
            turned = nibabel.load(tmp_path / "out" / f"{codes}_{path.name}")
            stored = nibabel.load(image / f"{codes}_{path.name}")
            assert "".join(nibabel.aff2axcodes(turned.affine)) == codes
            assert turned.shape == stored.shape
            assert np.array_equal(turned.affine, stored.affine)
            assert (turned.header["sform_code"], turned.header["qform_code"]) == (
                *(stored.header["sform_code"], stored.header["qform_code"]),
            )
            back = nibabel.as_closest_canonical(turned)
            assert np.array_equal(back.dataobj, nibabel.as_closest_canonical(straight).dataobj)


def test_real_references_are_perfect_against_themselves():
    labels = Path(DATA) / "hippocampus" / "labelsTr"
    one = sorted(labels.glob("hippocampus_*.nii.gz"))[0]
    evaluation = evaluate_folder(one, one)
    assert evaluation.labels_from.endswith("dataset.json")
    assert [(score.dice, score.hd95, score.nsd) for score in evaluation.summary.scores] == [(1.0, 0.0, 1.0)] * 2
