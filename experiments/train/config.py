"""What a training run is: its sections, and what each value may be."""

import dataclasses

from experiments.harness import config as configs
from experiments.train.choices import Coupling, Data, Field
from experiments.train.choices import Path as InterpolantPath


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """How the field is trained."""

    steps: int
    batch: int
    learning_rate: float
    warmup_steps: int
    average_decay: float
    label_dropout: float
    chunk: int
    checkpoint_every: int
    draw_ahead: int
    microbatches: int
    devices: int

    def __post_init__(self):
        configs.at_least(self, 1, "steps", "batch", "chunk", "checkpoint_every", "draw_ahead")
        configs.at_least(self, 1, "microbatches", "devices")
        configs.at_least(self, 0, "warmup_steps", "label_dropout", "average_decay")
        configs.require(self.learning_rate > 0, "training.learning_rate", "must be positive")
        configs.require(self.average_decay < 1, "training.average_decay", "must be below 1")
        configs.require(self.label_dropout <= 1, "training.label_dropout", "must be at most 1")
        configs.require(
            self.checkpoint_every % self.chunk == 0,
            "training.checkpoint_every",
            "must be a multiple of training.chunk: states exist only between chunks",
        )
        configs.require(
            self.batch % self.devices == 0,
            "training.batch",
            f"is {self.batch}; it must be a multiple of training.devices, {self.devices}",
        )
        configs.require(
            self.batch // self.devices % self.microbatches == 0,
            "training.microbatches",
            f"is {self.microbatches}; it must divide the {self.batch // self.devices} examples "
            "of a device",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the trained field is sampled."""

    steps: int
    guidance: float

    def __post_init__(self):
        configs.at_least(self, 1, "steps")
        configs.at_least(self, 0, "guidance")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """How much the final report computes."""

    num: int

    def __post_init__(self):
        configs.at_least(self, 2, "num")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """One run, whole."""

    seed: int
    data: Data
    path: InterpolantPath
    coupling: Coupling
    field: Field
    training: Training
    sampling: Sampling
    report: Report

    def __post_init__(self):
        configs.require(self.seed >= 0, "seed", "must not be negative")
        self.data.check_field(self.field)
