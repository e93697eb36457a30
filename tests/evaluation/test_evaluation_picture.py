from __future__ import annotations

import matplotlib.image
import nibabel
import numpy as np
import pytest

from se_med.errors import RunError, UsageError
from se_med.evaluation.folders import evaluate_folder
from se_med.evaluation.picture import PALETTE, draw_case, draw_median_case, draw_panels
from se_med.io.volume import Volume

LABELS = {"front": 1, "back": 2}


def rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[start : start + 2], 16) for start in (1, 3, 5)]) / 255


def where(path, colour: str) -> np.ndarray:
    """Pixels (row, column) of a colour."""
    picture = matplotlib.image.imread(path)[..., :3]
    return np.argwhere(np.abs(picture - rgb(colour)).max(-1) < 0.02)


@pytest.fixture
def scene():
    """An image in RAS with structures of which the axial slice 7 shows most."""
    image = np.full((1, 40, 30, 12), 0.5, np.float32)
    image[0, :, :, :2] = 0.0
    image[0, :, :, 10:] = 1.0
    label = np.zeros((40, 30, 12), np.uint8)
    label[8:24, 14:24, 7] = 1
    label[8:24, 6:14, 7] = 2
    label[14:16, 14:16, 5:8] = 1
    return image, label


def test_front_is_up_and_the_patients_right_is_left_in_axial_slices(scene, tmp_path):
    image, label = scene
    draw_case(Volume(image, np.eye(4)), label, None, tmp_path / "a.png", LABELS)
    front, back = where(tmp_path / "a.png", PALETTE[0]), where(tmp_path / "a.png", PALETTE[1])
    # The last rows are the legend.
    height = matplotlib.image.imread(tmp_path / "a.png").shape[0]
    front, back = (points[points[:, 0] < 0.85 * height] for points in (front, back))
    assert front[:, 0].mean() < back[:, 0].mean()
    side = np.zeros_like(label)
    side[20:35, 5:25, 7] = 1  # towards the patient's right end of the x axis is low x
    side[5:20, 5:25, 7] = 2
    draw_case(Volume(image, np.eye(4)), side, None, tmp_path / "b.png", LABELS)
    left, right = (where(tmp_path / "b.png", colour) for colour in PALETTE[:2])
    left, right = (points[points[:, 0] < 0.85 * height] for points in (left, right))
    # In RAS, x grows towards the patient's right, which is shown on the left.
    assert left[:, 1].mean() < right[:, 1].mean()


@pytest.mark.parametrize(("flip", "order"), [((0,), (0, 1, 2)), ((1, 2), (2, 0, 1)), ((0, 1), (1, 0, 2))])
def test_the_same_volume_in_another_orientation_gives_the_same_picture(scene, tmp_path, flip, order):
    image, label = scene
    affine = np.diag([1.0, 1.5, 3.0, 1.0])
    draw_case(Volume(image, affine), label, np.roll(label, 1, 0), tmp_path / "a.png", LABELS, planes="all")
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1
    for new, old in enumerate(order):
        matrix[old, new] = -1 if old in flip else 1
        matrix[old, 3] += label.shape[old] - 1 if old in flip else 0
    turned = [np.flip(array, [axis - 3 for axis in flip]) for array in (image, label, np.roll(label, 1, 0))]
    channels, *maps = turned
    stored = np.ascontiguousarray(channels.transpose(0, *(axis + 1 for axis in order)))
    maps = [np.ascontiguousarray(one.transpose(order)) for one in maps]
    draw_case(Volume(stored, affine @ matrix), *maps, tmp_path / "b.png", LABELS, planes="all")
    assert np.array_equal(matplotlib.image.imread(tmp_path / "a.png"), matplotlib.image.imread(tmp_path / "b.png"))


def test_proportions_are_those_of_the_body(tmp_path):
    """A square of 20 x 20 mm is a square, whatever the voxels are."""
    image = np.random.default_rng(0).normal(size=(1, 80, 16, 5)).astype(np.float32)
    label = np.zeros((80, 16, 5), np.uint8)
    label[30:50, 6:10, 2] = 1
    draw_case(Volume(image, np.diag([1.0, 5.0, 9.0, 1.0])), label, None, tmp_path / "a.png", {"x": 1})
    points = where(tmp_path / "a.png", PALETTE[0])
    height = matplotlib.image.imread(tmp_path / "a.png").shape[0]
    points = points[points[:, 0] < 0.85 * height]
    rows, columns = np.ptp(points, axis=0)
    assert rows == pytest.approx(columns, rel=0.03)


