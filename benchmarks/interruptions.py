"""Interrupt train, prepare, predict and compare at random moments, go on with them, and compare with uninterrupted ones.

A trial is a command that is interrupted, up to several times in a row, and then left alone to its end. Interruptions are SIGKILL
(of the command alone or of all its processes), SIGTERM, SIGINT, a full disk, a limit on the size of files, folders that become
read-only, and SIGKILL of a process that the command has started. Some trials keep the cache and `TMPDIR` on another device than
the rest. Moments are drawn evenly over the time that an uninterrupted command takes.

Most commands are forks of this process, which has their imports behind it; some, and training in several processes, are
started afresh, so that start-up is interrupted too. Linux; a full disk needs the right to mount (root).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks._harm import HARMS, Harm, make_small_disk, other_device, possible, remove_small_disk
from benchmarks._kill import Kill, make_table
from benchmarks._launch import Command, adopt_orphans, apart, import_ahead, wait_for_orphans
from benchmarks._tasks import Place, Task, make_data, make_tasks
from benchmarks._whole import broken_files, temporaries

SHARES = {
    "train": 76,
    "train-loaders": 16,
    "train-processes": 2,
    "prepare": 44,
    "predict": 60,
    "predict-workers": 5,
    "compare": 8,
}
"""Kills of each task; in proportion for other totals. `predict-dask` has to be asked for."""
IN_A_ROW = 5
"""Most interruptions in a row."""
LONGEST = 600.0
"""Seconds after which a command counts as hanging."""
HEAVY = ("se_med.training.fit", "se_med.inference.batch", "se_med.study.compare", "se_med.study.conclusion")


@dataclass
class Campaign:
    """What trials need to know.

    Attributes:
        folder: for everything.
        second: a folder on another device; None where there is none.
        told: file to which every interruption is added at once.
        fresh: share of commands that an interpreter of their own starts.
        generator: of moments and choices.
        references: result and seconds of each task when nobody interrupts it.
        start_up: seconds that an interpreter of its own needs more.
    """

    folder: Path
    second: Path | None
    told: Path
    fresh: float
    generator: random.Random
    references: dict[str, tuple[Any, float]] = field(default_factory=dict)
    start_up: float = 6.0
    number: int = 0


def main(arguments: list[str]) -> int:
    """Interrupt, go on, compare; write a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks interruptions", description=__doc__)
    parser.add_argument("--kills", type=int, default=sum(SHARES.values()))
    parser.add_argument("--tasks", nargs="+", choices=[*SHARES, "predict-dask"], default=list(SHARES))
    parser.add_argument("--fresh", type=float, default=0.04, help="share of commands that an interpreter of their own starts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path("interruptions"), help="table and numbers, without suffix")
    options = parser.parse_args(arguments)
    for library in ("OMP", "MKL", "OPENBLAS"):
        os.environ[f"{library}_NUM_THREADS"] = "1"
    adopt_orphans()
    folder = Path(tempfile.mkdtemp(prefix="interruptions-"))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.with_suffix(".jsonl").unlink(missing_ok=True)
    os.environ["MPLCONFIGDIR"] = str(folder / "matplotlib")
    second = other_device(folder)
    begin = time.monotonic()
    try:
        draw = random.Random(options.seed)  # noqa: S311  (moments of a test, no secrets)
        campaign = Campaign(folder, second, options.output.with_suffix(".jsonl"), options.fresh, draw)
        kills = _run(campaign, options.tasks, options.kills)
    finally:
        for place in filter(None, (folder, second)):
            shutil.rmtree(place, ignore_errors=True)
    from benchmarks._records import write_record

    setting = {**vars(options), "seconds": round(time.monotonic() - begin), "start_up": round(campaign.start_up, 1)}
    write_record(options.output, make_table(kills), setting, [kill.__dict__ for kill in kills])
    return 1 if any(kill.faults for kill in kills) else 0


def _run(campaign: Campaign, names: list[str], kills: int) -> list[Kill]:
    data = campaign.folder / "data"
    apart(lambda: make_data(data))
    tasks = {name: task for name, task in make_tasks(data).items() if name in names}
    _prepare_imports(campaign, tasks)
    shares = {name: SHARES.get(name, 10) for name in names}
    wanted = {name: max(1, round(kills * share / sum(shares.values()))) for name, share in shares.items()}
    found: list[Kill] = []
    for name, task in tasks.items():
        done = 0
        while done < wanted[name]:
            trial = _trial(campaign, name, task, min(IN_A_ROW, wanted[name] - done))
            done += len(trial)
            found += trial
            for kill in trial:
                with campaign.told.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(kill.__dict__) + "\n")
                faults = f"  {'; '.join(kill.faults)}" if kill.faults else ""
                print(f"{name} {done}/{wanted[name]}  {kill.harm} after {kill.after:.2f} s  {kill.exit_code}{faults}", flush=True)
    return found


def _prepare_imports(campaign: Campaign, tasks: Mapping[str, Task]) -> None:
    """Make the results that nobody interrupts: once to learn what is imported, once to learn how long they take."""
    names: set[str] = set()
    import_ahead(HEAVY)
    for name, task in tasks.items():
        if not task.fresh:
            listed = campaign.folder / "imported"
            _uninterrupted(campaign, name, task, listed)
            names |= set(listed.read_text().splitlines())
    import_ahead(sorted(names))
    for name, task in tasks.items():
        campaign.references[name] = _uninterrupted(campaign, name, task, None)
        print(f"{name}: {campaign.references[name][1]:.2f} s when nobody interrupts it", flush=True)
    if "train" in tasks and campaign.fresh:
        fresh = _uninterrupted(campaign, "train", tasks["train"], None, fresh=True)[1]
        campaign.start_up = max(0.0, fresh - campaign.references["train"][1])


