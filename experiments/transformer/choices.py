"""What the transformers may be set to."""

import dataclasses
from typing import Literal

import transportx as tx
from experiments.data import images
from experiments.harness import config as configs
from transportx import attention as att


@dataclasses.dataclass(frozen=True, kw_only=True)
class Network:
    """Sizes that both networks share."""

    patch: int
    width: int
    depth: int
    heads: int
    hidden: int
    step: float

    def __post_init__(self):
        configs.at_least(self, 1, "patch", "width", "depth", "heads", "hidden")
        configs.positive(self, "step")
        side = images.SHAPES["digits"][0]
        configs.require(side % self.patch == 0, "network.patch", f"must divide {side}")
        configs.require(self.width % self.heads == 0, "network.heads", "must divide network.width")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """How both are trained."""

    seeds: int
    steps: int
    batch: int
    learning_rate: float
    weight_decay: float
    average_decay: float
    solver: Literal["newton", "sinkhorn"]
    marginal_tol: float
    validation: int
    chunk: int

    def __post_init__(self):
        configs.at_least(self, 2, "seeds")
        configs.at_least(self, 1, "batch", "validation", "chunk")
        configs.at_least(self, 0, "weight_decay", "average_decay")
        configs.positive(self, "learning_rate", "marginal_tol")
        # The first chunk compiles; only the others are timed.
        configs.require(self.steps > self.chunk, "training.steps", "must exceed training.chunk")
        configs.require(self.average_decay < 1, "training.average_decay", "must be below 1")
        configs.require(self.validation <= 500, "training.validation", "must be at most 500")


def mixing(name: str, network: Network, training: Training) -> att.AbstractMixing:
    """Softmax or Sinkhorn, at the root of the heads' dimension."""
    temperature = (network.width / network.heads) ** 0.5
    if name == "softmax":
        return att.Softmax(temperature)
    solver = {"newton": tx.ot.Newton, "sinkhorn": tx.ot.Sinkhorn}[training.solver]
    return att.Sinkhorn(temperature, solver=solver(tol=training.marginal_tol))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """What the trained networks are read with."""

    images: int
    jacobians: int
    beta: float
    radius: float

    def __post_init__(self):
        configs.at_least(self, 3, "images")
        configs.at_least(self, 1, "jacobians")
        configs.positive(self, "beta", "radius")
        configs.require(
            self.jacobians <= self.images, "reading.jacobians", "must not exceed reading.images"
        )
