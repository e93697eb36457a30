"""A table of cases, anywhere, with two channels in formats and on grids of their own: checked, trained on and predicted."""

import json

import nibabel
import numpy as np
from small_data import SMALL_CONFIG

from se_med.io.images import read_image, read_label, write_label


def make_table(folder, small_data):
    """Half as fine a second channel, labels as MetaImage, and a row for each case."""
    folder.mkdir()
    rows = ["case,image_T1,image_T2,label,fold,age"]
    for number, path in enumerate(sorted((small_data / "imagesTr").glob("*.nii.gz"))):
        name = path.name.removesuffix(".nii.gz")
        image = read_image(path)
        coarse = np.diag([2.0, 2.0, 2.0, 1.0])
        nibabel.save(nibabel.Nifti1Image(image.array[0, ::2, ::2, ::2], coarse), folder / f"{name}_t2.nii")
        label = read_label(small_data / "labelsTr" / path.name)
        write_label(folder / f"{name}_seg.mha", label.array, label)
        rows.append(f"{name},{path},{name}_t2.nii,{name}_seg.mha,{number % 4},{50 + number}")
    (folder / "mine.csv").write_text("\n".join(rows) + "\n")
    return folder / "mine.csv"


def test_a_table_is_checked_trained_on_and_predicted(se_med, tmp_path, small_data, small_cache):
    table = make_table(tmp_path / "table", small_data)
    config = tmp_path / "small.yaml"
    text = SMALL_CONFIG.format(root="", cache=small_cache).replace(
        "  root: \n", f"  table: {table}\n  labels: {{ball: 1, box: 2}}\n"
    )
    config.write_text(text)
    trained = se_med("train", config, "--runs", tmp_path / "runs")
    assert trained.code == 0, trained.err
    assert "(table), 6 training, 2 validation cases" in trained.err + trained.out
    assert "case_00_t2.nii: grid differs from" in trained.err + trained.out
    run = tmp_path / "runs" / "small"
    checked = se_med("check", config, "-o", tmp_path / "check")
    assert checked.code == 0, checked.err
    (fold,) = json.loads((run / "split.json").read_text())
    assert fold["validation"] == ["case_00", "case_04"]

    inputs = tmp_path / "inputs"
    inputs.mkdir()
    (inputs / "x_0000.nii.gz").write_bytes((small_data / "imagesTr/case_00.nii.gz").read_bytes())
    (inputs / "x_0001.nii").write_bytes((tmp_path / "table/case_00_t2.nii").read_bytes())
    predicted = se_med("predict", run, inputs, "-o", tmp_path / "out")
    assert predicted.code == 0, predicted.err
    shape = read_image(inputs / "x_0000.nii.gz").shape
    assert read_label(tmp_path / "out/x.nii.gz").shape == shape
