"""Exact minimisers of the flow-matching loss towards a finite data set."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from transportx import _checks, _numbers
from transportx.fields._gaussian_mixtures import log_weights
from transportx.interpolants import AbstractInterpolant, Linear

Point = Float[Array, " d"]


@_checks.gate
class EmpiricalField(eqx.Module):
    r"""The exact flow-matching field from a Gaussian to a finite data set.

    It is what perfect training yields.

    From N(0, s^2 I), with s the `source_scale`, $s_t^2 = \alpha^2 s^2 + \gamma^2$ and
    $w = \mathrm{softmax}(\log\mathrm{weights}_i - |x - \beta x_i|^2 / 2 s_t^2)$ it is
    $v(t, x) = \dot\beta \bar x + (\dot s_t / s_t) (x - \beta \bar x)$, $\bar x = \sum w_i x_i$.
    It memorises: as t -> 1 every particle meets a data point, and at t = 1 itself the field is
    singular. A call costs O(n d); a batch of b allocates (b, n), not (b, n, d).

    Attributes:
        data: Data set, shape (n, d).
        path: Interpolant; `Linear()` by default.
        source_scale: Standard deviation s of the source in each coordinate, positive.
        weights: Weights of the data, shape (n,), summing to one; None for uniform ones.

    Raises:
        ValueError: The data are no points, `source_scale` is not positive, or `weights` has another
            shape.

    Example:
        >>> data = jnp.array([[0.0, 1.0], [2.0, 1.0]])
        >>> field = tx.fields.EmpiricalField(data)
        >>> x1 = tx.sampling.flow(field, jr.normal(jr.key(0), (4, 2)), steps=20)
        >>> round(float(jnp.abs(x1[:, 1] - 1).max()), 3)
        0.0

    References:
        Lim, Wang, Yu et al., On the Hidden Biases of Flow Matching Samplers, 2025.
    """

    data: Float[Array, "n d"]
    path: AbstractInterpolant = Linear()
    source_scale: ScalarLike = 1.0
    weights: Float[Array, " n"] | None = None

    def __check_init__(self):
        _checks.points("data", self.data)
        _checks.scale("source_scale", self.source_scale)
        if self.weights is not None and self.weights.shape != self.data.shape[:1]:
            problem = f"has shape {self.weights.shape}"
            cure = f"give one number per point of `data`, shape {self.data.shape[:1]}"
            _checks.reject("weights", problem, cure)

    @_checks.gate
    def __call__(self, t: Float[Array, ""], x: Point, args=None) -> Point:
        """Velocity at one point and time.

        Args:
            t: Time, in [0, 1].
            x: One point, shape (d,).
            args: Ignored; there for the signature of every field.
        """
        _checks.point("x", x, "data", self.data)
        wide, t, point = _numbers.widened((self, t, x))
        (alpha, beta, gamma), (alpha_rate, beta_rate, gamma_rate) = wide.path.rates(t)
        spread = _numbers.positive(wide.source_scale, point.dtype) ** 2
        variance = alpha**2 * spread + gamma**2
        relative_rate = (alpha_rate * alpha * spread + gamma_rate * gamma) / variance
        mean = wide._posterior_mean(point, beta, variance)
        return _numbers.as_given(beta_rate * mean + relative_rate * (point - beta * mean), x)

    def _posterior_mean(
        self, x: Point, beta: Float[Array, ""], variance: Float[Array, ""]
    ) -> Point:
        highest = jax.lax.Precision.HIGHEST
        # Centred, the expanded squares keep their digits for data far from the origin.
        centre = jax.lax.stop_gradient(jnp.mean(self.data, axis=0))
        data, x = self.data - centre[None, :], x - beta * centre
        # |x - beta x_i|^2 without |x|^2, which is common to all and would only round.
        products = jnp.matmul(data, x, precision=highest)
        scores = (beta * products - beta**2 / 2 * jnp.sum(data**2, axis=1)) / variance
        if self.weights is not None:
            scores = scores + log_weights(self.weights)
        return centre + jnp.matmul(jax.nn.softmax(scores), data, precision=highest)


@_checks.gate
class SourcedEmpiricalField(eqx.Module):
    r"""The exact flow-matching field from a source of known density to a finite data set.

    Given the target the source is known, $x_0^i = (x - \beta x_i) / \alpha$, so that
    $v = \sum_i w_i (\dot\alpha x_0^i + \dot\beta x_i)$ with
    $w = \mathrm{softmax}(\log p_0(x_0^i))$. From an isotropic Gaussian this is the gradient field
    `EmpiricalField`; from other sources it is no gradient. At a pinned end it is singular. A call
    costs O(n d).

    Attributes:
        data: Data set with uniform weights, shape (n, d).
        source_log_density: Log-density of one point of the source, up to a constant.
        path: Interpolant without noise of its own; `Linear()` by default.

    Raises:
        ValueError: The data are no points, `path` has noise, or `source_log_density` does not
            return one number.

    Example:
        >>> data = jnp.array([[0.0, 1.0], [2.0, 1.0]])
        >>> field = tx.fields.SourcedEmpiricalField(data, lambda x: -jnp.sum(jnp.abs(x)))
        >>> field(jnp.array(0.0), jnp.zeros(2)).tolist()  # towards the mean of the data
        [1.0, 1.0]

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
        """Velocity at one point and time.

        Args:
            t: Time, in [0, 1].
            x: One point, shape (d,).
            args: Ignored; there for the signature of every field.
        """
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