def test_the_reference_is_drawn_only_where_there_is_one_and_misses_are_seen(scene, tmp_path):
    image, label = scene
    volume = Volume(image, np.eye(4))
    draw_case(volume, label, None, tmp_path / "alone.png", LABELS)
    draw_case(volume, label, label, tmp_path / "both.png", LABELS)
    assert (tmp_path / "alone.png").read_bytes() != (tmp_path / "both.png").read_bytes()
    # An empty prediction still shows the slice of the reference.
    draw_case(volume, np.zeros_like(label), label, tmp_path / "missed.png", LABELS)
    draw_case(volume, np.zeros_like(label), None, tmp_path / "nothing.png", LABELS)
    assert len(where(tmp_path / "nothing.png", PALETTE[0])) == 0


def test_a_constant_image_and_many_structures_can_be_drawn(tmp_path):
    label = np.arange(10, dtype=np.uint8).repeat(50).reshape(10, 10, 5)
    draw_case(
        Volume(np.zeros((2, 10, 10, 5), np.float32), np.eye(4)),
        label,
        label,
        tmp_path / "a.png",
        {f"s{value}": value for value in range(1, 10)},
        "many",
        planes="all",
        channel=1,
    )
    assert matplotlib.image.imread(tmp_path / "a.png").shape[2] == 4


def test_what_cannot_be_drawn_is_refused(scene, tmp_path):
    image, label = scene
    volume = Volume(image, np.eye(4))
    with pytest.raises(UsageError, match=r"a\.jpg: pictures are written as PNG"):
        draw_case(volume, label, None, tmp_path / "a.jpg", LABELS)
    with pytest.raises(ValueError, match="not on the image's grid"):
        draw_case(volume, label[1:], None, tmp_path / "a.png", LABELS)
    with pytest.raises(RunError, match="cannot be written"):
        draw_case(volume, label, None, tmp_path / "nowhere" / "a.png", LABELS)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def folders(scene, tmp_path):
    """Five cases of falling Dice, images with channel numbers."""
    image, label = scene
    for number in range(5):
        for folder, array in (("images", image[0]), ("ref", label), ("pred", np.roll(label, number, 0))):
            (tmp_path / folder).mkdir(exist_ok=True)
            name = f"c{number}_0000.nii.gz" if folder == "images" else f"c{number}.nii.gz"
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / folder / name)
    return tmp_path / "images", tmp_path / "pred", tmp_path / "ref"


def test_the_median_case_is_drawn(folders, tmp_path):
    images, *pair = folders
    evaluation = evaluate_folder(*pair, LABELS, surfaces=False)
    assert draw_median_case(evaluation, images, *pair, tmp_path / "a.png") == "c2"
    assert matplotlib.image.imread(tmp_path / "a.png").shape[1] > 500
    (images / "c2_0000.nii.gz").unlink()
    (pair[0] / "c4.nii.gz").unlink()  # a case without a prediction has nothing to show
    evaluation = evaluate_folder(*pair, LABELS, surfaces=False)
    assert draw_median_case(evaluation, images, *pair, tmp_path / "a.png") == "c1"


def test_single_files_are_drawn_whatever_their_names(folders, tmp_path):
    images, prediction, reference = folders
    pair = prediction / "c1.nii.gz", reference / "c3.nii.gz"
    evaluation = evaluate_folder(*pair, LABELS, surfaces=False)
    assert draw_median_case(evaluation, images / "c0_0000.nii.gz", *pair, tmp_path / "a.png") == "c3"


def test_images_that_do_not_fit_are_refused(folders, scene, tmp_path):
    _, *pair = folders
    evaluation = evaluate_folder(*pair, LABELS, surfaces=False)
    other = tmp_path / "other"
    other.mkdir()
    nibabel.save(nibabel.Nifti1Image(scene[0][0], np.eye(4)), other / "x.nii.gz")
    with pytest.raises(UsageError, match="no image of a case that was scored"):
        draw_median_case(evaluation, other, *pair, tmp_path / "a.png")
    nibabel.save(nibabel.Nifti1Image(scene[0][0], np.diag([1, 1, 2, 1])), other / "c2.nii.gz")
    with pytest.raises(UsageError, match=r"c2\.nii\.gz: grid differs .* 1x1x2 against 1x1x1"):
        draw_median_case(evaluation, other, *pair, tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_panels_show_the_slice_in_which_predictions_are_wrong(scene, tmp_path):
    image, label = scene
    wrong = label.copy()
    wrong[:, :, 6] = label[:, :, 7]  # a slice beside, in which the reference has less
    reference = label.copy()
    reference[8:24, 8:20, 6] = 1
    figure = draw_panels(Volume(image, np.eye(4)), {"right": reference, "wrong": wrong}, reference, LABELS)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["right", "wrong"]
    assert figure.get_supxlabel() == "axial, z = 6.0 mm"
    figure.savefig(tmp_path / "a.png")
    assert where(tmp_path / "a.png", PALETTE[0]).size
    with pytest.raises(ValueError, match="not on the image's grid"):
        draw_panels(Volume(image, np.eye(4)), {"a": label[1:]}, label, LABELS)
