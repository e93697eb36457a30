from __future__ import annotations

import base64
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import data_sets
import numpy as np
import planted
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from planted import FAULTS, GROUP

from se_med.config.data import DataConfig
from se_med.data.case import Case
from se_med.data.checks.check import Check, check_dataset
from se_med.data.checks.examine import Channel, Examined
from se_med.data.checks.outliers import FEWEST, find_outliers, modified_scores
from se_med.data.checks.reading import read_case
from se_med.data.checks.report import write_check
from se_med.data.checks.thumbnails import draw_thumbnails
from se_med.data.fingerprint import take_fingerprint
from se_med.data.layouts import find_dataset
from se_med.errors import DataError, UsageError
from se_med.page import ON_GREY


def check(root: Path, **settings: object) -> Check:
    return check_dataset(DataConfig(root=root, **settings))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted.make_sound_data(tmp_path_factory.mktemp("sound") / "twin")


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory, sound: Path) -> Path:
    root = tmp_path_factory.mktemp("faulty") / "set"
    shutil.copytree(sound, root)
    planted.plant_all(root)
    return root


def with_split(folder: Path, *, late: bool) -> dict[str, object]:
    path = folder / "split.json"
    path.write_text(json.dumps(planted.split(late)))
    return {"group": GROUP, "split": path}


@pytest.fixture(scope="module")
def found(faulty: Path) -> Check:
    return check(faulty, **with_split(faulty.parent, late=True))


def name_in(finding) -> str:
    """Return the planted case that a finding is about."""
    text = f"{finding.case} {finding.message} {' '.join(finding.others)}"
    return next(name for name in FAULTS if re.search(rf"\b{name}\b", text))


@pytest.mark.parametrize("folds", ["made", "given"])
def test_the_clean_twin_gives_nothing(tmp_path, sound, folds):
    result = check(sound, **({"group": GROUP} if folds == "made" else with_split(tmp_path, late=False)))
    assert [finding.line for finding in result.findings] == []
    assert len(result.volumes) == planted.CASES


def test_every_planted_fault_is_found_exactly_once(found):
    assert len(FAULTS) >= 20
    reported = [(name_in(finding), finding.severity, finding.kind) for finding in found.findings]
    assert sorted(reported) == sorted((name, fault.severity, fault.kind) for name, fault in FAULTS.items())


def test_each_line_has_the_numbers(found):
    lines = {name_in(finding): finding.line for finding in found.findings}
    assert {name: line for name, line in lines.items() if FAULTS[name].says not in line} == {}
    assert [line for line in lines.values() if "\n" in line] == []


def test_errors_come_first_and_name_the_file(found):
    severities = [finding.severity for finding in found.findings]
    assert severities == sorted(severities)
    truncated = next(finding for finding in found.findings if finding.kind == "truncated")
    assert truncated.file is not None
    assert truncated.file.name == "p01.nii.gz"


def test_geometry_shows_both_matrices(found):
    moved = next(finding for finding in found.findings if finding.case == "p07")
    image, label = (np.array(moved.matrices[name]) for name in ("image", "label"))
    assert (label - image)[:3, 3] == pytest.approx([5, 5, 5], abs=1e-4)
    forms = next(finding for finding in found.findings if finding.case == "p09")
    assert set(forms.matrices) == {"sform", "qform"}


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.kind not in ("leak", "folds")])
def test_training_stops_at_errors_and_only_at_errors(tmp_path, sound, name):
    for number in (name[:3], "p40", "p41", "p42", "p43"):
        for folder in ("images", "labels"):
            (tmp_path / folder).mkdir(exist_ok=True)
            shutil.copy(sound / folder / f"{number}.nii.gz", tmp_path / folder)
    shutil.copy(sound / "dataset.json", tmp_path)
    FAULTS[name].plant(tmp_path, name)
    if FAULTS[name].severity == "warning":
        assert take_fingerprint(find_dataset(DataConfig(root=tmp_path))).channels == 1
        return
    with pytest.raises(DataError) as error:
        take_fingerprint(find_dataset(DataConfig(root=tmp_path)))
    assert FAULTS[name].says in error.value.message
    assert len(error.value.message.splitlines()) == 1


