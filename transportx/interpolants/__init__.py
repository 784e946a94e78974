r"""A pair of points and a time: where the particle is, and how fast it moves.

Every path is $x_t = \alpha(t) x_0 + \beta(t) x_1 + \gamma(t) z$ with z standard normal.
To add one, subclass `AbstractInterpolant` and write `coefficients`; position and
velocity follow, and the tests' table checks the rest.
"""

from transportx.interpolants._interpolants import AbstractInterpolant as AbstractInterpolant
from transportx.interpolants._interpolants import BrownianBridge as BrownianBridge
from transportx.interpolants._interpolants import Linear as Linear
from transportx.interpolants._interpolants import Trigonometric as Trigonometric
from transportx.interpolants._interpolants import VariancePreserving as VariancePreserving
