"""What the scenes of clustering tokens may be set to."""

from experiments.harness import config as configs


@configs.section
class Moving:
    """Tokens carried to a depth by Euler steps, and recorded on the way."""

    tokens: configs.Several
    depth: configs.Positive
    steps: configs.Count
    frames: configs.Several
    radius: configs.Positive


@configs.section
class OnSphere(Moving):
    """Unit tokens in softmax attention."""

    beta: configs.Positive


@configs.section
class Circle(OnSphere):
    """Tokens on the circle."""


@configs.section
class Sphere(OnSphere):
    """Tokens on the sphere of R^3."""


@configs.section
class Sweep(Moving):
    """Tokens on the circle, for many beta and random starts."""

    beta_least: configs.Positive
    beta_most: configs.Positive
    betas: configs.Several
    repeats: configs.Count

    def __post_init__(self):
        configs.require(
            self.beta_most > self.beta_least, "sweep.beta_most", "must exceed sweep.beta_least"
        )


@configs.section
class Shift(Moving):
    """Mean shift of a sample of a mixture."""

    bandwidth: configs.Positive
