"""`se-med predict`: segment volumes with one trained run, or with several as an ensemble."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from se_med.cli.console import make_console

if TYPE_CHECKING:
    from se_med.inference.batch import Job
    from se_med.inference.cases import InputCase
    from se_med.inference.outputs import Draw
    from se_med.inference.predictor import Predictor
    from se_med.inference.results import CaseResult
    from se_med.training.threads import Neighbours

log = logging.getLogger(__name__)


def predict(
    *paths: Path,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    overwrite: bool = False,
    device: Literal["auto", "cpu", "gpu"] = "auto",
    test_time_flips: bool | None = None,
    single_pass: bool = False,
    probabilities: bool = False,
    uncertainty: bool = False,
    preview: bool = False,
    intensities: bool = False,
    shard: str | None = None,
    workers: int = 0,
    engine: Literal["local", "dask"] = "local",
    address: str | None = None,
    threads: int | None = None,
) -> int:
    """Segment volumes and 2D images; each result is on its image's grid, with a JSON file of the structures' sizes beside it.

    Results that are there already are skipped, as long as input, model and settings are the same.

    Args:
        paths: first the run folder of a finished training, or several, whose probabilities are averaged; then the inputs:
            images, folders, patterns in quotes, or CSV tables with columns case and image (or image_0, image_1, ...).
            name_0000, name_0001, ... are the channels of one case.
        output: folder of the results; predictions.csv there tells what became of each case.
        overwrite: segment again what has a result already.
        device: where the network runs.
        test_time_flips: average over flips along the axes that were flipped in training. Default: as the run is configured.
        single_pass: no test-time flips, shifts and rotations: several times as fast, and a little less accurate.
        probabilities: write a map of each structure's probability too.
        uncertainty: write maps of uncertainty too: entropy and, of several passes or networks, their disagreement.
        preview: write a picture of each case too.
        intensities: measure mean and standard deviation of the image in each structure too.
        shard: i/n: only every n-th case, beginning with the i-th, so that n commands share the work.
        workers: processes to work in, each with the model in memory; one that is killed loses only its case. Default: this
            process alone, which starts fastest.
        engine: where workers are: processes of this machine, or Dask.
        address: of a Dask scheduler whose workers, on any number of machines, are to work.
        threads: to compute with, shared by the workers. Default: the cores that other work leaves free.
    """
    from se_med.cli.loading import loading
    from se_med.errors import UsageError
    from se_med.training.threads import Neighbours

    if workers < 0 or (threads is not None and threads < 1):
        raise UsageError(f"workers {workers}, threads {threads}: cannot be negative; leave them out for the defaults")
    runs, inputs = split_runs(paths)
    neighbours = Neighbours()  # watched while torch is imported and the model is loaded
    with loading():
        from se_med.cli.progress import progress_bar
        from se_med.inference.batch import Job
        from se_med.inference.cases import find_cases, take_shard
        from se_med.inference.outputs import Outputs
    outputs = Outputs(probabilities, uncertainty, _drawing() if preview else None, intensities)
    job = Job(tuple(run.absolute() for run in runs), device, test_time_flips, single_pass, outputs, overwrite)
    predictor = job.load()
    if test_time_flips and not predictor.flips:
        log.warning("%s: no axis was flipped in training, so there are no test-time flips", runs[0])
    cases = find_cases(inputs, output, len(predictor.plan.channels))
    cases = take_shard(cases, shard) if shard else cases
    threads = threads or _free_cores(neighbours)
    results: list[CaseResult] = []
    try:
        with progress_bar("predict", len(cases)) as advance:
            for number, result in enumerate(_work(job, predictor, cases, engine, workers, threads, address), 1):
                results.append(result)
                _tell(result)
                advance(number, result.name)
    except KeyboardInterrupt:
        # Threads cannot be interrupted, and no file is half written: leave without waiting for their cases.
        log.warning("interrupted; the same command goes on from here")
        _write_table(output, results)
        os._exit(130)
    _write_table(output, results)
    return _report(results, output)


def split_runs(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Tell the runs from the inputs: a run is a folder with `model.safetensors`. The first path is always a run.

    A pattern stands for runs where folders that match it are runs.

    Raises:
        UsageError: nothing is given, or the first path is no finished run.
    """
    import glob

    from se_med.errors import UsageError

    if not paths:
        raise UsageError("no run given; name the folder of a finished run, then the images: se-med predict RUN IMAGES -o FOLDER")
    runs: list[Path] = []
    inputs: list[Path] = []
    for number, path in enumerate(paths):
        found = [path]
        if not path.exists() and glob.has_magic(str(path)):
            found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207  (absolute patterns)
        matches = [folder for folder in found if (folder / "model.safetensors").is_file()]
        if matches:
            runs += matches
        else:
            if number == 0:
                raise UsageError(_no_run(path))
            inputs.append(path)
    return runs, inputs


def _no_run(path: Path) -> str:
    if not path.exists():
        return f"{path}: does not exist; name the folder of a finished run"
    if (path / "config.yaml").is_file():
        return f"{path}: this run has no model.safetensors yet; finish its training with `se-med train CONFIG --resume`"
    return f"{path}: is no run folder, it has no model.safetensors; the run comes first: se-med predict RUN IMAGES -o FOLDER"


def _work(
    job: Job,
    predictor: Predictor,
    cases: list[InputCase],
    engine: Literal["local", "dask"],
    workers: int,
    threads: int,
    address: str | None,
) -> Iterator[CaseResult]:
    from se_med.executor import limit_threads, make_executor
    from se_med.inference.batch import predict_cases, predict_with

    if workers == 0 and engine == "local" and address is None:
        limit_threads(threads)
        yield from predict_cases(predictor, cases, job.outputs, job.overwrite)
        return
    workers = max(1, min(workers, len(cases)))
    with make_executor(engine, workers, max(1, threads // workers), address) as executor:
        yield from predict_with(executor, job, predictor, cases)


def _free_cores(neighbours: Neighbours) -> int:
    """Return the cores that others leave, which are few where `OMP_NUM_THREADS` says so.

    Threads wait for one another after every operation: with one more than there are free cores, all are slow.
    """
    from se_med.training.threads import own_cores

    asked = os.environ.get("OMP_NUM_THREADS", "")
    cores = own_cores()
    return int(asked) if asked.isdecimal() and int(asked) else max(1, cores - round(neighbours.busy()))


def _drawing() -> Draw:
    from functools import partial

    from se_med.evaluation.picture import draw_case

    return partial(draw_case, reference=None, planes="all")


def _write_table(output: Path, results: Sequence[CaseResult]) -> None:
    from se_med.inference.table import write_table

    if output.is_dir():
        write_table(output, results)


def _tell(result: CaseResult) -> None:
    log.debug("%s  %s  %.2f s", result.name, result.status, result.seconds)
    if result.status == "skipped" and result.message:
        log.warning("%s: %s", result.name, result.message)


def _report(results: Sequence[CaseResult], output: Path) -> int:
    from rich.table import Table

    console = make_console()
    counts = Counter(result.status for result in results)
    bad = [result for result in results if result.status in ("failed", "set aside")]
    if bad:
        table = Table("case", "", "because", title="without a result", title_justify="left")
        for result in sorted(bad, key=lambda result: result.name):
            table.add_row(result.name, result.status, result.message)
        console.print(table)
    aside = f", {counts['set aside']} set aside" if counts["set aside"] else ""
    console.print(
        f"{counts['done']} segmented, {counts['skipped']} skipped (had a result), {counts['failed']} failed{aside}; "
        f"results in {output}",
        soft_wrap=True,
    )
    return 1 if bad else 0
