"""Mixings that average: softmax of inner products, and of squared distances."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from transportx import _checks
from transportx.attention._mixing import (
    AbstractAverage,
    AbstractOnMixtures,
    Context,
    Taken,
    softmax_tilts,
)
from transportx.attention._scores import Scores, with_totals
from transportx.gaussians import AffineMap, Mixture, log_density
from transportx.geometry import Dot, Layout, SquaredEuclidean, cloud_between
from transportx.geometry.internal import SumExp

Scalar = Float[Array, ""]
Point = Float[Array, " d"]
Matrix = Float[Array, "d d"]


@_checks.gate
class Softmax(AbstractAverage, AbstractOnMixtures):
    r"""Softmax attention: averages of weights $w_j e^{s_j}$, $s_j = \langle Qx, Ky_j\rangle/\tau$.

    The attention of transformers, where $\tau$ is the root of the heads' dimension. Its
    potential is $\tau \log \sum_j w_j e^{s_j}$ and its energy the mean of that. With V = Q^T K
    the field is a gradient at fixed context; it is not the Wasserstein gradient of anything.
    O(n m (k + e)) operations.

    Attributes:
        temperature: tau, positive; the inverse of the papers' beta.
        causal: Whether a token sees only itself and those before it; NaN where these have
            no weight. A padding mask is a weight of zero, which needs no flag.
        layout: Mesh of devices that share the scores, with tokens over its one axis, and the rows
            of scores computed at once. The number of devices divides that of the context.
            A device sends m (k + e + 1) numbers per head, and twice as many more for the
            derivatives.

    Example:
        >>> mixing = tx.attention.Softmax(temperature=0.1)
        >>> attention = tx.attention.Attention(jnp.eye(2), jnp.eye(2), jnp.eye(2), mixing)
        >>> attention.matrix(jnp.eye(2), jnp.eye(2))[0].round(2).tolist()
        [[1.0, 0.0], [0.0, 1.0]]

    References:
        Vaswani et al., Attention is all you need, 2017; Sander, Ablin, Blondel and Peyre,
        Sinkformers, 2022.
    """

    temperature: ScalarLike = 1.0
    causal: bool = eqx.field(static=True, default=False)
    layout: Layout = Layout()

    def __check_init__(self):
        _checks.positive("temperature", self.temperature)

    @_checks.gate
    def potential(self, queries: Float[Array, "n k"], context: Context) -> Float[Array, " n"]:
        logs = self.log_totals(queries, context)
        return _checks.positive_value("temperature", self.temperature, logs.dtype) * logs

    @_checks.gate
    def energy(self, context: Context) -> Scalar:
        return jnp.sum(context.weights * self.potential(context.queries, context))

    @_checks.gate
    def on_gaussian(
        self, query: Float[Array, "k d"], key: Float[Array, "k d"], mean: Point, covariance: Matrix
    ) -> AffineMap:
        slope = (
            covariance
            @ key.T
            @ query
            / _checks.positive_value("temperature", self.temperature, mean.dtype)
        )
        return AffineMap(mean, mean + slope @ mean, slope)

    @_checks.gate
    def on_mixture(
        self, query: Float[Array, "k d"], key: Float[Array, "k d"], mixture: Mixture, x: Point
    ) -> Taken:
        temperature = _checks.positive_value("temperature", self.temperature, x.dtype)
        tilts = softmax_tilts(key.T @ (query @ x) / temperature, mixture)
        value, log = _average(*tilts, mixture.weights)
        return Taken(value, temperature * log)

    @_checks.gate
    def scores(self, queries: Float[Array, "n k"], context: Context) -> Scores:
        cloud = cloud_between(queries, context.keys, Dot(), layout=self.layout)
        return Scores(cloud, context.weights, self.temperature, causal=self.causal)


@_checks.gate
class L2(AbstractAverage, AbstractOnMixtures):
    r"""L2 attention: values averaged with weights $w_j e^{s_j}$, $s_j = -|Qx - Ky_j|^2/\tau$.

    This is kernel regression. With Q = K = V = I, Gamma(x) - x is the mean shift of a Gaussian
    kernel of variance $\tau/2$. Its potential is
    $\frac12|Qx|^2 + \frac\tau2 \log\sum_j w_j e^{s_j}$ and its energy the mean of that; like
    softmax it is a gradient at fixed context alone. Its slope on a Gaussian is bounded where K is
    invertible: no blow-up.

    Attributes:
        temperature: tau, positive, in units of a squared distance.
        causal: Whether a token sees only itself and those before it; NaN where these have
            no weight.
        layout: Mesh of devices that share the scores, with tokens over its one axis, and the rows
            of scores computed at once. The number of devices divides that of the context.

    Example:
        >>> mixing = tx.attention.L2(temperature=0.1)
        >>> attention = tx.attention.Attention(jnp.eye(1), jnp.eye(1), jnp.eye(1), mixing)
        >>> field = attention(jnp.array([[0.9]]), jnp.array([[0.0], [1.0]]))  # the nearest token
        >>> round(float(field[0, 0]), 2)
        1.0

    References:
        Kim, Papamakarios and Mnih, The Lipschitz constant of self-attention, 2021; Cheng,
        Mean shift, mode seeking, and clustering, 1995.
    """

    temperature: ScalarLike = 1.0
    causal: bool = eqx.field(static=True, default=False)
    layout: Layout = Layout()

    def __check_init__(self):
        _checks.positive("temperature", self.temperature)

    @_checks.gate
    def potential(self, queries: Float[Array, "n k"], context: Context) -> Float[Array, " n"]:
        logs = self.log_totals(queries, context)
        return (
            jnp.sum(queries**2, axis=1)
            + _checks.positive_value("temperature", self.temperature, logs.dtype) * logs
        ) / 2

    @_checks.gate
    def energy(self, context: Context) -> Scalar:
        return jnp.sum(context.weights * self.potential(context.queries, context))

    @_checks.gate
    def on_gaussian(
        self, query: Float[Array, "k d"], key: Float[Array, "k d"], mean: Point, covariance: Matrix
    ) -> AffineMap:
        # The posterior given a noisy K y, in the form that needs no inverse covariance.
        gain = (
            2
            * covariance
            @ key.T
            / _checks.positive_value("temperature", self.temperature, mean.dtype)
        )
        widened = jnp.eye(mean.size, dtype=mean.dtype) + gain @ key
        slope = jnp.linalg.solve(widened, gain @ query)
        return AffineMap(mean, jnp.linalg.solve(widened, mean) + slope @ mean, slope)

    @_checks.gate
    def on_mixture(
        self, query: Float[Array, "k d"], key: Float[Array, "k d"], mixture: Mixture, x: Point
    ) -> Taken:
        temperature, q = _checks.positive_value("temperature", self.temperature, x.dtype), query @ x
        noise = temperature / 2 * jnp.eye(q.size, dtype=q.dtype)

        def tilt(mean, covariance):
            mass = log_density(q, key @ mean, key @ covariance @ key.T + noise)
            return mass, self.on_gaussian(query, key, mean, covariance)(x)

        tilts = jax.vmap(tilt)(mixture.means, mixture.covariances)
        value, log = _average(*tilts, mixture.weights)
        # The scores lack the density's factor (pi tau)^(-k/2).
        log = log + q.size / 2 * jnp.log(jnp.pi * temperature)
        return Taken(value, (q @ q + temperature * log) / 2)

    @_checks.gate
    def scores(self, queries: Float[Array, "n k"], context: Context) -> Scores:
        cloud = cloud_between(queries, context.keys, SquaredEuclidean(), layout=self.layout)
        return Scores(cloud, context.weights, self.temperature, causal=self.causal)


def _average(
    scores: Float[Array, " c"], means: Float[Array, "c d"], weights: Float[Array, " c"]
) -> tuple[Point, Scalar]:
    """The mean of tilted components, and the log of their mass."""
    peak, sums = SumExp.part(with_totals(weights, means), scores)
    return sums[1:] / sums[0], peak + jnp.log(sums[0])
