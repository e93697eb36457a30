from __future__ import annotations

from pathlib import Path

import data_sets
import pytest

from se_med.data.case import refuse
from se_med.errors import DataError


def test_case_by_name():
    data = data_sets.dataset("a", "b")
    assert data.case("b") is data.cases[1]
    with pytest.raises(DataError, match="no case is named 'z'"):
        data.case("z")


def test_refuse_says_one_problem_in_one_line_and_several_in_a_list():
    refuse(Path("set"), [])
    with pytest.raises(DataError) as one:
        refuse(Path("set"), ["a: bad"])
    assert one.value.message == "set: a: bad"
    with pytest.raises(DataError) as two:
        refuse(Path("set"), ["a: bad", "b: worse"])
    assert two.value.message.splitlines() == ["set: 2 problems", "  a: bad", "  b: worse"]
    assert two.value.exit_code == 3