def test_a_leak_depends_on_the_folds(tmp_path, sound):
    root = tmp_path / "set"
    shutil.copytree(sound, root)
    planted.copy_image("p40")(root, "p25")
    names = [f"p{number:02d}" for number in range(planted.CASES)]
    rest = [name for name in names if name not in ("p25", "p40")]
    for kind, fold in {
        "duplicate": {"train": rest[5:], "validation": [*rest[:5], "p25", "p40"]},
        "leak": {"train": [*rest[5:], "p25"], "validation": [*rest[:5], "p40"]},
    }.items():
        split = tmp_path / f"{kind}.json"
        split.write_text(json.dumps([fold]))
        (finding,) = check(root, split=split).findings
        assert (finding.kind, finding.case, finding.others) == (kind, "p25", ("p40",))
    assert "fold 0: the same pixels as 'p40', and 'p25' is trained on, 'p40' is held out" in finding.message


def test_a_leak_into_the_selection(tmp_path, sound):
    root = tmp_path / "set"
    shutil.copytree(sound, root)
    planted.copy_image("p40")(root, "p25")
    split = tmp_path / "split.json"
    split.write_text(json.dumps([{"train": ["p00"], "selection": ["p25"], "validation": ["p40"]}]))
    (finding,) = check(root, split=split).findings
    assert "'p25' is for selection, 'p40' is held out" in finding.message


def test_folds_that_cannot_be_made(tmp_path):
    root = planted.make_sound_data(tmp_path, 3)
    (finding,) = check(root).findings
    assert (finding.kind, finding.severity) == ("folds", "error")
    assert "5 folds need at least 5 cases" in finding.message
    assert check_dataset(DataConfig(root=root), folds=False).findings == ()


def test_a_split_that_names_unknown_cases(tmp_path):
    root = planted.make_sound_data(tmp_path / "set", 4)
    split = tmp_path / "split.json"
    split.write_text(json.dumps([{"train": ["p00", "x1"], "validation": ["p01", "x2"]}]))
    assert [finding.kind for finding in check(root, split=split).findings] == ["folds", "folds"]


def test_every_label_empty_and_structures_that_never_occur(tmp_path):
    root = planted.make_sound_data(tmp_path / "set", 5)
    labels = {"ball": 1, "box": 2, "ring": 3}
    (finding,) = check(root, labels=labels).findings
    assert (finding.severity, finding.kind) == ("warning", "missing")
    assert "structure 'ring': no case has a voxel of it" in finding.message
    for number in range(5):
        planted.change("labels", np.zeros_like)(root, f"p{number:02d}")
    kinds = [(finding.severity, finding.kind) for finding in check(root).findings]
    assert kinds == [("error", "empty"), *[("warning", "empty")] * 5]


def test_a_channel_without_content(tmp_path):
    root = data_sets.make_folders(tmp_path, ("a", "b", "c", "d", "e"))
    for seed, name in enumerate("abcde"):
        pixels = np.stack([data_sets.image(seed=seed), data_sets.image(seed=seed + 10)], axis=-1)
        if name == "c":
            pixels[..., 1] = 0
        data_sets.save(root / f"images/{name}.nii.gz", pixels)
        data_sets.save(root / f"labels/{name}.nii.gz", np.roll(data_sets.label(), seed, axis=0))
    data_sets.describe(root, channel_names={"0": "T1", "1": "T2"})
    (finding,) = check(root).findings
    assert (finding.severity, finding.kind, finding.case) == ("warning", "constant", "c")
    assert "channel 1 (T2) is 0 in every voxel" in finding.message


def test_all_bad_channel_files_are_told(tmp_path):
    for number in range(6):
        data_sets.save(tmp_path / f"labels/c{number}.nii.gz", np.roll(data_sets.label(), number, axis=0))
        for channel in range(3):
            data_sets.save(tmp_path / f"images/c{number}_000{channel}.nii.gz", data_sets.image(seed=10 * number + channel))
    for channel in (0, 2):
        planted_file = tmp_path / f"images/c3_000{channel}.nii.gz"
        planted_file.write_bytes(planted_file.read_bytes()[:-50])
    findings = check(tmp_path).findings
    assert sorted(finding.file.name for finding in findings) == ["c3_0000.nii.gz", "c3_0002.nii.gz"]
    assert {finding.kind for finding in findings} == {"truncated"}