def _uninterrupted(campaign: Campaign, name: str, task: Task, imported: Path | None, fresh: bool = False) -> tuple[Any, float]:
    place = _make_place(campaign, "one device")
    task.lay_out(place)
    command = _start(task, place, fresh or task.fresh, imported)
    if _wait(command) != 0:
        sys.exit(f"{name}: fails when nobody interrupts it:\n{command.said}")
    seconds = time.monotonic() - command.begin
    command.close()
    wait_for_orphans()
    result = task.result(place)
    _remove(place)
    return result, seconds


def _trial(campaign: Campaign, name: str, task: Task, most: int) -> list[Kill]:
    """Interrupt a command up to `most` times in a row, then let it come to its end."""
    draw = campaign.generator
    where = draw.choices(*zip(*possible(campaign.second).items(), strict=True))[0]
    place = _make_place(campaign, where)
    task.lay_out(place)
    kills: list[Kill] = []
    while len(kills) < most and not task.done(place):
        fresh = task.fresh or draw.random() < campaign.fresh
        harm = HARMS[draw.choices(*zip(*_harms(task, where).items(), strict=True))[0]]
        # What goes on from a checkpoint or from prepared cases takes less time than the whole.
        longest = campaign.references[name][1] * (0.6 if kills else 1.0)
        longest += campaign.start_up if fresh and not task.fresh else 0.0
        after = draw.uniform(0, longest)
        kill = _interrupt(task, place, harm, after, fresh, draw)
        if kill is None:
            break
        kill.place = where
        kills.append(kill)
    if kills:
        kills[-1].faults += _finish(task, place, campaign.references[name][0])
    _remove(place)
    return kills


def _harms(task: Task, where: str) -> dict[str, float]:
    return {
        name: harm.weight
        for name, harm in HARMS.items()
        if (where == "small disk" or not harm.small_disk) and (task.helpers or not harm.helper)
    }


def _interrupt(task: Task, place: Place, harm: Harm, after: float, fresh: bool, draw: random.Random) -> Kill | None:
    """Start the command and do it harm some seconds later; None when it had ended by then, or felt nothing of it."""
    before, command = task.kept(place), _start(task, place, fresh)
    hit, counted = command.wait(after) is None and harm.do(command, place, draw), command.count
    code = _wait(command)
    if hit:
        harm.undo(place)
    seconds, orphans = wait_for_orphans()
    said = command.said
    command.close()
    if not hit or (code == 0 and not harm.helper):
        return None
    kill = Kill(task.name, harm.name, round(after, 3), fresh, "", code, task.unit, None, orphans, round(seconds, 2))
    kill.faults += [f"broken: {line}" for folder in place.folders for line in broken_files(folder)]
    if code not in harm.codes:
        kill.faults.append(f"exit code {code}: {said[-300:]!r}")
    if orphans:
        kill.faults.append(f"{orphans} processes still ran")
    if "Traceback" in said or "Exception ignored" in said:
        kill.faults.append(f"a traceback: {said[-1500:]!r}")
    kept = None if any(fault.startswith("broken") for fault in kill.faults) else task.kept(place)
    if kept is not None and before is not None:
        told = counted if harm.signal or task.phase == "training" else 0
        kill.lost = max(0, told - kept, before - kept)
        if kill.lost > (0 if harm.graceful and task.phase == "training" else task.interval):
            kill.faults.append(f"{kill.lost} {task.unit} lost")
    return kill


def _finish(task: Task, place: Place, reference: Any) -> list[str]:
    """Let the command come to its end; returns what is not as if nobody had interrupted it."""
    faults = []
    if not task.done(place):
        command = _start(task, place, task.fresh)
        code = _wait(command)
        if code != 0:
            faults.append(f"the last command: exit code {code}: {command.said[-1500:]!r}")
        command.close()
    if wait_for_orphans()[1]:
        faults.append("processes of the last command still ran")
    faults += [f"broken: {line}" for folder in place.folders for line in broken_files(folder)]
    if not faults and task.result(place) != reference:
        faults.append("the result differs from that of a command that nobody interrupted")
    left = [line for folder in place.folders for line in temporaries(folder)]
    left += [path.name for path in place.temporary.iterdir() if not path.name.endswith(".tmp")]
    return faults + ([f"left: {', '.join(left)}"] if left else [])


def _wait(command: Command) -> int | None:
    """Return the exit code; None when the command hung and was killed."""
    code = command.wait(LONGEST)
    if code is None:
        command.kill(signal.SIGKILL)
        command.wait()
    return code


def _start(task: Task, place: Place, fresh: bool, imported: Path | None = None) -> Command:
    environment = {"HOME": str(place.home), "TMPDIR": str(place.temporary), "XDG_CACHE_HOME": str(place.home / "caches")}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parent.parent)
    return Command(task.arguments(place), environment, task.phase, fresh, imported)


def _make_place(campaign: Campaign, where: str) -> Place:
    campaign.number += 1
    base = campaign.folder / f"trial{campaign.number}"
    base.mkdir()
    if where == "small disk":
        make_small_disk(base)
    beside = base
    if where == "two devices" and campaign.second is not None:
        beside = campaign.second / base.name
        beside.mkdir()
    place = Place(base / "home", beside / "cache", beside / "temporary")
    for folder in place.folders:
        folder.mkdir()
    return place


def _remove(place: Place) -> None:
    base = place.home.parent
    remove_small_disk(base)
    for folder in {base, place.cache.parent}:
        shutil.rmtree(folder, ignore_errors=True)
