"""What the processes of a study do: make a run and measure what it costs, or try an arm for some steps."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from se_med.config.experiment import Config
from se_med.config.load import parse_config
from se_med.data.folds import Fold
from se_med.data.layouts import find_dataset
from se_med.data.plan import Plan
from se_med.data.stream import StepSampler, make_loader
from se_med.errors import RunError
from se_med.inference.precision import resolve_device, resolve_precision
from se_med.inference.predictor import Predictor
from se_med.io.atomic import temporary_path, write_json
from se_med.networks.build import build_network
from se_med.networks.cost import measure_network
from se_med.progress import silent
from se_med.study.job import Job
from se_med.training.budget import TRIAL_STEPS, WARM_UP_STEPS, seconds_per_case, seconds_per_step
from se_med.training.checkpoint import TrainingState
from se_med.training.fit import fit
from se_med.training.planned import Prescribed
from se_med.training.provenance import peak_memory_mb
from se_med.training.run_data import RunData, gather
from se_med.training.run_folder import RunFolder
from se_med.training.steps import build_module, build_stream
from se_med.training.transfer import take_weights
from se_med.training.validation import Validation

MEASURED = "measured.json"
"""What a study measures of a finished run, in its folder."""
TIMED_CASES = 3
LOCK_SECONDS = 60.0
"""Time that a process which was told to stop has for its last step and its checkpoint, before the run is taken over."""


def train_run(job: Job) -> dict[str, Any]:
    """Make a run, or go on with it, and measure it; nothing is left to do where both are done.

    Raises:
        InterruptedRunError: a signal asked to stop.
        RunError: training diverged, or a checkpoint cannot be read.
        SeMedError: as for `fit`.
    """
    config, prescribed = _read(job)
    run = RunFolder(Path(job.folder))
    _wait_for(run)
    if not run.finished:
        fit(config, run.path, resume=True, prescribed=prescribed)
    if not (run.path / MEASURED).exists():
        write_json(run.path / MEASURED, measure_run(run, config, prescribed))
    return {}


def measure_run(run: RunFolder, config: Config, prescribed: Prescribed) -> dict[str, Any]:
    """Return what a finished run costs, and what its network started from.

    Returns:
        ``parameters``, ``macs`` (one patch), ``kept_mb`` (one batch), ``seconds_per_case`` (from file to labels) and ``start``,
        the digest of every tensor before the first step.
    """
    plan = prescribed.plan
    network = _start(config, plan)
    cost = measure_network(network, len(plan.channels), plan.patch, plan.batch_size).total
    return {
        "version": 1,
        "parameters": cost.parameters,
        "macs": cost.macs,
        "kept_mb": round(cost.activation_bytes / 1e6, 3),
        "seconds_per_case": _seconds_per_case(run, config, prescribed.fold, config.training.threads or 1),
        "start": start_digests(config, plan),
    }


def start_digests(config: Config, plan: Plan) -> dict[str, str]:
    """Return shape and digest of each tensor of a network before the first step by name, as in ``8x4x3x3x3 0f3a...``."""
    found = {}
    for name, tensor in _start(config, plan).state_dict().items():
        digest = hashlib.sha256(tensor.detach().contiguous().numpy().tobytes()).hexdigest()[:16]
        found[name] = f"{'x'.join(map(str, tensor.shape)) or 'scalar'} {digest}"
    return found


def _start(config: Config, plan: Plan) -> Any:
    network = build_network(config.network, config.attention, len(plan.channels), plan.num_classes, config.seed)
    if config.training.init_from is not None:
        take_weights(network, config.training.init_from)
    return network


def _seconds_per_case(run: RunFolder, config: Config, fold: Fold, threads: int) -> float:
    """Return the mean time from file to labels of some held-out cases, after one to warm up."""
    dataset = find_dataset(config.data)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        predictor = Predictor.load(run.path)
        times = []
        for name in (fold.validation[0], *fold.validation[:TIMED_CASES]):
            begin = time.perf_counter()
            predictor.predict(dataset.case(name).images)
            times.append(time.perf_counter() - begin)
    finally:
        torch.set_num_threads(before)
    return round(fmean(times[1:]), 4)


def make_trial(job: Job) -> dict[str, Any]:
    """Time the steps of an arm and the scoring of a case, and take the memory of this process.

    Returns:
        ``seconds_per_step``, ``seconds_per_case`` (scoring included), ``cases`` (scored over the whole run), ``peak_memory_mb``,
        ``disk_mb`` (the run folder at its end) and ``timed_seconds`` (what the trial itself took).
    """
    config, prescribed = _read(job)
    torch.set_num_threads(job.threads)
    config = config.model_copy(update={"training": config.training.model_copy(update={"steps": 1, "max_minutes": None})})
    # Beside the runs and under such a name, the folder is swept with the rest when this process is killed.
    folder = temporary_path(Path(job.folder) / "trial")
    try:
        folder.mkdir(parents=True)
        return _try(gather(config, RunFolder(folder), resumed=False, progress=silent, prescribed=prescribed))
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {error.strerror or error}; check the folder and its free space") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _try(data: RunData) -> dict[str, Any]:
    config, training = data.config, data.config.training
    module = build_module(data, TrainingState())
    device = resolve_device(training.device)
    needed = (WARM_UP_STEPS + TRIAL_STEPS) * training.accumulate
    batches = make_loader(build_stream(data), StepSampler(needed, data.plan.batch_size), training.workers)
    precision = resolve_precision(training.precision, device)
    start = time.perf_counter()
    step = seconds_per_step(module.network, config, data.plan, batches, device, precision)
    validation, predictor = Validation(data.validation, config, data.plan), Predictor(module.network, config, data.plan)
    times = [seconds_per_case(validation, predictor, case) for case in data.validation[:TIMED_CASES]]
    tensors = sum(tensor.numel() * tensor.element_size() for tensor in module.network.state_dict().values())
    copies = 4 + (training.ema is not None)  # stored weights; checkpoint of weights, two moments and their average
    return {
        "seconds_per_step": step,
        "seconds_per_case": fmean(times),
        "cases": (training.validations - 1) * len(data.watched) + len(data.validation),
        "peak_memory_mb": peak_memory_mb(),
        "disk_mb": round(tensors * copies / 1e6, 2),
        "timed_seconds": time.perf_counter() - start,
    }


def _read(job: Job) -> tuple[Config, Prescribed]:
    config = parse_config(job.config, job.title, Path(job.folder).parent)
    fold = Fold(**{part: tuple(names) for part, names in job.fold.items()})
    return config, Prescribed(Plan.model_validate_json(job.plan), fold)


def _wait_for(run: RunFolder) -> None:
    """Wait while another process still writes the run, such as one whose study was killed and that is about to leave."""
    lock = run.path / ".lock"
    deadline = time.monotonic() + LOCK_SECONDS
    while lock.exists() and time.monotonic() < deadline:
        with lock.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                time.sleep(0.5)
                continue
        return


def read_measured(run: Path) -> dict[str, Any]:
    """Return what `measure_run` has measured; empty where it has not."""
    try:
        found: dict[str, Any] = json.loads((run / MEASURED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found