def test_channels_on_other_grids_are_told_once_with_both_matrices(tmp_path, caplog):
    for number in range(5):
        data_sets.save(tmp_path / f"labels/c{number}.nii.gz", np.roll(data_sets.label(), number, axis=0))
        for channel in range(2):
            data_sets.save(tmp_path / f"images/c{number}_000{channel}.nii.gz", data_sets.image(seed=10 * number + channel))
    moved, far = np.eye(4), np.eye(4)
    moved[:3, 3], far[:3, 3] = 0.5, 500
    data_sets.save(tmp_path / "images/c1_0001.nii.gz", data_sets.image(seed=50), moved)
    data_sets.save(tmp_path / "images/c2_0001.nii.gz", data_sets.image(seed=51), far)
    apart, resampled = check(tmp_path).findings
    assert (apart.severity, apart.kind, apart.case) == ("error", "geometry", "c2")
    assert (resampled.severity, resampled.kind, resampled.case) == ("warning", "channel grids", "c1")
    assert resampled.matrices["c1_0001.nii.gz"][0] == (1.0, 0.0, 0.0, 0.5)
    assert caplog.records == []


def test_numbers_of_structures(tmp_path):
    for number in range(5):
        affine = np.diag([2.0, 2.0, 5.0, 1.0])
        label = np.zeros((6, 7, 8), np.uint8)
        label[: number + 1, 0, 0] = 1
        planted.save(tmp_path / f"images/c{number}.nii.gz", data_sets.image(seed=number), affine)
        planted.save(tmp_path / f"labels/c{number}.nii.gz", label, affine)
    (row,) = check(tmp_path).to_dict()["structures"]
    assert (row["name"], row["values"], row["cases"], row["of_cases"]) == ("label_1", [1], 5, 5)
    assert row["share_of_voxels"] == pytest.approx(15 / (5 * 336))
    assert row["volume_ml"] == pytest.approx({"min": 0.02, "median": 0.06, "max": 0.1})


def test_a_folder_that_is_no_data_set_and_one_that_is_missing(tmp_path):
    (finding,) = check(tmp_path).findings
    assert (finding.kind, finding.severity) == ("folder", "error")
    assert "no data set found" in finding.message
    with pytest.raises(UsageError, match="does not exist"):
        check(tmp_path / "nowhere")


def test_one_worker_and_many_agree(tmp_path, faulty, found):
    again = check_dataset(DataConfig(root=faulty, **with_split(tmp_path, late=True)), workers=1)
    assert again.to_dict() == found.to_dict()


def test_the_page_holds_itself_and_escapes_names(tmp_path, sound):
    root = tmp_path / "a<b>&set"
    shutil.copytree(sound, root)
    name = "<img src=x onerror=alert(1)>"
    planted.write_case(root, name, 77)
    planted.move_label(root, name)
    result = check(root)
    write_check(result, tmp_path / "out")
    page = (tmp_path / "out/check.html").read_text(encoding="utf-8")
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    assert re.findall(r"https?://|@import|url\(", page) == []
    assert page.count('<img src="data:image/png;base64,') == 2  # the image, and the label on its other grid
    assert json.loads((tmp_path / "out/check.json").read_text())["errors"] == 1
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == ["check.html", "check.json"]


def test_the_page_of_many_faults(tmp_path, found):
    write_check(found, tmp_path)
    page = (tmp_path / "check.html").read_text(encoding="utf-8")
    for finding in found.findings:
        assert finding.case in page
    document = json.loads((tmp_path / "check.json").read_text())
    assert (document["errors"], document["warnings"]) == (found.errors, found.warnings)
    assert len(document["findings"]) == len(FAULTS)
    assert document["findings"][0]["severity"] == "error"


def examined(sizes: np.ndarray, scale: np.ndarray, spacing: np.ndarray) -> tuple[list[Examined], dict[str, dict[str, float]]]:
    """Return cases with these structure volumes (ml), ranges of intensities and slice spacings (mm)."""
    cases, volumes = [], {}
    named = data_sets.cases(*[f"c{number}" for number in range(len(sizes))])
    for case, size, gain, slices in zip(named, sizes, scale, spacing, strict=True):
        facts = data_sets.fingerprint(shape=(50, 50, 20), spacing=(1.0, 1.0, float(slices)), count=1).cases[0]
        cases.append(Examined(case, (), facts, (Channel(0.0, 0.5 * gain, gain, 0.1),), (1, False)))
        volumes[case.name] = {"organ": float(size)}
    return cases, volumes


