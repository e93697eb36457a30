from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from se_med.config.data import DataConfig
from se_med.data.demo import LABELS, make_demo
from se_med.data.fingerprint import take_fingerprint
from se_med.data.layouts import find_dataset
from se_med.data.symmetry import choose_flips
from se_med.errors import UsageError
from se_med.io.nifti import read_image, read_label
from se_med.io.volume import same_geometry


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("nilearn") is None:
        pytest.skip("nilearn (extra `demo`) is not installed")
    return make_demo(tmp_path_factory.mktemp("parent") / "new" / "demo", subjects=4, seed=3, spacing=5.0)


def test_the_demo_is_a_data_set_without_errors(demo):
    dataset = find_dataset(DataConfig(root=demo))
    assert (dataset.layout, dataset.labels, dataset.modality, len(dataset.cases)) == ("msd", LABELS, "mr", 3)
    found = take_fingerprint(dataset)
    assert all(set(case.centroids) == {1, 2} for case in found.cases)
    assert np.allclose(found.spacings, 5, rtol=1e-4)
    flips, _ = choose_flips(found, (0, 1, 2))
    assert 0 in flips
    assert 2 not in flips


def test_held_out_subjects_are_complete(demo):
    (image,) = (demo / "imagesTs").iterdir()
    assert same_geometry(read_image(image), read_label(demo / "labelsTs" / image.name)) is None


def test_subjects_differ_in_anatomy_contrast_and_geometry(demo):
    images = [nib.load(path) for path in sorted(demo.glob("images*/*.nii.gz"))]
    assert len({nib.aff2axcodes(image.affine) for image in images}) > 1
    assert len({float(np.asarray(image.dataobj).max()) for image in images}) == 4
    volumes = [int((np.asarray(nib.load(path).dataobj) == 2).sum()) for path in demo.glob("labels*/*.nii.gz")]
    assert max(volumes) > 1.03 * min(volumes)


def test_labels_follow_the_intensities(demo):
    """White matter is brighter than grey matter, and grey matter brighter than background, in every T1 image."""
    for path in demo.glob("images*/*.nii.gz"):
        voxels, label = np.asarray(nib.load(path).dataobj), np.asarray(nib.load(str(path).replace("images", "labels")).dataobj)
        background, grey, white = (np.median(voxels[label == value]) for value in (0, 1, 2))
        assert background < grey < white


def test_it_says_what_it_is_no_evidence_for(demo):
    text = (demo / "README.txt").read_text()
    assert "derived from one template" in text
    assert "no evidence for or against squeeze-and-excitation" in text


def test_equal_seeds_give_equal_bytes_in_another_process_which_does_not_import_nilearn(demo, tmp_path):
    code = (
        "import sys; from pathlib import Path; from se_med.data.demo import make_demo; "
        f"make_demo(Path({str(tmp_path)!r}), subjects=4, seed=3, spacing=5.0); sys.exit('nilearn' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert digests(tmp_path) == digests(demo)


def test_another_seed_gives_other_subjects(demo, tmp_path):
    other = digests(make_demo(tmp_path / "other", subjects=4, seed=4, spacing=5.0))
    assert all(other[name] != digest for name, digest in digests(demo).items() if name.endswith(".nii.gz"))


def test_a_made_demo_is_left_as_it_is_and_an_interrupted_one_is_finished(demo):
    before = digests(demo)
    stamp = (demo / "imagesTr/subject_001.nii.gz").stat().st_mtime_ns
    make_demo(demo, subjects=4, seed=3, spacing=5.0)
    assert (demo / "imagesTr/subject_001.nii.gz").stat().st_mtime_ns == stamp
    (demo / "dataset.json").unlink()
    (demo / "labelsTr/subject_002.nii.gz").unlink()
    make_demo(demo, subjects=4, seed=3, spacing=5.0)
    assert digests(demo) == before


def test_a_folder_with_something_else_is_not_touched(demo, tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    for folder in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(UsageError, match="give a"):
            make_demo(folder)
    with pytest.raises(UsageError, match="holds something else"):
        make_demo(demo, subjects=5, seed=3, spacing=5.0)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("arguments", [{"subjects": 3}, {"spacing": 0.5}, {"spacing": 20.0}])
def test_arguments_out_of_range(tmp_path, arguments):
    with pytest.raises(UsageError, match="demo:"):
        make_demo(tmp_path / "demo", **arguments)
    assert not (tmp_path / "demo").exists()


def test_without_nilearn_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'se-med\[demo\]'"):
        make_demo(tmp_path / "demo")
    assert not (tmp_path / "demo").exists()
