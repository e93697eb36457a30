"""What the C library does with the memory of a step, seen from the page faults of a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

STEPS = """
import resource, sys
import numpy as np
if sys.argv[1] == "kept":
    from se_med.training.allocator import keep_memory_between_steps
    print(keep_memory_between_steps())
else:
    print(None)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [np.ones(20_000_000 // 8) for _ in range(6)]
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print([faults() for _ in range(4)][-1])
"""


def run(mode: str) -> tuple[str, int]:
    environment = {**os.environ, "NUMPY_MADVISE_HUGEPAGE": "0"}
    command = [sys.executable, "-c", STEPS, mode]
    output = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    taken, faults = output.split()
    return taken, int(faults)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator is on Linux")
def test_memory_of_a_step_serves_the_next_one() -> None:
    taken, kept = run("kept")
    if taken == "False":
        pytest.skip("the C library is not glibc")
    _, given_back = run("default")
    assert kept < 100 < 10_000 < given_back


def test_torch_is_asked_for_huge_pages_unless_the_user_has_said_otherwise() -> None:
    code = (
        "import os; from se_med.training.allocator import keep_memory_between_steps as keep; keep();"
        "print(os.environ['THP_MEM_ALLOC_ENABLE']); os.environ['THP_MEM_ALLOC_ENABLE'] = '0'; keep();"
        "print(os.environ['THP_MEM_ALLOC_ENABLE']); import sys; print('torch' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.split() == ["1", "0", "False"]
