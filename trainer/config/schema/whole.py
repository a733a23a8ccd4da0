"""The whole config file: all sections, and the settings of the noise stages that are installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, create_model

from trainer.config.schema.base import Section
from trainer.config.schema.consistency import ConsistencySettings
from trainer.config.schema.data import DatasetSettings, DataSettings, GeneralSettings, SubsetOptions, effective
from trainer.config.schema.embeddings import EmbeddingsSettings
from trainer.config.schema.lora import LoraSettings
from trainer.config.schema.loss import LossSettings, TimestepsSettings
from trainer.config.schema.model import ModelSettings
from trainer.config.schema.noise import NoiseSettings, installed_noise
from trainer.config.schema.optimizer import EmaSettings, OptimizerSettings, ScheduleSettings
from trainer.config.schema.preservation import PreservationSettings
from trainer.config.schema.run import LoggingSettings, PerformanceSettings, RunSettings, SaveSettings
from trainer.config.schema.samples import SamplesSettings
from trainer.config.schema.slider import SliderSettings
from trainer.config.schema.training import TrainingSettings
from trainer.config.schema.validation import ValidationSettings


class BaseConfig(Section):
    """A whole file. `Config` is this with the settings of the noise plugins that are installed."""

    run: RunSettings = Field(default_factory=RunSettings)
    model: ModelSettings = Field(default_factory=ModelSettings)
    training: TrainingSettings = Field(default_factory=TrainingSettings)
    lora: LoraSettings = Field(default_factory=LoraSettings)
    optimizer: OptimizerSettings = Field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = Field(default_factory=ScheduleSettings)
    ema: EmaSettings = Field(default_factory=EmaSettings)
    timesteps: TimestepsSettings = Field(default_factory=TimestepsSettings)
    loss: LossSettings = Field(default_factory=LossSettings)
    noise: NoiseSettings = Field(default_factory=NoiseSettings)
    preservation: PreservationSettings = Field(default_factory=PreservationSettings)
    embeddings: EmbeddingsSettings = Field(default_factory=EmbeddingsSettings)
    slider: SliderSettings = Field(default_factory=SliderSettings)
    consistency: ConsistencySettings = Field(default_factory=ConsistencySettings)
    samples: SamplesSettings = Field(default_factory=SamplesSettings)
    validation: ValidationSettings = Field(default_factory=ValidationSettings)
    save: SaveSettings = Field(default_factory=SaveSettings)
    logging: LoggingSettings = Field(default_factory=LoggingSettings)
    data: DataSettings = Field(default_factory=DataSettings)
    performance: PerformanceSettings = Field(default_factory=PerformanceSettings)
    general: GeneralSettings = Field(default_factory=GeneralSettings)
    datasets: list[DatasetSettings] = Field(
        default_factory=list, description="Sets of images with one resolution each."
    )

    @property
    def text_encoder_trains(self) -> bool:
        """A learning rate of 0 freezes it, as in sd-scripts."""
        return self.training.text_encoder and self.optimizer.text_encoder_lr != 0

    @property
    def text_states_change(self) -> bool:
        """Whether captions are encoded anew in each step, since something learns there."""
        return self.text_encoder_trains or bool(self.embeddings.words)

    @property
    def asks_base(self) -> bool:
        """Whether its steps need the base's own answers."""
        return self.preservation.asked or self.prior_prediction_asked

    @property
    def prior_prediction_asked(self) -> bool:
        """Whether images teach the base's own answers."""
        tables = [(table, subset) for table in self.datasets for subset in table.subsets]
        options = [effective(SubsetOptions, subset, table, self.general) for table, subset in tables]
        return self.data.prior_prediction or any(one.asks_base for one in options)

    @property
    def text_encoder_lr(self) -> float:
        """The rate at which it trains, where it does."""
        own = self.optimizer.text_encoder_lr
        return self.optimizer.lr if own is None else own


if TYPE_CHECKING:
    Config = BaseConfig
else:
    _Noise = installed_noise()
    Config = create_model("Config", __base__=BaseConfig, noise=(_Noise, Field(default_factory=_Noise)))
