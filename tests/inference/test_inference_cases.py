from __future__ import annotations

import gzip
import hashlib
import json
import os

import nibabel
import numpy as np
import pytest
from tiny_model import make_plan, make_predictor, write_image

import se_med
from se_med.errors import UsageError
from se_med.inference.batch import predict_cases
from se_med.inference.cases import find_cases


@pytest.fixture
def images(noise, tmp_path):
    """A folder of three volumes."""
    folder = tmp_path / "images"
    folder.mkdir()
    for index, name in enumerate(("a.nii.gz", "b.nii", "c.nii.gz")):
        write_image(folder / name, np.roll(noise, index, axis=0), np.diag([-1.0, 1.0, 1.0, 1.0]))
    return folder


def run(predictor, inputs, output, **options):
    cases = find_cases(inputs, output, len(predictor.plan.channels))
    return sorted(predict_cases(predictor, cases, **options), key=lambda result: result.name)


def test_each_volume_gives_a_label_file_of_its_name_and_a_sidecar(images, predictor, tmp_path):
    output = tmp_path / "deep" / "out"
    results = run(predictor, [images], output)
    assert [(result.name, result.status) for result in results] == [("a", "done"), ("b", "done"), ("c", "done")]
    assert sorted(path.name for path in output.iterdir()) == ["a.json", "a.nii.gz", "b.json", "b.nii", "c.json", "c.nii.gz"]
    for result, name in zip(results, ("a.nii.gz", "b.nii", "c.nii.gz"), strict=True):
        stored = nibabel.load(output / name)
        assert np.array_equal(stored.dataobj, predictor.predict(images / name).labels)
        assert np.array_equal(stored.affine, nibabel.load(images / name).affine)
        assert result.output == output / name
        sidecar = json.loads((output / f"{result.name}.json").read_text())
        assert sidecar["model"] == "digest"
        assert sidecar["run"] == "tiny"
        assert sidecar["se_med"] == se_med.__version__
        assert sidecar["input"] == [name]
        assert sidecar["input_sha256"] == hashlib.sha256((images / name).read_bytes()).hexdigest()
        assert sidecar["shape"] == [18, 21, 13]
        assert sidecar["spacing_mm"] == [1.0, 1.0, 1.0]
        assert sidecar["labels"] == {"front": 3, "back": 7}
        assert sidecar["volumes_ml"]["front"] == pytest.approx((np.asarray(stored.dataobj) == 3).sum() / 1000)
        assert sidecar["files"] == {name: hashlib.sha256((output / name).read_bytes()).hexdigest()}
        assert sidecar["seconds"] > 0


