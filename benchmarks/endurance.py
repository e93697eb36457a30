"""Whether long work grows and whether processes at the same time get in each other's way.

Memory, file descriptors, threads and child processes of one process over many short epochs of training, and over many
predictions of volumes of several sizes; then several `se-med predict` at the same time on one model, and several that write one
folder of results over and over, with every file read while they do (Linux).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks._launch import Command, adopt_orphans, apart, children_of, import_ahead
from benchmarks._tasks import CASES, TRAINING, make_data
from benchmarks._whole import broken_files, temporaries

IMAGES = 20
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Samples:
    """What a process took, at one moment after the other.

    Attributes:
        memory: resident memory in MB.
        files: open file descriptors.
        processes: child processes.
        threads: threads.
    """

    memory: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    processes: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)

    def take(self) -> None:
        """Look at this process."""
        own = Path("/proc/self")
        self.memory.append(int((own / "statm").read_text().split()[1]) * PAGE / 1e6)
        self.files.append(len(os.listdir(own / "fd")) - 1)  # noqa: PTH208  (and less the one that lists them)
        self.processes.append(len(children_of(os.getpid())))
        self.threads.append(len(os.listdir(own / "task")))  # noqa: PTH208

    @property
    def growth(self) -> float:
        """By how much the largest memory after the first tenth exceeds the largest within it, in percent."""
        tenth = len(self.memory) // 10
        return 100 * (max(self.memory[tenth:]) / max(self.memory[:tenth]) - 1)

    @property
    def steady(self) -> bool:
        """Whether files, processes and threads after the first tenth are never more than within it."""
        tenth = len(self.memory) // 10
        counts = (self.files, self.processes, self.threads)
        return all(max(some[tenth:]) <= max(some[:tenth]) for some in counts)


def main(arguments: list[str]) -> int:
    """Measure; print and write a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks endurance", description=__doc__)
    parser.add_argument("--epochs", type=int, default=500)
    parser.add_argument("--predictions", type=int, default=2000)
    parser.add_argument("--together", type=int, default=8, help="predict processes at the same time, each with its own results")
    parser.add_argument("--writers", type=int, default=4, help="predict processes at the same time on one folder of results")
    parser.add_argument("--rounds", type=int, default=3, help="times that each writer writes all of them")
    parser.add_argument("-o", "--output", type=Path, default=Path("endurance"), help="table and numbers, without suffix")
    options = parser.parse_args(arguments)
    for library in ("OMP", "MKL", "OPENBLAS"):
        os.environ[f"{library}_NUM_THREADS"] = "1"
    adopt_orphans()
    folder = Path(tempfile.mkdtemp(prefix="endurance-"))
    os.environ["MPLCONFIGDIR"] = str(folder / "matplotlib")
    try:
        apart(lambda: _make_all(folder))
        import_ahead(["se_med.training.fit", "se_med.inference.batch", "se_med.cli.app", "se_med.inference.table"])
        training = _measured(folder, "training", lambda samples: _train(folder, options.epochs, samples))
        prediction = _measured(folder, "prediction", lambda samples: _predict(folder, options.predictions, samples))
        together = _together(folder, options.together)
        writers = _one_folder(folder, options.writers, options.rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    from benchmarks._records import write_record

    text = (
        make_table({f"{options.epochs} epochs": training, f"{options.predictions} predictions": prediction})
        + together[1]
        + writers[1]
    )
    measured = {"training": asdict(training), "prediction": asdict(prediction), "together": together[0], "writers": writers[0]}
    write_record(options.output, text, vars(options) | {"output": None}, measured)
    good = all(samples.growth < 1 and samples.steady for samples in (training, prediction)) and together[0] and writers[0]
    return 0 if good else 1


def make_table(found: dict[str, Samples]) -> str:
    """Return a line per process."""
    lines = [
        "| one process | memory in the first tenth, later at most (MB) | growth | file descriptors | processes | threads |",
        "|---|---|---|---|---|---|",
    ]
    for name, samples in found.items():
        tenth = len(samples.memory) // 10
        first, later = max(samples.memory[:tenth]), max(samples.memory[tenth:])
        counts = [f"{max(some[:tenth])}, {max(some[tenth:])}" for some in (samples.files, samples.processes, samples.threads)]
        lines.append(f"| {name} | {first:.1f}, {later:.1f} | {samples.growth:.2f} % | {' | '.join(counts)} |")
    return "\n".join(lines) + "\n\n"


def _measured(folder: Path, name: str, work: Any) -> Samples:
    """Work in a fork of this process, and return what it has sampled."""
    path = folder / f"{name}.json"

    def run() -> None:
        samples = Samples()
        work(samples)
        path.write_text(json.dumps(asdict(samples)))

    begin = time.monotonic()
    apart(run)
    samples = Samples(**json.loads(path.read_text()))
    print(f"{name}: {len(samples.memory)} samples in {time.monotonic() - begin:.0f} s, growth {samples.growth:.2f} %", flush=True)
    return samples


def _train(folder: Path, epochs: int, samples: Samples) -> None:
    """Train with epochs of two steps and ten validations; a sample after each epoch."""
    from se_med.config.load import load_config
    from se_med.training.fit import fit

    text = TRAINING.replace("epoch_steps: 3", "epoch_steps: 2")
    changes = {"ROOT": folder / "data" / f"cases{CASES}", "CACHE": folder / "cache", "STEPS": 2 * epochs, "VALIDATIONS": 10}
    for key, value in {**changes, "WORKERS": 0, "PROCESSES": 1}.items():
        text = text.replace(key, str(value))
    path = folder / "endurance.yaml"
    path.write_text(text)

    @contextmanager
    def sampling(description: str, total: int | None) -> Iterator[Any]:
        def advance(done: int, note: str) -> None:
            if description == "training" and done % 2 == 0:
                samples.take()

        yield advance

    fit(load_config(path, []), folder / "runs" / "endurance", progress=sampling)


def _predict(folder: Path, number: int, samples: Samples) -> None:
    """Segment the images over and over; a sample after each."""
    from se_med.inference.batch import predict_cases
    from se_med.inference.cases import find_cases
    from se_med.inference.predictor import Predictor

    predictor = Predictor.load(folder / "data" / "run")
    cases = find_cases([folder / "images"], folder / "predictions", 1)
    while len(samples.memory) < number:
        for result in predict_cases(predictor, cases, overwrite=True):
            if result.status != "done":
                raise RuntimeError(f"{result.name}: {result.status}: {result.message}")
            samples.take()


def _together(folder: Path, number: int) -> tuple[bool, str]:
    """Start several commands at once, each with a folder of its own; returns whether all made the same files."""
    _finish([_start(folder, "alone")])
    reference = _files(folder / "alone")
    codes = _finish([_start(folder, f"together{index}") for index in range(number)])
    equal = sum(_files(folder / f"together{index}") == reference for index in range(number))
    good = equal == number and codes == [0] * number
    return good, f"{number} `predict` at the same time on one model: {equal} of {number} made the files of one alone\n\n"


def _one_folder(folder: Path, number: int, rounds: int) -> tuple[bool, str]:
    """Let several commands write one folder over and over while every file is read; returns whether all were whole."""
    reference = _files(folder / "alone")
    output, codes, reads, bad = folder / "shared", [], 0, 0
    for _ in range(rounds):
        running = [_start(folder, "shared", "--overwrite") for _ in range(number)]
        while any(command.wait(0) is None for command in running):
            for path in output.glob("[!.]*.nii.gz"):
                try:
                    content = path.read_bytes()
                except FileNotFoundError:  # a result is taken away for a moment when another takes its place
                    continue
                reads += 1
                bad += content != reference[path.name]
            time.sleep(0.01)
        codes += _finish(running)
    whole = _files(output) == reference and not broken_files(output) and not temporaries(output)
    good = whole and bad == 0 and codes == [0] * number * rounds
    return good, (
        f"{number} `predict` at the same time on one folder, {rounds} times: {reads} label files read meanwhile, {bad} of them "
        f"not whole; at the end all {len(reference)} results whole: {'yes' if whole else 'NO'}\n"
    )


def _start(folder: Path, output: str, *extra: str) -> Command:
    arguments = ["predict", str(folder / "data" / "run"), str(folder / "images"), "-o", str(folder / output), *extra]
    return Command(arguments, {"HOME": str(folder), "TMPDIR": str(folder)})


def _finish(commands: list[Command]) -> list[int | None]:
    codes = [command.wait(600) for command in commands]
    for command in commands:
        if command.code != 0:
            print(command.said)
        command.close()
    return codes


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("[!.]*.nii.gz"))}


def _make_all(folder: Path) -> None:
    import nibabel as nib
    import numpy as np

    make_data(folder / "data")
    (folder / "images").mkdir()
    for number in range(IMAGES):
        generator = np.random.default_rng(number)
        shape = generator.integers(14, 27, 3)
        voxels = np.kron(generator.normal(size=(5, 5, 5)), np.ones((6, 6, 6)))[tuple(slice(size) for size in shape)]
        nib.save(nib.Nifti1Image(voxels.astype(np.float32), np.eye(4)), folder / "images" / f"case_{number:02}.nii.gz")
