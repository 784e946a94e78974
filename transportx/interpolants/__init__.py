r"""Interpolants: paths from a source point to a target point, with their velocities.

Every path is $x_t = \alpha(t) x_0 + \beta(t) x_1 + \gamma(t) z$ with z standard normal, the
latent noise. To add one, subclass `AbstractInterpolant` and write `coefficients`; position
and velocity follow, and the tests' table checks the rest. A warp is a rising function of
time: `Warped` follows any path at the pace of one (also a learnt one), `Noised` adds latent
noise to a path.

Where the source is Gaussian, a prediction is any of velocity, score, noise and denoiser at
a point; `from_velocity`, `from_noise`, `from_score` and `from_denoiser` compute all four
from the one that a network predicts.

Example:
    >>> path = tx.interpolants.Linear()
    >>> x0, x1, z = jnp.zeros(2), jnp.array([2.0, 4.0]), jnp.zeros(2)
    >>> x_t, velocity = path(jnp.array(0.5), x0, x1, z)
    >>> x_t.tolist(), velocity.tolist()
    ([1.0, 2.0], [2.0, 4.0])
"""

from transportx.interpolants._interpolants import AbstractInterpolant as AbstractInterpolant
from transportx.interpolants._interpolants import BrownianBridge as BrownianBridge
from transportx.interpolants._interpolants import EncodingDecoding as EncodingDecoding
from transportx.interpolants._interpolants import Linear as Linear
from transportx.interpolants._interpolants import Trigonometric as Trigonometric
from transportx.interpolants._interpolants import VarianceExploding as VarianceExploding
from transportx.interpolants._interpolants import VariancePreserving as VariancePreserving
from transportx.interpolants._predictions import NoisedTarget as NoisedTarget
from transportx.interpolants._predictions import Predictions as Predictions
from transportx.interpolants._predictions import from_denoiser as from_denoiser
from transportx.interpolants._predictions import from_noise as from_noise
from transportx.interpolants._predictions import from_score as from_score
from transportx.interpolants._predictions import from_velocity as from_velocity
from transportx.interpolants._predictions import noised_target as noised_target
from transportx.interpolants._predictions import time_of_angle as time_of_angle
from transportx.interpolants._warps import AbstractWarp as AbstractWarp
from transportx.interpolants._warps import Bernstein as Bernstein
from transportx.interpolants._warps import BridgeNoise as BridgeNoise
from transportx.interpolants._warps import ConstantNoise as ConstantNoise
from transportx.interpolants._warps import Noised as Noised
from transportx.interpolants._warps import Power as Power
from transportx.interpolants._warps import Sigmoid as Sigmoid
from transportx.interpolants._warps import Warped as Warped