def test_a_bad_file_is_reported_and_the_others_are_as_without_it(images, predictor, noise, tmp_path):
    run(predictor, [images], tmp_path / "clean")
    content = (images / "a.nii.gz").read_bytes()
    (images / "ab.nii.gz").write_bytes(content[: len(content) // 2])
    write_image(images / "ac.nii.gz", np.stack([noise, noise], -1))
    (images / "ad.nii").write_bytes(b"")
    broken = noise.copy()
    broken[0, 0, 0] = np.nan
    write_image(images / "ae.nii.gz", broken)
    results = run(predictor, [images], tmp_path / "out")
    failed = {result.name: result.message for result in results if result.status == "failed"}
    assert set(failed) == {"ab", "ac", "ad", "ae"}
    assert all(message.count("\n") == 0 and f"{name}.nii" in message for name, message in failed.items())
    assert [result.name for result in results if result.status == "done"] == ["a", "b", "c"]
    labels = sorted(path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".json")
    assert labels == ["a.nii.gz", "b.nii", "c.nii.gz"]
    for name in labels:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "clean" / name).read_bytes()
    assert len(list((tmp_path / "out").glob("*.json"))) == 3


def test_existing_results_are_skipped_and_overwritten_on_request(images, predictor, tmp_path):
    output = tmp_path / "out"
    run(predictor, [images / "a.nii.gz"], output)
    before = (output / "a.nii.gz").stat()
    results = run(predictor, [images], output)
    assert [result.status for result in results] == ["skipped", "done", "done"]
    assert results[0].message == ""
    assert (output / "a.nii.gz").stat().st_mtime_ns == before.st_mtime_ns
    results = run(predictor, [images], output, overwrite=True)
    assert [result.status for result in results] == ["done"] * 3
    assert (output / "a.nii.gz").stat().st_ino != before.st_ino


def test_a_label_file_that_was_there_before_is_never_replaced_unasked(images, predictor, tmp_path):
    output = tmp_path / "labels"
    output.mkdir()
    (output / "a.nii.gz").write_bytes(b"precious")
    results = run(predictor, [images], output)
    assert [result.status for result in results] == ["skipped", "done", "done"]
    assert "no sidecar" in results[0].message
    assert (output / "a.nii.gz").read_bytes() == b"precious"


def test_old_temporaries_of_killed_processes_are_swept_and_no_new_ones_left(images, predictor, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    stale = output / ".a.nii.gz.999999.0123456789abcdef.tmp"
    stale.write_bytes(b"half")
    os.utime(stale, (0, 0))
    run(predictor, [images], output)
    assert not [path for path in output.iterdir() if path.name.startswith(".")]


def test_a_case_that_cannot_be_written_is_reported(images, predictor, tmp_path):
    output = tmp_path / "out"
    (output / "b.json").mkdir(parents=True)
    results = run(predictor, [images], output)
    assert [result.status for result in results] == ["done", "failed", "done"]
    assert "b.json" in results[1].message
    assert "b.nii" in results[1].message


def test_channel_files_are_one_case(noise, tmp_path):
    predictor = make_predictor(make_plan(channels=2))
    images = tmp_path / "images"
    images.mkdir()
    for case in ("x", "y"):
        for channel in range(2):
            write_image(images / f"{case}_{channel:04}.nii.gz", noise + channel)
    write_image(images / "joined.nii.gz", np.stack([noise, noise + 1], -1))
    (images / "y_0001.nii.gz").unlink()
    results = run(predictor, [images], tmp_path / "out")
    assert [(result.name, result.status) for result in results] == [("joined", "done"), ("x", "done"), ("y", "failed")]
    assert "channel files [0], the model has 2" in results[2].message
    first, second = (nibabel.load(tmp_path / "out" / name) for name in ("joined.nii.gz", "x.nii.gz"))
    assert np.array_equal(first.dataobj, second.dataobj)
    sidecar = json.loads((tmp_path / "out" / "x.json").read_text())
    assert sidecar["input"] == ["x_0000.nii.gz", "x_0001.nii.gz"]


def test_numbers_are_dropped_from_the_names_of_one_channel_only_where_all_files_have_0000(noise, tmp_path):
    for name in ("p_0000.nii.gz", "q_0000.nii.gz", "p_0001.nii.gz"):
        write_image(tmp_path / name, noise)
    two = [tmp_path / "p_0000.nii.gz", tmp_path / "q_0000.nii.gz"]
    assert [case.name for case in find_cases(two, tmp_path / "out", 1)] == ["p", "q"]
    assert [case.name for case in find_cases([tmp_path], tmp_path / "out", 1)] == ["p_0000", "p_0001", "q_0000"]


def test_a_file_named_twice_is_one_case(images, tmp_path):
    inputs = [images, images / "a.nii.gz", images / ".." / "images" / "a.nii.gz"]
    assert [case.name for case in find_cases(inputs, tmp_path / "out", 1)] == ["a", "b", "c"]


def test_hidden_files_and_other_files_of_a_folder_are_left_out(images, tmp_path):
    for name in ("._a.nii.gz", "notes.txt", "dataset.json"):
        (images / name).write_text("x")
    assert [case.name for case in find_cases([images], tmp_path / "out", 1)] == ["a", "b", "c"]


def refusals(images, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.nii").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    (images / "text.txt").write_text("x")
    out = tmp_path / "out"
    linked = tmp_path / "linked"
    linked.symlink_to(images)
    return {
        "nowhere: does not exist": ([tmp_path / "nowhere"], out),
        "text.txt: not an image": ([images / "text.txt"], out),
        "empty: no images": ([tmp_path / "empty"], out),
        "no input given": ([], out),
        "are all case 'a' and would have one result": ([images, other], out),
        "is the input folder too": ([images], images),
        "linked: is the input folder too": ([images], linked),
        "the result would replace this input": ([images / "b.nii"], images),
        "is a file; name a folder": ([images / "b.nii"], images / "a.nii.gz"),
    }


def test_inputs_and_outputs_that_cannot_be_are_refused_before_anything_is_written(images, tmp_path):
    cases = refusals(images, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for message, (inputs, output) in cases.items():
        with pytest.raises(UsageError, match=message):
            find_cases(inputs, output, 1)
    assert sorted(tmp_path.rglob("*")) == before


def test_two_files_of_one_channel_are_refused(noise, tmp_path):
    write_image(tmp_path / "a_0000.nii.gz", noise)
    write_image(tmp_path / "a_0000.nii", noise)
    with pytest.raises(UsageError, match="are all case 'a'"):
        find_cases([tmp_path], tmp_path / "out", 2)
    (tmp_path / "a_0000.nii").rename(tmp_path / "a.nii")
    with pytest.raises(UsageError, match="are all case 'a'"):
        find_cases([tmp_path], tmp_path / "out", 2)


def test_the_output_is_the_same_bytes_whatever_the_compression_of_the_input(images, predictor, tmp_path):
    with gzip.open(images / "d.nii.gz", "wb") as file:
        file.write((images / "b.nii").read_bytes())
    run(predictor, [images / "b.nii", images / "d.nii.gz"], tmp_path / "out")
    assert gzip.decompress((tmp_path / "out" / "d.nii.gz").read_bytes()) == (tmp_path / "out" / "b.nii").read_bytes()
