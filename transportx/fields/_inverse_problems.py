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
    r"""Pseudoinverse guidance: the field of targets given a linear observation.

    The observation is $y = A x_1 + \mathrm{noise}\cdot\epsilon$.

    It approximates the law of $x_1$ given $x_t = x$ by $N(D, r_t^2 I)$, with the denoised target
    $D = E[x_1 | x_t = x]$, so that y is $N(A D, r_t^2 A A^\top + \mathrm{noise}^2 I)$, whose
    log-density is differentiated through D. Exact for targets $N(m, I)$ with the default $r_t^2$;
    for others it errs by the difference between the covariance of $x_1$ given $x_t$ and $r_t^2 I$.
    A call costs one evaluation of `field`, one derivative in reverse, and conjugate gradients in
    the space of y.

    Attributes:
        field: Velocity field of one example, `field(t, x, args)`.
        path: The interpolant of `field`.
        operator: A, a linear function of one example that jax can transpose.
        observation: y, of the shape that `operator` returns; the same for every example.
        noise: Standard deviation of the noise in y, zero or more. Zero makes the field singular at
            t = 1, as a target in a hyperplane is.
        variance: $r_t^2$ as a function of time; None for $\sigma_t^2 / (\beta_t^2 + \sigma_t^2)$,
            that of targets of covariance I.
        source_scale: Standard deviation of the Gaussian source, positive.
        rtol: Largest entry of the residual of the linear solve over that of its right side,
            positive.
        max_steps: Largest number of steps of the solve; a velocity that needs more is NaN.

    Raises:
        ValueError: A number is out of its range; when called, a function returns another shape.

    Example:
        >>> S = jnp.eye(2)
        >>> field = tx.fields.GaussianField(jnp.zeros(2), S, jnp.zeros(2), S)
        >>> path, y = tx.interpolants.Linear(), jnp.array([3.0])
        >>> given = tx.fields.ObservationGuided(field, path, lambda x: x[:1], y, noise=0.1)
        >>> x1 = tx.sampling.flow(given, jnp.zeros((1, 2)), steps=100)
        >>> [round(float(v)) for v in x1[0]]  # the first coordinate is seen
        [3, 0]

    References:
        Song et al., Pseudoinverse-guided diffusion models for inverse problems, 2023, equation 7;
        Pokle et al., Training-free linear image inverses via flows, 2023.
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
        """Guided velocity at one point and time.

        Args:
            t: Time, in [0, 1].
            x: One point of any shape.
            args: Condition of this point, handed on to the given functions.
        """
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
