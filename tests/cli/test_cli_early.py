"""What is told before torch is imported, and Ctrl-C while it is."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from se_med.training.run_folder import RunFolder

WITHOUT_TORCH = (
    "import sys\n"
    "class Refuse:\n"
    "    def find_spec(self, name, path=None, target=None):\n"
    "        if name.split('.')[0] in ('torch', 'monai', 'lightning'):\n"
    "            raise SystemExit(f'{name} was imported')\n"
    "sys.meta_path.insert(0, Refuse())\n"
    "from se_med.__main__ import main\n"
    "sys.exit(main())\n"
)
"""Runs a command that must not import the heavy libraries."""


def early(*arguments):
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=300
    )


@pytest.fixture
def finished(tmp_path):
    """The run folder of the small configuration, as if it were finished."""
    run = RunFolder(tmp_path / "runs" / "small")
    run.path.mkdir(parents=True)
    run.config.write_text("name: small\n")
    run.provenance.write_text("{}")
    return run.path


def test_train_tells_a_wrong_root_before_a_finished_run(small_config, finished, tmp_path):
    done = early("train", small_config, "--runs", finished.parent)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "this run is finished" in done.stderr
    done = early("train", small_config, f"data.root={tmp_path / 'nowhere'}", "--runs", finished.parent)
    assert (done.returncode, done.stderr) == (2, f"data.root: {tmp_path / 'nowhere'} does not exist\n")
    done = early("train", small_config, "training.stepz=3")
    assert done.returncode == 2
    assert "did you mean 'steps'?" in done.stderr


@pytest.mark.parametrize("command", ["plan", "check"])
def test_a_wrong_root_is_told_early(small_config, tmp_path, command):
    done = early(command, small_config, f"data.root={tmp_path / 'nowhere'}")
    assert (done.returncode, "does not exist" in done.stderr) == (2, True), done.stderr


def test_predict_tells_a_folder_that_is_no_run(finished, small_data, tmp_path):
    done = early("predict", small_data / "imagesTr", "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "is no run folder, it has no model.safetensors; the run comes first" in done.stderr
    done = early("predict", finished, small_data / "imagesTr", "-o", tmp_path / "out")
    assert (done.returncode, "finish its training" in done.stderr) == (2, True)
    assert not (tmp_path / "out").exists()


def test_the_cache_is_listed_without_torch_and_rows_are_explained(tmp_path):
    entry = tmp_path / ("0" * 32)
    entry.mkdir()
    (entry / "case.json").write_text('{"version": 1}')
    done = early("cache", "list", "--folder", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "(unusable): damaged, or of another version of se-med" in done.stdout
    assert early("cache", "clear", "(unusable)", "--folder", tmp_path).returncode == 0
    assert not entry.exists()


INTERRUPTED = (
    "import sys, time\n"
    "from se_med.cli.loading import loading\n"
    "with loading():\n"
    "    print('loading', flush=True)\n"
    "    try:\n"
    "        time.sleep(60)\n"
    "    except BaseException:\n"  # as some libraries do while they are imported
    "        pass\n"
    "    time.sleep(60)\n"
)


def test_ctrl_c_while_libraries_are_imported_leaves_at_once():
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        assert process.stdout.readline() == "loading\n"
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=50) == 130
        assert process.stderr.read() == "interrupted\n"
        assert time.monotonic() - begin < 50


def test_loading_gives_ctrl_c_back():
    from se_med.cli.loading import loading

    before = signal.getsignal(signal.SIGINT)
    with loading():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
