from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import executor_tasks as tasks
import pytest

from se_med.errors import UsageError
from se_med.executor import make_executor

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Worker processes find the tasks as this one does."""
    monkeypatch.syspath_prepend(HERE)


@pytest.fixture(params=["local", pytest.param("dask", marks=pytest.mark.slow)])
def engine(request):
    if request.param == "dask":
        pytest.importorskip("distributed", reason="needs the extra `dask`: pip install 'se-med[dask]'")
    return request.param


def gone(process: int, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            # A process whose parent was killed is a zombie until somebody collects it.
            state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
            if state == "Z" and len(list(Path(f"/proc/{process}/task").iterdir())) < 2:  # its other threads have ended too
                return True
            os.kill(process, 0)
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.05)
    return False


def wait_for(path: Path) -> int:
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    return int(path.read_text())


def test_every_task_has_one_outcome(engine):
    with make_executor(engine, 2, 1) as executor:
        outcomes = list(executor.run(tasks.double, {str(number): number for number in range(7)}))
        again = list(executor.run(tasks.double, {"a": 5}))
    assert {outcome.key: outcome.value for outcome in outcomes} == {str(number): 2 * number for number in range(7)}
    assert all((outcome.error, outcome.attempts, outcome.killed) == ("", 1, False) for outcome in outcomes)
    assert [outcome.value for outcome in again] == [10]


def test_workers_are_processes_that_stay(engine):
    with make_executor(engine, 2, 1) as executor:
        found = {outcome.value for outcome in executor.run(tasks.process_id, dict.fromkeys("abcdefgh", 0.2))}
        assert len(found) == 2
        assert os.getpid() not in found
        later = {outcome.value for outcome in executor.run(tasks.process_id, {"x": 0.0})}
        assert later <= found
    assert all(gone(process) for process in found)


def test_a_killed_worker_loses_only_its_task_which_is_tried_again(engine, tmp_path):
    with make_executor(engine, 2, 1) as executor:
        work = {str(number): (tmp_path, number) for number in range(4)}
        outcomes = {outcome.key: outcome for outcome in executor.run(tasks.die_in_first_attempt, work)}
    assert {key: outcome.value for key, outcome in outcomes.items()} == {str(number): number for number in range(4)}
    assert all(outcome.attempts == 2 and not outcome.error for outcome in outcomes.values())


def test_a_task_that_always_kills_its_worker_is_set_aside_and_the_others_are_done(engine):
    with make_executor(engine, 2, 1) as executor:
        outcomes = {outcome.key: outcome for outcome in executor.run(tasks.die_if_negative, {"bad": -1, "a": 1, "b": 2, "c": 3})}
    assert {key: outcome.value for key, outcome in outcomes.items()} == {"bad": None, "a": 1, "b": 2, "c": 3}
    bad = outcomes.pop("bad")
    assert bad.killed
    assert bad.attempts == 2
    assert "set aside" in bad.error
    assert "2 times" in bad.error
    assert all((outcome.attempts, outcome.error, outcome.killed) == (1, "", False) for outcome in outcomes.values())


def test_the_signal_or_exit_code_is_named():
    with make_executor("local", 1, 1, attempts=1) as executor:
        (outcome,) = executor.run(tasks.die_if_negative, {"bad": -1})
        assert "once by SIGKILL, which the system sends when memory runs out" in outcome.error
        (outcome,) = executor.run(tasks.leave, {"bad": 7})
        assert "with exit code 7" in outcome.error
        assert outcome.killed


def test_an_idle_worker_that_dies_costs_no_task():
    with make_executor("local", 1, 1) as executor:
        (first,) = executor.run(tasks.process_id, {"a": 0.0})
        os.kill(first.value, signal.SIGKILL)
        assert gone(first.value)
        (second,) = executor.run(tasks.process_id, {"a": 0.0})
    assert second.attempts == 1
    assert second.value != first.value


def test_errors_become_outcomes_at_once(engine, caplog):
    kinds = ("image", "config", "fault", "memory", "fine")
    with make_executor(engine, 1, 1) as executor:
        outcomes = {outcome.key: outcome for outcome in executor.run(tasks.fail, {kind: kind for kind in kinds[:4]})}
    assert all(outcome.attempts == 1 and not outcome.killed for outcome in outcomes.values())
    assert outcomes["image"].error == "a.nii.gz: truncated; copy it again"
    assert outcomes["config"].error == "a.yaml:1:1: first a.yaml:2:1: second"
    assert outcomes["fault"].error == "ZeroDivisionError: a fault of two lines"
    assert outcomes["memory"].error.startswith("MemoryError")
    told = "".join(record.getMessage() for record in caplog.records)
    assert "executor_tasks.py" in told  # the traceback of a fault reaches the log of the parent
    assert "a.nii.gz" not in told


def test_what_cannot_be_pickled_is_an_error_of_the_task():
    with make_executor("local", 1, 1) as executor:
        bad, good = executor.run(tasks.fail, {"bad": "lambda"}), executor.run(tasks.double, {"good": 1})
        assert "pickle" in next(bad).error
        assert next(good).value == 2


def test_threads_are_limited(engine, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with make_executor(engine, 1, 1) as executor:
        (outcome,) = executor.run(tasks.threads, {"a": "OMP_NUM_THREADS"})
    assert outcome.value == "1 1"


def test_a_task_may_have_processes_of_its_own(engine):
    with make_executor(engine, 1, 1) as executor:
        (outcome,) = executor.run(tasks.child, {"a": 21})
    assert outcome.value == 42


def test_leaving_early_ends_what_runs_and_the_executor_goes_on(tmp_path):
    with make_executor("local", 2, 1) as executor:
        outcomes = executor.run(tasks.note_and_wait_or_return, {"stays": tmp_path / "stays", "returns": tmp_path / "returns"})
        assert next(outcomes).key == "returns"
        process = wait_for(tmp_path / "stays")
        outcomes.close()
        assert gone(process)
        assert [outcome.value for outcome in executor.run(tasks.double, {"a": 4})] == [8]


def test_closing_lets_a_task_finish_what_it_saves(tmp_path):
    script = f"""
