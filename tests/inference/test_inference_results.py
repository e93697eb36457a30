"""When a result is taken for the wanted one, and what is written of a batch."""

from __future__ import annotations

import csv
import json
import shutil
import threading

import numpy as np
import pytest
from tiny_model import make_config, make_network, make_plan, make_predictor, write_image

from se_med.errors import ImageError, RunError
from se_med.inference.batch import Job, predict_cases, predict_with
from se_med.inference.cases import find_cases
from se_med.inference.model import save_model
from se_med.inference.predictor import Predictor
from se_med.inference.results import CaseResult, result_key
from se_med.inference.table import write_table


@pytest.fixture
def images(noise, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for index, name in enumerate("abcde"):
        write_image(folder / f"{name}.nii.gz", np.roll(noise, index, axis=0))
    return folder


def statuses(predictor, images, output, **options):
    cases = find_cases([images], output, 1)
    results = sorted(predict_cases(predictor, cases, **options), key=lambda result: result.name)
    return "".join(result.status[0] for result in results)


def test_a_result_is_made_again_when_its_input_has_changed(images, predictor, noise, tmp_path):
    assert statuses(predictor, images, tmp_path / "out") == "ddddd"
    write_image(images / "b.nii.gz", noise + 1)
    content = (images / "c.nii.gz").read_bytes()
    (images / "c.nii.gz").unlink()
    (images / "c.nii.gz").write_bytes(content)  # another file of the same content
    assert statuses(predictor, images, tmp_path / "out") == "sdsss"
    assert statuses(predictor, images, tmp_path / "out") == "sssss"


def test_a_result_is_made_again_when_the_model_has_changed(images, predictor, tmp_path):
    assert statuses(predictor, images, tmp_path / "out") == "ddddd"
    predictor.digest = "another"
    assert statuses(predictor, images, tmp_path / "out") == "ddddd"
    assert statuses(predictor, images, tmp_path / "out") == "sssss"


@pytest.mark.parametrize(
    ("changed", "status"), [({"overlap": 0.25}, "d"), ({"precision": "bf16"}, "d"), ({"window_batch": 1}, "s"), ({}, "s")]
)
def test_a_result_is_made_again_when_settings_that_shape_it_have_changed(images, tmp_path, changed, status):
    assert statuses(make_predictor(make_plan()), images, tmp_path / "out") == "ddddd"
    assert statuses(make_predictor(make_plan(), **changed), images, tmp_path / "out") == 5 * status


def test_flips_are_such_a_setting(images, tmp_path):
    config = make_config(make_plan())
    flip = config.augmentation.flip.model_copy(update={"axes": (0,), "probability": 0.5})
    config = config.model_copy(update={"augmentation": config.augmentation.model_copy(update={"flip": flip})})
    save_model(tmp_path, make_network(config, make_plan()).state_dict(), config, make_plan())
    plain, flipped = Predictor.load(tmp_path, "cpu"), Predictor.load(tmp_path, "cpu", True)
    assert plain.digest == flipped.digest
    (case, *_) = find_cases([images], tmp_path / "out", 1)
    assert result_key(plain, case) != result_key(flipped, case)
    assert statuses(plain, images, tmp_path / "out") == "ddddd"
    assert statuses(flipped, images, tmp_path / "out") == "ddddd"
    assert statuses(flipped, images, tmp_path / "out") == "sssss"


def test_a_damaged_or_mixed_result_is_made_again(images, predictor, tmp_path):
    output = tmp_path / "out"
    assert statuses(predictor, images, output) == "ddddd"
    whole = {path.name: path.read_bytes() for path in output.iterdir()}
    (output / "a.nii.gz").write_bytes(whole["a.nii.gz"][:-20])
    shutil.copy(output / "c.nii.gz", output / "b.nii.gz")  # the label file of one, the sidecar of another
    (output / "c.nii.gz").unlink()
    (output / "d.json").write_text(json.dumps(json.loads(whole["d.json"]) | {"key": None}))
    assert statuses(predictor, images, output) == "dddds"
    for name in "abcde":
        assert (output / f"{name}.nii.gz").read_bytes() == whole[f"{name}.nii.gz"]


def test_lanes_give_the_same_files_as_one_after_the_other(images, predictor, tmp_path):
    import torch

    torch.set_num_threads(2)
    assert statuses(predictor, images, tmp_path / "one", lanes=1) == "ddddd"
    assert statuses(predictor, images, tmp_path / "three", lanes=3) == "ddddd"
    assert torch.get_num_threads() == 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lane") and thread.is_alive()]
    for name in "abcde":
        assert (tmp_path / "one" / f"{name}.nii.gz").read_bytes() == (tmp_path / "three" / f"{name}.nii.gz").read_bytes()
    assert sorted(path.name for path in (tmp_path / "three").iterdir()) == sorted(
        f"{name}.{suffix}" for name in "abcde" for suffix in ("json", "nii.gz")
    )


def test_a_killed_process_leaves_no_result_that_is_taken_for_whole(images, predictor, tmp_path, monkeypatch):
    """A process that dies between any two renames: what it leaves is made again."""
    import se_med.inference.results as results

    class KilledError(BaseException):
        pass

    def die(*arguments):
        raise KilledError

    output = tmp_path / "out"
    for name in ("write_json", "flush_folder", "write_label"):
        statuses(predictor, images / "a.nii.gz", output, overwrite=True)
        predictor.digest += "x"
        with monkeypatch.context() as patch:
            patch.setattr(results, name, die)
            with pytest.raises(KilledError):
                statuses(predictor, images / "a.nii.gz", output)
        assert statuses(predictor, images / "a.nii.gz", output) == ("s" if name == "flush_folder" else "d")


def test_two_at_once_in_one_folder_leave_whole_results_of_one_of_them(images, tmp_path):
    """Two models that write the same files at the same time, again and again."""
    output = tmp_path / "out"
    predictors = [make_predictor(make_plan(), overlap=overlap) for overlap in (0.5, 0.25)]
    for predictor in predictors:
        predictor.network.eval()
    for _ in range(3):
        threads = [
            threading.Thread(target=statuses, args=(predictor, images, output), kwargs={"lanes": 1}) for predictor in predictors
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    statuses(predictors[0], images, output)
    assert statuses(predictors[0], images, output) == "sssss"
    statuses(predictors[0], images, tmp_path / "alone")
    for name in "abcde":
        assert (output / f"{name}.nii.gz").read_bytes() == (tmp_path / "alone" / f"{name}.nii.gz").read_bytes()


def rows(folder):
    return {row["case"]: row for row in csv.DictReader((folder / "predictions.csv").read_text().splitlines())}


def test_the_table_tells_of_every_case_of_the_folder(images, predictor, tmp_path):
    output = tmp_path / "out"
    first = list(predict_cases(predictor, find_cases([images / "a.nii.gz", images / "b.nii.gz"], output, 1)))
    write_table(output, [*first, CaseResult("z", "failed", output / "z.nii.gz", "z.nii.gz: truncated", 0.5)])
    found = rows(output)
    assert {name: row["status"] for name, row in found.items()} == {"a": "done", "b": "done", "z": "failed"}
    assert found["z"]["reason"] == "z.nii.gz: truncated"
    sidecar = json.loads((output / "a.json").read_text())
    assert float(found["a"]["front_ml"]) == sidecar["volumes_ml"]["front"]
    assert float(found["a"]["seconds"]) > 0
    second = list(predict_cases(predictor, find_cases([images], output, 1)))
    write_table(output, second)
    assert {name: row["status"] for name, row in rows(output).items()} == {
        "a": "skipped", "b": "skipped", "c": "done", "d": "done", "e": "done", "z": "failed",
    }  # fmt: skip
    assert float(rows(output)["a"]["front_ml"]) == sidecar["volumes_ml"]["front"]
    assert rows(output)["a"]["seconds"] != ""


def test_a_failure_is_forgotten_when_the_case_has_a_result(images, predictor, tmp_path):
    output = tmp_path / "out"
    (case,) = find_cases([images / "a.nii.gz"], output, 1)
    output.mkdir()
    write_table(output, [CaseResult("a", "set aside", case.output, "killed")])
    assert rows(output)["a"]["status"] == "set aside"
    list(predict_cases(predictor, [case]))
    write_table(output, [])
    assert (rows(output)["a"]["status"], rows(output)["a"]["reason"]) == ("done", "")


class Inline:
    """An executor that works in this process."""

    def run(self, function, tasks):
        from se_med.executor import Outcome

        for key, task in tasks.items():
            if key == "c":
                yield Outcome(key, None, "its worker process died 2 times, the last one by SIGKILL; set aside", 2, killed=True)
            elif key == "d":
                yield Outcome(key, None, "RuntimeError: a fault")
            else:
                yield Outcome(key, function(task))


def test_outcomes_of_an_executor_become_results(images, tmp_path):
    config = make_config(make_plan())
    save_model(tmp_path, make_network(config, make_plan()).state_dict(), config, make_plan())
    job = Job((tmp_path,), "cpu")
    predictor, cases = job.load(), find_cases([images], tmp_path / "out", 1)
    results = {result.name: result for result in predict_with(Inline(), job, predictor, cases)}
    assert {name: result.status for name, result in results.items()} == {
        "a": "done", "b": "done", "c": "set aside", "d": "failed", "e": "done",
    }  # fmt: skip
    assert "SIGKILL" in results["c"].message
    assert results["d"].message == "RuntimeError: a fault"
    again = {result.name: result.status for result in predict_with(Inline(), job, predictor, cases)}
    assert again == {"a": "skipped", "b": "skipped", "c": "set aside", "d": "failed", "e": "skipped"}
    reference = list(predict_cases(predictor, find_cases([images / "e.nii.gz"], tmp_path / "alone", 1)))
    assert reference[0].output.read_bytes() == (tmp_path / "out" / "e.nii.gz").read_bytes()


def test_keys_of_missing_inputs_are_errors(predictor, tmp_path):
    (case,) = find_cases([write_image(tmp_path / "a.nii.gz", np.zeros((4, 4, 4), np.float32))], tmp_path / "out", 1)
    case.files[0].unlink()
    with pytest.raises((ImageError, OSError)):
        result_key(predictor, case)
    assert statuses_of(predictor, case) == "failed"


def statuses_of(predictor, case):
    (result,) = predict_cases(predictor, [case])
    assert str(case.files[0]) in result.message
    return result.status


def test_a_full_disk_leaves_the_old_result_as_it_was(images, predictor, tmp_path, monkeypatch):
    assert statuses(predictor, images, tmp_path / "out") == "ddddd"
    before = {path.name: path.read_bytes() for path in sorted((tmp_path / "out").iterdir())}

    def no_room(path, data):
        raise RunError(f"{path}: cannot be written: No space left on device; check the folder")

    monkeypatch.setattr("se_med.inference.results.write_json", no_room)
    assert statuses(predictor, images, tmp_path / "out", overwrite=True) == "fffff"
    assert {path.name: path.read_bytes() for path in sorted((tmp_path / "out").iterdir())} == before
