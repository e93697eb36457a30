"""What a cache holds, and clearing it without taking anything away that is in use."""

import os
import subprocess
import sys
import time

import pytest
from prepared_samples import plan_of, write_cases

from se_med.data.cache import prepare_cases
from se_med.data.cache_list import UNUSABLE, choose_entries, clear_entries, list_entries, sum_up
from se_med.data.cache_use import _held, announce_use, used_entries

DAY = 86400


@pytest.fixture(autouse=True)
def release():
    """Forget what the test used, as the end of its process would."""
    yield
    for file in _held.values():
        file.close()
    _held.clear()


@pytest.fixture
def cache(tmp_path):
    """A cache of three cases of one data set, two months old, and two of another, whose processes have ended."""
    folder = tmp_path / "cache"
    for name, shapes in (("liver", [(9, 8, 7)] * 3), ("heart", [(8, 8, 8), (10, 10, 10)])):
        prepare_cases(write_cases(tmp_path / name, shapes), plan_of(spacing=(1, 1, len(shapes))), folder, dataset=name)
    for entry in list_entries(folder):
        if entry.dataset == "liver":
            for name in ("used", "case.json"):
                os.utime(entry.folder / name, (time.time() - 60 * DAY,) * 2)
    for file in _held.values():
        file.close()
    _held.clear()
    return folder


def test_the_list_tells_data_set_size_and_times(cache):
    entries = list_entries(cache)
    assert [(entry.dataset, entry.case) for entry in entries] == [
        *(("heart", f"case{number}") for number in range(2)),
        *(("liver", f"case{number}") for number in range(3)),
    ]
    heart, liver = sum_up(entries)
    assert (heart.dataset, heart.cases, liver.dataset, liver.cases) == ("heart", 2, "liver", 3)
    assert heart.size == sum(file.stat().st_size for entry in entries[:2] for file in entry.folder.iterdir())
    assert time.time() - liver.used == pytest.approx(60 * DAY, abs=600)
    assert time.time() - heart.prepared < 600
    assert heart.in_use == liver.in_use == 0


def test_finding_an_entry_is_a_use(cache, tmp_path):
    old = {entry.folder: entry.used for entry in list_entries(cache) if entry.dataset == "liver"}
    prepare_cases(write_cases(tmp_path / "again", [(9, 8, 7)]), plan_of(spacing=(1, 1, 3)), cache)
    changed = [entry for entry in list_entries(cache) if entry.used > old.get(entry.folder, entry.used)]
    assert [entry.case for entry in changed] == ["case0"]
    assert changed[0].in_use
    assert changed[0].prepared < changed[0].used


def test_entries_are_chosen_by_name_and_age(cache):
    entries = list_entries(cache)
    assert {entry.dataset for entry in choose_entries(entries, "h*")} == {"heart"}
    assert {entry.dataset for entry in choose_entries(entries, days=30)} == {"liver"}
    assert choose_entries(entries, "heart", days=30) == []
    assert choose_entries(entries) == entries


def test_clearing_removes_what_is_chosen_and_nothing_else(cache):
    chosen = choose_entries(list_entries(cache), "liver")
    other = cache / "notes.txt"
    other.write_text("mine")
    assert clear_entries(cache, chosen) == chosen
    assert {entry.dataset for entry in list_entries(cache)} == {"heart"}
    assert other.read_text() == "mine"
    assert not list(cache.glob("*.tmp"))


HOLD = """
import sys
from pathlib import Path
from se_med.data.cache_use import announce_use
announce_use(Path(sys.argv[1]), sys.argv[2])
print("holding", flush=True)
sys.stdin.read()
"""


def test_what_a_living_process_uses_stays_until_it_ends(cache):
    entries = list_entries(cache)
    mine, *others = entries
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(cache), mine.folder.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "holding\n"
        assert used_entries(cache) == {mine.folder.name}
        assert clear_entries(cache, entries) == others
        (left,) = list_entries(cache)
        assert left.in_use
    finally:
        holder.kill()
        holder.communicate()
    assert used_entries(cache) == set()
    assert [entry.folder for entry in clear_entries(cache, list_entries(cache))] == [mine.folder]
    assert list_entries(cache) == []
    assert not list((cache / ".uses").iterdir())


@pytest.mark.parametrize(("end", "left"), [("", 0), ("import os; os._exit(0)", 1)])
def test_a_process_that_ends_well_takes_its_list_along(tmp_path, end, left):
    script = (
        f"from pathlib import Path\nfrom se_med.data.cache_use import announce_use\nannounce_use(Path({str(tmp_path)!r}), 'a')\n"
    )
    subprocess.run([sys.executable, "-c", script + end], check=True)
    assert len(list((tmp_path / ".uses").iterdir())) == left
    assert used_entries(tmp_path) == set()
    assert not list((tmp_path / ".uses").iterdir())


def test_this_process_counts_too(cache):
    mine = list_entries(cache)[0]
    announce_use(cache, mine.folder.name)
    announce_use(cache, "another")
    assert used_entries(cache) == {mine.folder.name, "another"}
    assert mine not in clear_entries(cache, [mine])


def test_what_a_living_process_writes_stays_and_what_a_dead_one_left_goes(cache):
    name = "0" * 32
    writing = cache / f".{name}.{os.getpid()}.0123456789abcdef.tmp"
    dead = cache / f".{name}.1.0123456789abcdef.tmp"
    for folder in (writing, dead):
        folder.mkdir()
        (folder / "image.npy").write_bytes(b"half")
    os.utime(dead, (time.time() - 2 * DAY,) * 2)
    clear_entries(cache, list_entries(cache))
    assert writing.is_dir()
    assert not dead.exists()


def test_damaged_entries_are_listed_as_such(cache):
    mine = list_entries(cache)[0]
    (mine.folder / "case.json").write_text('{"version": 1}')
    found = [entry for entry in list_entries(cache) if entry.dataset == UNUSABLE]
    assert [entry.folder for entry in found] == [mine.folder]
    assert clear_entries(cache, found) == found


def test_a_folder_that_does_not_exist_is_empty(tmp_path):
    assert list_entries(tmp_path / "none") == []


def test_a_cache_that_may_only_be_read_serves_its_entries(cache, tmp_path, monkeypatch):
    cases = write_cases(tmp_path / "again", [(8, 8, 8), (10, 10, 10)])
    folders = [cache, *cache.iterdir()]
    for folder in folders:
        folder.chmod(0o555)
    try:
        if os.access(cache, os.W_OK):
            pytest.skip("this user may write everywhere")
        prepared = prepare_cases(cases, plan_of(spacing=(1, 1, 2)), cache)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert [case.manifest.dataset for case in prepared] == ["heart"] * 2
