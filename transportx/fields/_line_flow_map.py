"""The exact flow map of mixtures on the line: quantile to quantile."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr, logsumexp
from jaxtyping import Array, Bool, Float

from transportx import _checks, _numbers
from transportx.fields._average_velocity import average_rate, inner_times
from transportx.fields._gaussian_mixtures import MixtureField, log_weights

Time = Float[Array, ""]
Point = Float[Array, "1"]
Number = Float[Array, ""]


@_checks.gate
class LineFlowMap(eqx.Module):
    r"""The exact flow map of a `MixtureField` on the line, as its average velocity u(s, t, x).

    On the line particles keep their order, so that $X(s, t, x) = F_t^{-1}(F_s(x))$ with $F_t$ the
    distribution function of the mixture at time t (`position`). It is found by bisection of the
    logarithm of the smaller tail, so that particles far out keep their digits, and $u = (X - x) /
    (t - s)$. Over the shortest spans u is the mean of the field along the particle's way. Where the
    path has an infinite rate, as diffusions at t = 1, that mean is less accurate.

    Attributes:
        field: Field between two mixtures of points of shape (1,), on any path.

    Raises:
        ValueError: The mixtures are not on the line; when called, times that are not
            0 <= s <= t <= 1, which give NaN where they are traced.

    Differentiation:
        In s, t, x, the mixtures and the path, to any order: the bisection by the implicit function
        theorem.

    Example:
        >>> source = tx.gaussians.Mixture(jnp.ones(1), jnp.zeros((1, 1)), jnp.ones((1, 1, 1)))
        >>> means, covariances = jnp.array([[-4.0], [4.0]]), jnp.ones((2, 1, 1))
        >>> target = tx.gaussians.Mixture(jnp.array([0.5, 0.5]), means, covariances)
        >>> u = tx.fields.LineFlowMap(tx.fields.MixtureField(source, target))
        >>> x1 = eqx.filter_jit(u.position)(jnp.array(0.0), jnp.array(1.0), jnp.array([0.6745]))
        >>> round(float(x1[0]), 3)  # the upper quartile, to that of the mixture
        4.0

    References:
        Boffi, Albergo and Vanden-Eijnden, Flow map matching, 2024.
    """

    field: MixtureField

    def __check_init__(self):
        if self.field.source.means.shape[1] != 1:
            problem = f"is of points of shape {self.field.source.means.shape[1:]}"
            _checks.reject("field", problem, "give mixtures on the line, means of shape (k, 1)")

    @_checks.gate
    def __call__(self, s: Time, t: Time, x: Point, args=None) -> Point:
        """Average velocity between two times of the particle that is at `x` at the first.

        Args:
            s: First time, in [0, 1].
            t: Last time, in [s, 1].
            x: Position at time `s`, shape (1,).
            args: Ignored; there for the signature of every flow map.
        """
        wide, point = _numbers.widened((self, x))
        s, t = _checks.ordered_times(*_numbers.matched(s, t))
        inner = inner_times(s, t)
        at_times = jnp.concatenate([inner, t[None]])
        positions = jax.vmap(wide._quantile, (None, 0, None))(s, at_times, point)
        rates = jax.vmap(wide.field)(inner, positions[:-1])
        velocity = average_rate(positions[-1] - point, rates, s, t)
        return _numbers.as_given(velocity, x)

    @_checks.gate
    def position(self, s: Time, t: Time, x: Point, args=None) -> Point:
        """Position X(s, t, x) at time `t` of the particle that is at `x` at time `s`.

        Args:
            s: First time, in [0, 1].
            t: Last time, in [s, 1].
            x: Position at time `s`, shape (1,).
            args: Ignored; there for the signature of every flow map.
        """
        wide, point = _numbers.widened((self, x))
        s, t = _checks.ordered_times(*_numbers.matched(s, t))
        return _numbers.as_given(wide._quantile(s, t, point), x)

    def _quantile(self, s: Time, t: Time, x: Point) -> Point:
        """F_t^-1(F_s(x))."""
        start, end = _Law(self.field, s), _Law(self.field, t)
        tails = jax.vmap(start.log_tail, (None, 0))(x[0], jnp.array([1, -1], x.dtype))
        level, sign = jnp.min(tails), jnp.where(tails[0] < tails[1], 1, -1).astype(x.dtype)

        def excess(y):
            return sign * (end.log_tail(y, sign) - level)

        scores = (x[0] - start.means) / start.deviations
        low = jnp.min(end.means + end.deviations * jnp.min(scores))
        high = jnp.max(end.means + end.deviations * jnp.max(scores))
        bounds = jax.lax.stop_gradient((low, high))
        root = jax.lax.custom_root(
            excess,
            bounds[0],
            lambda excess, _: bisected(excess, *bounds),
            lambda linear, value: value / linear(jnp.ones_like(value)),
        )
        # Bisection has an answer also where there is no root.
        return jnp.where(jnp.isfinite(level + low + high), root, jnp.nan)[None]


class _Law:
    """The mixture at a time, of components on the line."""

    def __init__(self, field: MixtureField, t: Time):
        law = field.law(t)
        self.log_weights = log_weights(law.weights)
        self.means, self.deviations = law.means[:, 0], jnp.sqrt(law.covariances[:, 0, 0])

    def log_tail(self, x: Number, sign: Number) -> Number:
        """Logarithm of the mass below a point where the sign is 1, above it where it is -1."""
        return logsumexp(self.log_weights + log_ndtr(sign * (x - self.means) / self.deviations))


def bisected(excess, low: Number, high: Number) -> Number:
    """The root of a rising function between two bounds, to the last digits of their distance."""

    def halve(_, bounds: tuple[Number, Number]) -> tuple[Number, Number]:
        low, high = bounds
        middle = (low + high) / 2
        early: Bool[Array, ""] = excess(middle) < 0
        return jnp.where(early, middle, low), jnp.where(early, high, middle)

    halvings = jnp.finfo(low.dtype).nmant + 12
    low, high = jax.lax.fori_loop(0, halvings, halve, (low, high))
    return (low + high) / 2