def test_varied_data_sets_raise_few_alarms():
    """Sizes over two orders of magnitude, gains over three, slices of 1 to 8 mm: what a collection of many sites is like."""
    alarms = []
    for seed in range(150):
        draw = np.random.default_rng(seed)
        count = int(draw.choice([10, 15, 30, 100]))
        size, gain = (
            np.exp(draw.uniform(0.1, 1.5) * draw.normal(size=count)),
            np.exp(draw.uniform(0.1, 2) * draw.normal(size=count)),
        )
        spacing = draw.choice([1.0, 1.5, 3.0, 5.0, 8.0], size=count)
        alarms += find_outliers(*examined(size, gain, spacing), "mr", "ml")
    assert len(alarms) <= 2


@pytest.mark.parametrize("count", [FEWEST, 40])
@pytest.mark.parametrize("quantity", [0, 1, 2])
def test_one_case_apart_is_found_among_few_and_many(count, quantity):
    draw = np.random.default_rng(count)
    quantities = [np.exp(0.15 * draw.normal(size=count)), np.exp(0.15 * draw.normal(size=count)), np.full(count, 2.0)]
    quantities[quantity][3] *= (20, 200, 3)[quantity]
    (finding,) = find_outliers(*examined(*quantities), "mr", "ml")
    assert finding.case == "c3"
    assert find_outliers(*examined(*(values[: FEWEST - 1] for values in quantities)), "mr", "ml") == []


def test_hounsfield_units_without_their_intercept():
    cases, volumes = examined(*np.ones((3, 12)))
    body = [Channel(-1000.0 + number, -80.0, 1100.0 + number, 0.1) for number in range(12)]
    body[5] = Channel(24.0, 944.0, 2124.0, 0.1)
    body[8] = Channel(-150.0, 20.0, 250.0, 0.1)
    cases = [replace(case, channels=(channel,)) for case, channel in zip(cases, body, strict=True)]
    messages = {finding.case: finding.message for finding in find_outliers(cases, volumes, "ct", "ml")}
    assert set(messages) == {"c5", "c8"}
    assert "whether the rescale intercept was applied" in messages["c5"]
    assert "intensities span 400 (-150 to 250)" in messages["c8"]
    assert find_outliers(cases, volumes, "mr", "ml") == []


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 100), st.floats(-1000, 1000))
def test_modified_scores_do_not_depend_on_unit_or_origin(seed, factor, offset):
    values = np.random.default_rng(seed).normal(size=25)
    assert modified_scores(factor * values + offset, 0.0) == pytest.approx(modified_scores(values, 0.0), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("folder", ["hippocampus", "acdc", "chase_db1", "sts_ct"])
def test_real_data_raise_no_alarm(folder):
    result = check(data_sets.real_data(folder))
    assert [finding.line for finding in result.findings] == []
    assert len(result.volumes) == len(result.examined) > 10


def colours_in(thumbnail) -> set[tuple[int, ...]]:
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(thumbnail.uri.removeprefix("data:image/png;base64,")))))
    return {tuple(colour) for colour in pixels.reshape(-1, 3).tolist() if len(set(colour)) > 1 or colour[0] == 255}


def test_thumbnails_show_structures_in_their_colours_and_undeclared_values_white(tmp_path):
    image = np.tile(np.linspace(0, 50, 8, dtype=np.float32), (6, 7, 1))
    label = np.zeros((6, 7, 8), np.uint8)
    label[1:3, 1:4, 2:7] = 1
    label[4:6, 4:6, 2:4] = 2
    label[1, 5, 0] = 9
    data_sets.save(tmp_path / "image.nii", image)
    data_sets.save(tmp_path / "label.nii", label)
    case = Case("a", (tmp_path / "image.nii",), tmp_path / "label.nii")
    first, second = (tuple(int(colour[start : start + 2], 16) for start in (1, 3, 5)) for colour in ON_GREY[:2])
    (sound,) = draw_thumbnails(read_case(case), {"a": 1, "b": 2, "c": 9})
    assert (colours_in(sound), sound.caption) == ({first, second}, "axial slice 3 of 8")
    (odd,) = draw_thumbnails(read_case(case), {"a": 1, "b": 2})
    assert (colours_in(odd), odd.caption) == ({(255, 255, 255)}, "axial slice 1 of 8")
    data_sets.save(tmp_path / "label.nii", label[:5])
    assert [one.caption for one in draw_thumbnails(read_case(case), {"a": 1, "b": 2, "c": 9})] == [
        "image, axial slice 5 of 8",
        "label, axial slice 3 of 8",
    ]
