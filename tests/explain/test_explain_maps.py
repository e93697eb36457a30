"""Maps of spatial gates lie where the image is, whatever its orientation and spacing, and are what the gates say."""

import nibabel as nib
import numpy as np
import pytest
import torch
from explain_model import make_plan, make_predictor
from planted_gates import make_case
from small_data import write_volume

from se_med.explain.collect import find_watched
from se_med.explain.maps import draw_maps, spatial_gates, spatial_part, write_maps
from se_med.explain.pictures import draw_overlays


def brightness_gate(dims=3, spacing=(1.0, 1.0, 1.0), **options):
    """A predictor whose spatial gate at the finest stage is a function of the brightness of the voxel alone."""
    predictor = make_predictor(make_plan(dims, spacing=spacing), {"encoder": "sse"}, norm="batch", **options)
    network = predictor.network
    with torch.no_grad():
        conv = network.encoder[0][0].conv
        conv.weight.zero_()
        conv.weight[(0, 0, *(1,) * dims)] = 1
        gate = network.gates["encoder_0"]
        gate.conv.weight.zero_()
        gate.conv.weight[0, 0] = 2
        gate.conv.bias.zero_()
    return predictor


def expected(image):
    z = (image - image.mean()) / image.std()
    return 1 / (1 + np.exp(-2 * np.where(z > 0, z, 0.01 * z)))


@pytest.mark.parametrize("dims", [2, 3])
def test_a_map_is_the_gate_on_every_voxel(dims, tmp_path):
    predictor = brightness_gate(dims)
    image, _ = make_case(tmp_path, 3, shape=(40, 20, 9))
    (one,) = draw_maps(predictor, spatial_gates(find_watched(predictor)), [image])
    voxels = nib.load(image).get_fdata()
    assert one.values.shape == voxels.shape
    np.testing.assert_allclose(one.values, expected(voxels), atol=2e-4)


@pytest.mark.parametrize("codes", ["LPS", "SAR"])
def test_a_map_follows_the_orientation_of_its_image(codes, tmp_path):
    predictor = brightness_gate()
    path, _ = make_case(tmp_path, 3, shape=(18, 20, 17))
    image = nib.load(path)
    turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(codes))
    other = image.as_reoriented(turn)
    turned = write_volume(tmp_path / f"{codes}.nii.gz", other.get_fdata().astype(np.float32), other.affine)
    native, maps, files = write_maps(predictor, spatial_gates(find_watched(predictor)), [turned], tmp_path, "turned")
    written = nib.load(files[0])
    assert files[0].name == "turned_encoder_0.nii.gz"
    np.testing.assert_array_equal(written.affine, other.affine)
    np.testing.assert_allclose(written.get_fdata(), expected(other.get_fdata()), atol=2e-4)
    np.testing.assert_array_equal(written.get_fdata().astype(np.float32), maps[0].values)
    assert native.shape == maps[0].values.shape


def test_a_map_of_a_resampled_image_is_on_its_own_grid(tmp_path):
    predictor = brightness_gate(spacing=(2.0, 2.0, 2.0))
    grid = np.linspace(-1, 1, 40, dtype=np.float32)
    smooth = np.broadcast_to(grid[:, None, None], (40, 24, 24)).copy()
    path = write_volume(tmp_path / "smooth.nii.gz", smooth)
    (one,) = draw_maps(predictor, spatial_gates(find_watched(predictor)), [path])
    assert one.values.shape == smooth.shape
    np.testing.assert_allclose(one.values[4:-4], expected(smooth)[4:-4], atol=0.03)


def test_maps_that_do_not_fit_together_are_computed_in_rounds(tmp_path, monkeypatch):
    predictor = make_predictor(make_plan(), dict.fromkeys(("encoder", "decoder"), "sse"))
    image, _ = make_case(tmp_path, 1)
    gates = spatial_gates(find_watched(predictor))
    together = [one.values for one in draw_maps(predictor, gates, [image])]
    monkeypatch.setattr("se_med.explain.maps.SHARE", 1e-9)
    apart = [one.values for one in draw_maps(predictor, gates, [image])]
    assert len(together) == 2
    for one, other in zip(together, apart, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("block", ["scse", "cbam", "pe"])
def test_the_spatial_part_is_one_number_per_voxel(block):
    predictor = make_predictor(make_plan(), {"encoder": block})
    gate = find_watched(predictor)[0]
    x = torch.randn(2, 4, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        part = spatial_part(gate, (x,))
        assert part.shape == (2, 1, 8, 8, 8)
        if block == "scse":
            torch.testing.assert_close(part, gate.module.spatial.weigh(x))
        if block == "cbam":
            torch.testing.assert_close(gate.module.channel.weigh(x) * part, gate.factor(x))


def test_gates_of_whole_channels_have_no_map():
    predictor = make_predictor(make_plan(), {"encoder": "cse", "decoder": "scse", "bottleneck": "static"})
    assert [gate.label for gate in spatial_gates(find_watched(predictor))] == ["decoder 0"]


def test_an_overlay_shows_the_image_and_every_map(tmp_path):
    predictor = make_predictor(make_plan(), dict.fromkeys(("encoder", "decoder"), "sse"))
    path, label = make_case(tmp_path, 1)
    native, maps, _ = write_maps(predictor, spatial_gates(find_watched(predictor)), [path], tmp_path, "a")
    figure = draw_overlays(native, maps, nib.load(label).get_fdata().astype(np.uint8), {"dark": 3, "bright": 7})
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()]
    assert titles[:3] == ["image", "encoder 0, sse", "decoder 0, sse"]
    (shown,) = [axes for axes in figure.axes if axes.get_title(loc="left") == "encoder 0, sse"]
    assert len(shown.images) == 2
