"""The configuration as a whole: what one YAML file says."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, NonNegativeInt, field_validator, model_validator

from se_med.config.attention import AttentionConfig
from se_med.config.augmentation import AugmentationConfig
from se_med.config.base import Part
from se_med.config.data import DataConfig
from se_med.config.evaluation import EvaluationConfig
from se_med.config.inference import InferenceConfig
from se_med.config.network import NetworkConfig
from se_med.config.training import TrainingConfig

RUN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"


class Config(Part):
    """The configuration of one run. Every part and every field has a default."""

    name: str = Field(
        "run", pattern=RUN_NAME, description="Name of the run and of its folder: letters, digits, '.', '_' and '-'."
    )
    seed: NonNegativeInt = Field(0, description="Seed of weights, patches and augmentation.")
    data: DataConfig = DataConfig()
    network: NetworkConfig = NetworkConfig()
    attention: AttentionConfig = Field(AttentionConfig(), description="null, a block's name, or a mapping from site to block.")
    augmentation: AugmentationConfig = AugmentationConfig()
    training: TrainingConfig = TrainingConfig()
    inference: InferenceConfig = InferenceConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @field_validator("attention", mode="before")
    @classmethod
    def _null_is_plain(cls, value: Any) -> Any:
        return {} if value is None else value

    @model_validator(mode="after")
    def _early_stopping_has_its_own_cases(self) -> Self:
        if self.training.early_stopping is not None and self.data.selection is None and self.data.split is None:
            raise ValueError(
                "training.early_stopping: would choose by the cases that are reported; set data.selection to the share of the "
                "training cases to choose by, e.g. 0.2"
            )
        return self

    @model_validator(mode="after")
    def _enough_cases_to_shuffle(self) -> Self:
        size, processes = self.training.batch_size, self.training.processes
        shuffled = [site for site, gate in self.attention if gate is not None and gate.block == "shuffled"]
        if shuffled and size is not None and size < 2 * processes:
            raise ValueError(
                f"training.batch_size: {size} leaves no other case in the batch, whose gates attention.{shuffled[0]} (shuffled) "
                f"takes; use at least {2 * processes}"
            )
        return self
