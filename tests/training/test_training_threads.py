"""How many threads a run takes."""

import os
import subprocess
import sys

import pytest

from se_med.training import threads
from se_med.training.threads import busy_cores, choose_threads


def test_configured_number_wins_over_the_recorded_one():
    assert choose_threads(3, 2, 1) == 3
    assert choose_threads(None, 2, 1) == 2


@pytest.mark.parametrize(
    ("cores", "busy", "processes", "expected"), [(8, 0.2, 1, 8), (8, 3.1, 1, 5), (2, 1.9, 1, 1), (8, 0, 4, 2)]
)
def test_free_cores_are_taken_and_shared(monkeypatch, cores, busy, processes, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr(threads, "busy_cores", lambda: busy)
    assert choose_threads(None, None, processes) == expected


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells how busy its cores are")
def test_busy_neighbour_is_noticed():
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        assert busy_cores() > 0.5
    finally:
        neighbour.kill()
        neighbour.wait()
