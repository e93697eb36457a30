"""What the campaign of interruptions calls broken."""

import json

import numpy as np
import pytest
from PIL import Image

from benchmarks._whole import broken_files, temporaries


def write_good(folder):
    folder.mkdir()
    (folder / "summary.json").write_text('{"dice": 0.5}')
    (folder / "metrics.csv").write_text("step,loss\n1,0.5\n2,0.25\n")
    (folder / "page.html").write_text("<html><body></body></html>\n")
    (folder / "config.yaml").write_text("name: run\nfeatures: [8, 16, 32]\n")
    (folder / "log.txt").write_text("cut in the midd")
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(folder / "curves.png")
    (folder / ".x.json.12.0123456789abcdef.tmp").write_text("{")


def test_whole_files_temporaries_and_logs_are_not_broken(tmp_path):
    write_good(tmp_path / "run")
    assert broken_files(tmp_path) == []
    assert temporaries(tmp_path) == ["run/.x.json.12.0123456789abcdef.tmp"]


@pytest.mark.parametrize("name", ["summary.json", "metrics.csv", "page.html", "config.yaml", "curves.png"])
def test_a_file_that_is_cut_is_broken(tmp_path, name):
    write_good(tmp_path / "run")
    path = tmp_path / "run" / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3].rstrip())
    (line,) = broken_files(tmp_path)
    assert line.startswith(f"run/{name}: ")


def test_a_file_that_nobody_knows_and_half_an_entry_of_the_cache_are_broken(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"")
    np.save(tmp_path / "image.npy", np.zeros(3))
    assert [line.split(":")[0] for line in broken_files(tmp_path)] == ["image.npy", "x.bin"]
    (tmp_path / "x.bin").unlink()
    (tmp_path / "case.json").write_text(json.dumps({"sizes": {"image.npy": (tmp_path / "image.npy").stat().st_size}}))
    assert broken_files(tmp_path) == []
