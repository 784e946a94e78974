"""Inverse problems: a field guided by a linear observation of its target."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, PyTree, ScalarLike

from transportx import _checks, _numbers
from transportx.fields._h_transform import pulled_back
from transportx.interpolants import AbstractInterpolant, noised_target

Time = Float[Array, ""]
Point = Float[Array, "..."]


@_checks.gate
class ObservationGuided(eqx.Module):
    r"""The field of targets given $y = A x_1 + \mathrm{noise}\cdot\epsilon$.

    It takes $x_1$ given $x_t = x$ for $N(D, r_t^2 I)$, with $D = E[x_1 | x_t = x]$, so that y is
    $N(A D, r_t^2 A A^\top + \mathrm{noise}^2 I)$, whose log-density is pushed up through D.
    Exact for targets $N(m, I)$ with the default $r_t^2$; for others it errs by how far the
    spread of $x_1$ given $x_t$ is from $r_t^2 I$. A call costs one evaluation of `field`, one
    derivative in reverse, and conjugate gradients in the space of y.

    Example:
        ```python
        field = tx.fields.ObservationGuided(field, path, lambda x: x[::2], y, 0.05)
        x1 = tx.sampling.flow(field, x0)
        ```

    Attributes:
        field: Velocity field of one example.
        path: Its interpolant, as in `EnergyGuided`.
        operator: A: any linear function of one example that jax can transpose.
        observation: y, the same for every example.
        noise: Standard deviation of the noise in y. Zero makes the field singular at t = 1,
            as a target in a hyperplane is.
        variance: $r_t^2$ at time t; by default $\sigma_t^2 / (\beta_t^2 + \sigma_t^2)$, that of
            targets of covariance I.
        source_scale: Standard deviation of the Gaussian source.
        rtol: Residual of the linear solve over its right side, in the largest entry.
        max_steps: Of the solve; a velocity that needs more is NaN.

    References:
        Song et al., Pseudoinverse-guided diffusion models for inverse problems, 2023,
        equation 7; Pokle et al., Training-free linear image inverses via flows, 2023.
    """

    field: Callable[..., Array]
    path: AbstractInterpolant
    operator: Callable[[Array], Array]
    observation: Float[Array, "..."]
    noise: ScalarLike
    variance: Callable[[Time], Time] | None = None
    source_scale: ScalarLike = 1.0
    rtol: float = eqx.field(default=1e-6, static=True)
    max_steps: int = eqx.field(default=200, static=True)

    def __check_init__(self):
        _checks.not_negative("noise", self.noise)
        _checks.finite("noise", self.noise)
        _checks.scale("source_scale", self.source_scale)
        _checks.positive("rtol", self.rtol)
        _checks.count("max_steps", self.max_steps)

    @_checks.gate
    def __call__(self, t: Time, x: Point, args: PyTree[Array] = None) -> Point:
        """Guided velocity at one point and time."""
        wide, point, observation = _numbers.widened((t, x, self.observation))
        spread = self._variance(wide)

        def uphill(denoiser):
            transpose = jax.linear_transpose(self.operator, denoiser)
            seen = self.operator(denoiser)
            _checks.same_shape("observation", observation, "operator(x)", seen)
            wanted, found = _numbers.matched(observation, seen)
            gap = (wanted - found).astype(seen.dtype)
            (slope,) = transpose(self._solve(spread.astype(gap.dtype), transpose, gap))
            return slope

        velocity, gain = pulled_back(
            self.field, self.path, wide, point, args, slope=uphill, source_scale=self.source_scale
        )
        guided = velocity + gain
        return _numbers.as_given(guided, x)

    def _variance(self, t: Time) -> Time:
        if self.variance is not None:
            variance = self.variance(t)
            _checks.number("variance", variance)
            # Below zero the solver would answer for another problem.
            return jnp.where(variance >= 0, variance, jnp.nan)
        beta, sigma, _, _ = noised_target(self.path, t, self.source_scale)
        return sigma**2 / (beta**2 + sigma**2)

    def _solve(self, spread: Time, transpose: Callable, gap: Array) -> Array:
        """(spread A A^T + noise^2 I)^-1 gap, or NaN."""
        floor = _numbers.not_negative(self.noise, gap.dtype) ** 2
        eps = jnp.finfo(gap.dtype).eps
        # The solver takes a curvature below 100 rounding units an unknown for a breakdown,
        # also where it is only small: in these units none is.
        unit = jax.lax.stop_gradient((floor + eps * spread) / (1 + 100 * gap.size * eps))

        def operator(y):
            (back,) = transpose(y)
            return (spread * self.operator(back) + floor * y) / unit

        # The solver's tolerances are for each entry: the largest sets the unit.
        largest = jax.lax.stop_gradient(jnp.max(jnp.abs(gap)))
        size = jnp.where(largest > 0, largest, 1)
        shape = jax.ShapeDtypeStruct(gap.shape, gap.dtype)
        answer = lx.linear_solve(
            lx.FunctionLinearOperator(operator, shape, lx.positive_semidefinite_tag),
            gap / size,
            lx.CG(rtol=self.rtol, atol=self.rtol, max_steps=self.max_steps),
            throw=False,
        )
        solved = (answer.result == lx.RESULTS.successful) & jnp.isfinite(largest)
        return jnp.where(solved, size * answer.value / unit, jnp.nan)