import sys; sys.path.insert(0, {str(HERE)!r})
import executor_tasks as tasks
from pathlib import Path
from se_med.executor import make_executor
if __name__ == "__main__":
    with make_executor("local", 1, 1) as executor:
        list(executor.run(tasks.save_when_terminated, {{"a": Path({str(tmp_path / "a")!r})}}))
"""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        (tmp_path / "main.py").write_text(script)
        parent = subprocess.Popen([sys.executable, tmp_path / "main.py"], stderr=subprocess.DEVNULL)
        worker = wait_for(tmp_path / "a")
        parent.send_signal(signum)
        parent.wait(60)
        assert gone(worker)
        assert (tmp_path / "a.saved").read_text() == "checkpoint"
        (tmp_path / "a.saved").unlink()
        (tmp_path / "a").unlink()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_its_parent(engine, signum, tmp_path):
    (tmp_path / "main.py").write_text(
        f"""
import sys; sys.path.insert(0, {str(HERE)!r})
import executor_tasks as tasks
from pathlib import Path
from se_med.executor import make_executor
if __name__ == "__main__":
    with make_executor({engine!r}, 2, 1) as executor:
        list(executor.run(tasks.note_and_wait, {{name: Path({str(tmp_path)!r}) / name for name in "ab"}}))
"""
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    parent = subprocess.Popen([sys.executable, tmp_path / "main.py"], env=environment, stderr=subprocess.DEVNULL)
    workers = [wait_for(tmp_path / name) for name in "ab"]
    parent.send_signal(signum)
    assert parent.wait(90) != 0
    assert all(gone(worker) for worker in workers)


def test_an_executor_that_nobody_closed_does_not_keep_python_from_ending(tmp_path):
    (tmp_path / "main.py").write_text(
        f"""
import sys; sys.path.insert(0, {str(HERE)!r})
import executor_tasks as tasks
from se_med.executor import make_executor
if __name__ == "__main__":
    executor = make_executor("local", 1, 1)
    (outcome,) = executor.run(tasks.process_id, {{"a": 0.0}})
    print(outcome.value)
"""
    )
    done = subprocess.run([sys.executable, tmp_path / "main.py"], capture_output=True, text=True, timeout=60, check=True)
    assert gone(int(done.stdout))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("local", 1, 1, "tcp://host:8786"), "only the engine dask"),
        (("local", 0, 1), "workers 0"),
        (("local", 1, 0), "threads 0"),
    ],
)
def test_wrong_options_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        make_executor(*arguments)


@pytest.mark.slow
def test_an_address_where_nobody_answers_is_refused(monkeypatch):
    pytest.importorskip("distributed", reason="needs the extra `dask`: pip install 'se-med[dask]'")
    monkeypatch.setattr("se_med.executor.dask._ANSWER_SECONDS", 1)
    with pytest.raises(UsageError, match=r"tcp://127\.0\.0\.1:9: no Dask scheduler answers"):
        make_executor("dask", 1, 1, "tcp://127.0.0.1:9")
