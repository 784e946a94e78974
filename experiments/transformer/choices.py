"""What the transformers may be set to."""

from typing import Annotated, Literal

from annotated_types import Ge, Le

import transportx as tx
from experiments.data import images
from experiments.harness import config as configs
from transportx import attention as att


@configs.section
class Network:
    """Sizes that both networks share."""

    patch: configs.Count
    width: configs.Count
    depth: configs.Count
    heads: configs.Count
    hidden: configs.Count
    step: configs.Positive

    def __post_init__(self):
        side = images.SHAPES["digits"][0]
        configs.require(side % self.patch == 0, "network.patch", f"must divide {side}")
        configs.require(self.width % self.heads == 0, "network.heads", "must divide network.width")


@configs.section
class Training:
    """How both are trained."""

    seeds: configs.Several
    steps: configs.Count
    batch: configs.Count
    learning_rate: configs.Positive
    weight_decay: configs.NotNegative
    average_decay: configs.BelowOne
    solver: Literal["newton", "sinkhorn"]
    marginal_tol: configs.Positive
    validation: Annotated[configs.Count, Le(500)]
    chunk: configs.Count

    def __post_init__(self):
        # The first chunk compiles; only the others are timed.
        configs.require(self.steps > self.chunk, "training.steps", "must exceed training.chunk")


def mixing(name: str, network: Network, training: Training) -> att.AbstractMixing:
    """Softmax or Sinkhorn, at the root of the heads' dimension."""
    temperature = (network.width / network.heads) ** 0.5
    if name == "softmax":
        return att.Softmax(temperature)
    solver = {"newton": tx.ot.Newton, "sinkhorn": tx.ot.Sinkhorn}[training.solver]
    return att.SinkhornAttention(temperature, solver=solver(tol=training.marginal_tol))


@configs.section
class Reading:
    """What the trained networks are read with."""

    images: Annotated[configs.Count, Ge(3)]
    jacobians: configs.Count
    beta: configs.Positive
    radius: configs.Positive

    def __post_init__(self):
        configs.require(
            self.jacobians <= self.images, "reading.jacobians", "must not exceed reading.images"
        )
