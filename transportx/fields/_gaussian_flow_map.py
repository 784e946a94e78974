"""The exact flow map between two Gaussians."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from transportx import _checks, _numbers, _varying
from transportx.fields._average_velocity import average_weight_rates
from transportx.gaussians import flow_matching_field, sqrtm
from transportx.interpolants import AbstractInterpolant, Linear

Time = Float[Array, ""]
Point = Float[Array, " d"]
Matrix = Float[Array, "d d"]

# Stages of a step, which is then of twice that order, and steps on each half of [0, 1].
_NUM_STAGES, _NUM_STEPS = 6, 16


@_checks.gate
class GaussianFlowMap(eqx.Module):
    r"""The exact flow map of `GaussianField`, as its average velocity u(s, t, x).

    A particle at x at time s is at $X(s, t, x) = x + (t - s)\,u(s, t, x)$ at time t (`position`),
    and u(t, t, x) is the field. With $R = S_0^{1/2}$, $K = R^{-1} S_1 R^{-1}$ and
    $M_t = (\alpha_t^2 I + \beta_t^2 K)^{1/2}$, X is
    $m_t + R M_t M_s^{-1} R^{-1} (x - m_s)$ for independent ends on a path without noise. No closed
    form is known for correlated ends or with noise: there the linear equation
    $\dot y = A_t y$ is solved by 32 steps of Gauss' collocation of order twelve, to about
    1e-12 for covariances of condition below a hundred. Where the path has an infinite rate, as
    diffusions at t = 1, the average over the last hundredth of the time is less accurate; for means
    of zero at the source and independent ends it is not.

    Attributes:
        m0: Mean of the source, shape (d,).
        S0: Covariance of the source, shape (d, d), positive definite.
        m1: Mean of the target, shape (d,).
        S1: Covariance of the target, shape (d, d), positive definite.
        path: Interpolant, smooth on each half of [0, 1]; `Linear()` by default.
        cross: Covariance Cov(x0, x1) of the coupling, shape (d, d); None for independent ends.

    Raises:
        ValueError: Shapes do not match; when called, times that are not 0 <= s <= t <= 1, which
            give NaN where they are traced.

    Differentiation:
        In s, t, x and all attributes, to any order, also at s = t.

    Example:
        >>> m, S = jnp.zeros(2), jnp.eye(2)
        >>> u = tx.fields.GaussianFlowMap(m, S, jnp.ones(2), 4 * S)
        >>> x1 = eqx.filter_jit(u.position)(jnp.array(0.0), jnp.array(1.0), jnp.ones(2))
        >>> np.asarray(x1).round(3).tolist()
        [3.0, 3.0]

    References:
        Boffi, Albergo and Vanden-Eijnden, Flow map matching, 2024; Geng et al., Mean flows for
        one-step generative modeling, 2025 (average velocities).
    """

    m0: Point
    S0: Matrix
    m1: Point
    S1: Matrix
    path: AbstractInterpolant = Linear()
    cross: Matrix | None = None

    def __check_init__(self):
        if self.cross is not None:
            _checks.same_shape("cross", self.cross, "S0", self.S0)

    @_checks.gate
    def __call__(self, s: Time, t: Time, x: Point, args=None) -> Point:
        """Average velocity between two times of the particle that is at `x` at the first.

        Args:
            s: First time, in [0, 1].
            t: Last time, in [s, 1].
            x: Position at time `s`, shape (d,).
            args: Ignored; there for the signature of every flow map.
        """
        _checks.same_shape("x", x, "m0", self.m0)
        wide, point = _numbers.widened((self, x))
        s, t = _checks.ordered_times(*_numbers.matched(s, t))
        if wide.cross is None and not wide.path.has_noise:
            velocity = wide._average(s, t, point, wide._closed)
        else:
            velocity = wide._average_of_halves(s, t, point)
        return _numbers.as_given(velocity, x)

    @_checks.gate
    def position(self, s: Time, t: Time, x: Point, args=None) -> Point:
        """Position X(s, t, x) at time `t` of the particle that is at `x` at time `s`.

        Args:
            s: First time, in [0, 1].
            t: Last time, in [s, 1].
            x: Position at time `s`, shape (d,).
            args: Ignored; there for the signature of every flow map.
        """
        s, t = _numbers.matched(s, t)
        point = _numbers.widened(x)
        return _numbers.as_given(point + (t - s) * self(s, t, point), x)

    def _average(self, s: Time, t: Time, x: Point, relative: Callable[..., Point]) -> Point:
        """Average velocity of the mean, and of the particle relative to it."""
        alpha, beta, _ = self.path.coefficients(s)
        alpha_rate, beta_rate = average_weight_rates(self.path, s, t)
        mean_velocity = alpha_rate * self.m0 + beta_rate * self.m1
        return mean_velocity + relative(s, t, x - alpha * self.m0 - beta * self.m1)

    def _average_of_halves(self, s: Time, t: Time, x: Point) -> Point:
        """Average velocity from those on each half of [0, 1].

        On the halves, because a path may bend in the middle, as `EncodingDecoding` does.
        """
        middle = jnp.clip(jnp.asarray(0.5, t.dtype), s, t)

        def over_half(x, span):
            start, end = span
            average = self._average(start, end, x, self._integrated)
            return x + (end - start) * average, average

        spans = jnp.stack([s, middle]), jnp.stack([middle, t])
        carry = _varying.alike(x, spans, eqx.filter(self, eqx.is_array))
        _, (before, after) = jax.lax.scan(over_half, carry, spans)
        inside = (s < 0.5) & (t > 0.5)
        fraction = (0.5 - s) / jnp.where(inside, t - s, 1)
        weight = jnp.where(inside, fraction, jnp.where(t <= 0.5, 1, 0))
        return weight * before + (1 - weight) * after

    def _closed(self, s: Time, t: Time, apart: Point) -> Point:
        """Average velocity relative to the mean: $(M_t - M_s) / (t - s)$ without a division.

        Roots of one matrix commute, so that $M_t - M_s = (M_t^2 - M_s^2) (M_t + M_s)^{-1}$.
        """
        identity = jnp.eye(self.m0.size, dtype=self.m0.dtype)
        root = sqrtm(self.S0)
        half = jnp.linalg.solve(root, sqrtm(self.S1))
        relative = half @ half.T

        def spread(alpha, beta, _):
            return sqrtm(alpha**2 * identity + beta**2 * relative)

        first, last = self.path.coefficients(s), self.path.coefficients(t)
        now, later = spread(*first), spread(*last)
        white = jnp.linalg.solve(now + later, jnp.linalg.solve(now, jnp.linalg.solve(root, apart)))
        alpha_rate, beta_rate = average_weight_rates(self.path, s, t)
        alpha, beta, _ = jax.tree.map(jnp.add, first, last)
        return root @ (alpha_rate * alpha * white + beta_rate * beta * (relative @ white))

    def _integrated(self, s: Time, t: Time, apart: Point) -> Point:
        """Average velocity relative to the mean by collocation."""

        def matrix(t):
            ends = self.m0, self.S0, self.m1, self.S1
            return flow_matching_field(*self.path.rates(t), *ends, self.cross).matrix

        return linear_average(matrix, s, t, apart)


def linear_average(
    matrix: Callable[[Time], Matrix], s: Time, t: Time, start: Point
) -> Float[Array, " d"]:
    """Average velocity (y(t) - y(s)) / (t - s) of y' = A(t) y from y(s) = `start`.

    The average is what is integrated, in the fraction of the time that has passed, so that nothing
    is divided by t - s.
    """
    stages, weights, inner = (jnp.asarray(table, start.dtype) for table in _gauss_table())
    size, step_length = _NUM_STAGES * start.size, (t - s) / _NUM_STEPS

    def step(average, index):
        matrices = jax.vmap(matrix)(s + step_length * (index + stages))
        system = jnp.einsum("ij,iab->iajb", inner, matrices).reshape(size, size)
        right = matrices @ (start + (t - s) * average)
        identity = jnp.eye(size, dtype=start.dtype)
        rates = jnp.linalg.solve(identity - step_length * system, right.reshape(-1))
        return average + weights @ rates.reshape(right.shape) / _NUM_STEPS, None

    indices = jnp.arange(_NUM_STEPS, dtype=start.dtype)
    return jax.lax.scan(step, _varying.alike(jnp.zeros_like(start), start, s, t), indices)[0]


def _gauss_table() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes on [0, 1], weights, and integrals of the Lagrange polynomials up to each node."""
    nodes, weights = np.polynomial.legendre.leggauss(_NUM_STAGES)
    nodes = (1 + nodes) / 2
    powers = np.arange(_NUM_STAGES)
    monomials = nodes[:, None] ** powers
    integrals = nodes[:, None] ** (powers + 1) / (powers + 1)
    return nodes, weights / 2, integrals @ np.linalg.inv(monomials)
