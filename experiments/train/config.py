"""What a training run is: its sections, and what each value may be."""

from experiments.harness import config as configs
from experiments.train.choices import Coupling, Data, Field
from experiments.train.choices import Path as InterpolantPath


@configs.section
class Training:
    """How the field is trained."""

    steps: configs.Count
    batch: configs.Count
    learning_rate: configs.Positive
    warmup_steps: configs.Whole
    average_decay: configs.BelowOne
    label_dropout: configs.Share
    chunk: configs.Count
    checkpoint_every: configs.Count
    draw_ahead: configs.Count
    microbatches: configs.Count
    devices: configs.Count

    def __post_init__(self):
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


@configs.section
class Sampling:
    """How the trained field is sampled."""

    steps: configs.Count
    guidance: configs.NotNegative


@configs.section
class Report:
    """How much the final report computes."""

    num: configs.Several


@configs.section
class Config(configs.Seeded):
    """One run, whole."""

    data: Data
    path: InterpolantPath
    coupling: Coupling
    field: Field
    training: Training
    sampling: Sampling
    report: Report

    def __post_init__(self):
        self.data.check_field(self.field)
