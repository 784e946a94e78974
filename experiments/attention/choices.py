"""What the scenes of clustering tokens may be set to."""

import dataclasses

from experiments.harness import config as configs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moving:
    """Tokens carried to a depth by Euler steps, and recorded on the way."""

    tokens: int
    depth: float
    steps: int
    frames: int
    radius: float

    def __post_init__(self):
        configs.at_least(self, 2, "tokens", "frames")
        configs.at_least(self, 1, "steps")
        configs.positive(self, "depth", "radius")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnSphere(Moving):
    """Unit tokens in softmax attention."""

    beta: float

    def __post_init__(self):
        super().__post_init__()
        configs.positive(self, "beta")


class Circle(OnSphere):
    """Tokens on the circle."""


class Sphere(OnSphere):
    """Tokens on the sphere of R^3."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep(Moving):
    """Tokens on the circle, for many beta and random starts."""

    beta_least: float
    beta_most: float
    betas: int
    repeats: int

    def __post_init__(self):
        super().__post_init__()
        configs.positive(self, "beta_least", "beta_most")
        configs.at_least(self, 2, "betas")
        configs.at_least(self, 1, "repeats")
        configs.require(
            self.beta_most > self.beta_least, "sweep.beta_most", "must exceed sweep.beta_least"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shift(Moving):
    """Mean shift of a sample of a mixture."""

    bandwidth: float

    def __post_init__(self):
        super().__post_init__()
        configs.positive(self, "bandwidth")
