"""Exact fields from a source of any known density to a finite data set."""

from collections.abc import Callable

import equinox as eqx
import jax
from jaxtyping import Array, Float

from transportx import _checks, _numbers
from transportx.interpolants import AbstractInterpolant, Linear

Point = Float[Array, " d"]


@_checks.gate
class SourcedEmpiricalField(eqx.Module):
    r"""What perfect training yields from any source: `EmpiricalField` without its Gaussian.

    Given the target the source is known, $x_0^i = (x - \beta x_i) / \alpha$, so that
    $v = \sum_i w_i (\dot\alpha x_0^i + \dot\beta x_i)$ with
    $w = \mathrm{softmax}(\log p_0(x_0^i))$. From an isotropic Gaussian this is a gradient at
    every time; from other sources it is not. At a pinned end it is singular. O(n d) a call.

    Attributes:
        data: Data set, uniform weights.
        source_log_density: Log-density of one source point.
        path: Interpolant without noise.

    References:
        Lim, Wang, Yu et al., On the Hidden Biases of Flow Matching Samplers, 2025.
    """

    data: Float[Array, "n d"]
    source_log_density: Callable[[Point], Float[Array, ""]]
    path: AbstractInterpolant = Linear()

    def __check_init__(self):
        _checks.points("data", self.data)
        if self.path.has_noise:
            _checks.reject("path", "has noise of its own", "give one without, as `Linear()`")

    @_checks.gate
    def __call__(self, t: Float[Array, ""], x: Point, args=None) -> Point:
        """Velocity at one point and time."""
        _checks.point("x", x, "data", self.data)
        wide, t, point = _numbers.widened((self, t, x))
        (alpha, beta, _), (alpha_rate, beta_rate, _) = wide.path.rates(t)
        sources = (point[None, :] - beta * wide.data) / alpha

        def log_density(source):
            value = self.source_log_density(source)
            _checks.number("source_log_density", value)
            return value

        weights = jax.nn.softmax(jax.vmap(log_density)(sources))
        velocity = weights @ (alpha_rate * sources + beta_rate * wide.data)
        return _numbers.as_given(velocity, x)
