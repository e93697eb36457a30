"""The course of a run in TensorBoard, Weights & Biases and MLflow, for those who ask for it.

The trackers get what `metrics.csv` gets. Nothing leaves the machine unless the environment says so: W&B is offline unless
WANDB_MODE is set, MLflow writes into the run folder unless MLFLOW_TRACKING_URI is set.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from lightning.pytorch.loggers import Logger

from se_med.config.experiment import Config
from se_med.errors import RunError, UsageError
from se_med.io.atomic import write_json
from se_med.io.textfile import read_text
from se_med.training.interruption import InterruptedRunError
from se_med.training.metrics_log import Row
from se_med.training.run_data import flatten
from se_med.training.run_folder import RunFolder

PROJECT = "se-med"
"""Name of the W&B project and of the MLflow experiment."""


class Tracking:
    """The trackers of one run; with none of them it does nothing.

    Args:
        loggers: Lightning's loggers.
    """

    def __init__(self, loggers: Sequence[Logger] = ()) -> None:
        self.loggers = loggers

    def log(self, row: Row) -> None:
        """Log the numbers of a row of ``metrics.csv`` under its step."""
        numbers = {key: float(value) for key, value in row.items() if key != "step" and isinstance(value, int | float)}
        for logger in self.loggers:
            logger.log_metrics(numbers, int(row["step"]))


def require_trackers(names: Sequence[str]) -> None:
    """Check that the packages of the trackers are there, without importing them.

    Raises:
        UsageError: one is not installed; says how to install it.
    """
    for name in names:
        if find_spec(name) is None:
            raise UsageError(
                f"training.loggers: {name} is not installed; install it with `pip install {name}` (all three: "
                "`pip install 'se-med[tracking]'`), or leave it out"
            )


@contextmanager
def open_tracking(run: RunFolder, config: Config, step: int) -> Iterator[Tracking]:
    """Open the trackers that the configuration names, and close them with how the run ended.

    Args:
        run: where they write, and where `tracking.json` keeps what their logs are called, so that a resumed run goes on in the
            same ones.
        config: the effective configuration, which is logged as the hyper-parameters of a new log.
        step: the step that the run goes on from; 0 begins new logs.
    """
    names = config.training.loggers
    if not names:
        yield Tracking()
        return
    known = _known(run.tracking) if step and run.tracking.exists() else {}
    opened = {name: OPEN[name](run, config, known.get(name), step) for name in names}
    ids = {name: known.get(name) or str(logger.version) for name, logger in opened.items()}
    write_json(run.tracking, known | ids)
    settings = {key: value if isinstance(value, str | int | float) else str(value) for key, value in _settings(config).items()}
    for name, logger in opened.items():
        if name not in known:
            logger.log_hyperparams(settings)
    status = "failed"
    try:
        yield Tracking(tuple(opened.values()))
        status = "success"
    except (InterruptedRunError, KeyboardInterrupt):
        status = "KILLED"  # MLflow's word; the others flush what they have whatever it is
        raise
    finally:
        for name, logger in opened.items():
            logger.finalize(status)
            if name == "wandb":
                logger.experiment.finish(exit_code=int(status != "success"))  # type: ignore[attr-defined]  # a W&B run


def _known(path: Path) -> dict[str, str]:
    """Return what the logs of an earlier part of the run are called."""
    try:
        content = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: not readable as JSON ({error}); remove it to begin new logs") from None
    return {key: value for key, value in content.items() if isinstance(value, str)} if isinstance(content, dict) else {}


def _settings(config: Config) -> dict[str, object]:
    return flatten(config.model_dump(mode="json"))


def _open_tensorboard(run: RunFolder, config: Config, known: str | None, step: int) -> Logger:
    from lightning.pytorch.loggers import TensorBoardLogger

    # What was logged after the step to go on from is made again, so the old points are dropped.
    return TensorBoardLogger(run.path, name="tensorboard", version="", purge_step=step + 1)


def _open_wandb(run: RunFolder, config: Config, known: str | None, step: int) -> Logger:
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    from lightning.pytorch.loggers import WandbLogger

    return WandbLogger(
        name=config.name,
        save_dir=run.path,
        version=known or uuid.uuid4().hex[:12],
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        mode=os.environ.get("WANDB_MODE", "offline"),
        settings={"silent": True, "console": "off"},
    )


def _open_mlflow(run: RunFolder, config: Config, known: str | None, step: int) -> Logger:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from lightning.pytorch.loggers import MLFlowLogger

    return MLFlowLogger(
        experiment_name=os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT),
        run_name=config.name,
        tracking_uri=os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(run.path / 'mlflow.db').resolve()}",
        run_id=known,
    )


OPEN = {"tensorboard": _open_tensorboard, "wandb": _open_wandb, "mlflow": _open_mlflow}
