"""The mixing that is linear: by second moments, or by their prefix sums where causal."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from transportx import _checks
from transportx.attention._mixing import (
    AbstractClosedMixing,
    AbstractOnMixtures,
    Context,
    Taken,
)
from transportx.attention._scores import check_causal
from transportx.gaussians import AffineMap, Mixture

Scalar = Float[Array, ""]
Point = Float[Array, " d"]
_HIGHEST = jax.lax.Precision.HIGHEST
# Rows whose pairs are formed: about as many as a head has dimensions balances the work.
_TILE = 128


@_checks.gate
class LinearAttention(AbstractClosedMixing, AbstractOnMixtures):
    r"""Linear attention $\sum_j w_j \langle Qx, Ky_j\rangle V y_j / \tau$, by second moments alone.

    Its potential is $\phi(x) = \sum_j w_j \langle Qx, Ky_j\rangle^2 / 2\tau$ and its energy
    $\frac12\int\phi\,d\alpha$, of which it is the Wasserstein gradient with V = Q^T K symmetric.
    Mean and covariance close for every measure, Gaussian or not. O((n + m) k e) operations;
    where causal, moments are summed in the order of the tokens, O(n (k e + tile (k + e))). Where
    tokens lie over many devices each sends its moments alone, k e numbers per head; not where
    causal, which visits the tokens in turn.

    Attributes:
        temperature: tau, positive.
        causal: Whether a token sees only itself and those before it; zero where these have
            no weight.
        tile: Rows summed at once where causal; 128 by default.

    Example:
        >>> mixing = tx.attention.LinearAttention()
        >>> attention = tx.attention.Attention(jnp.eye(1), jnp.eye(1), jnp.eye(1), mixing)
        >>> attention(jnp.array([[3.0]]), jnp.array([[2.0]])).tolist()
        [[12.0]]

    References:
        Katharopoulos, Vyas, Pappas and Fleuret, Transformers are RNNs, 2020, without their
        feature map and denominator; section 3.3 for the causal mask.
    """

    temperature: ScalarLike = 1.0
    causal: bool = eqx.field(static=True, default=False)
    tile: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        _checks.positive("temperature", self.temperature)
        if self.tile is not None:
            _checks.count("tile", self.tile)

    @_checks.gate
    def __call__(self, queries: Float[Array, "n k"], context: Context) -> Float[Array, "n e"]:
        _checks.same_dimension("queries", queries, "context.keys", context.keys)
        weighed = context.weights[:, None] * context.keys
        if self.causal:
            check_causal(queries.shape[0], weighed.shape[0])
            images = _past(queries, weighed, context.values, self.tile or _TILE)
        else:
            moments = jnp.matmul(weighed.T, context.values, precision=_HIGHEST)
            images = jnp.matmul(queries, moments, precision=_HIGHEST)
        return images / _checks.positive_value("temperature", self.temperature, images.dtype)

    @_checks.gate
    def potential(self, queries: Float[Array, "n k"], context: Context) -> Float[Array, " n"]:
        images = self(queries, context._replace(values=context.keys))
        return jnp.sum(queries * images, axis=1) / 2

    @_checks.gate
    def energy(self, context: Context) -> Scalar:
        return jnp.sum(context.weights * self.potential(context.queries, context)) / 2

    @_checks.gate
    def on_gaussian(
        self,
        query: Float[Array, "k d"],
        key: Float[Array, "k d"],
        mean: Float[Array, " d"],
        covariance: Float[Array, "d d"],
    ) -> AffineMap:
        moments = covariance + mean[:, None] * mean[None, :]
        slope = (
            moments
            @ key.T
            @ query
            / _checks.positive_value("temperature", self.temperature, mean.dtype)
        )
        return AffineMap(mean, slope @ mean, slope)

    @_checks.gate
    def on_mixture(
        self, query: Float[Array, "k d"], key: Float[Array, "k d"], mixture: Mixture, x: Point
    ) -> Taken:
        means, weights = mixture.means, mixture.weights
        moments = jnp.tensordot(weights, mixture.covariances, 1)
        moments = moments + means.T @ (weights[:, None] * means)
        asked = key.T @ (query @ x)
        value = moments @ asked / _checks.positive_value("temperature", self.temperature, x.dtype)
        return Taken(value, asked @ value / 2)


def _past(
    queries: Float[Array, "n k"], keys: Float[Array, "n k"], values: Float[Array, "n e"], tile: int
) -> Float[Array, "n e"]:
    """The sum over j <= i of <q_i, k_j> v_j: pairs within a tile, moments of all before it."""
    n = queries.shape[0]
    count = -(-n // tile)

    def split(rows):
        return jnp.pad(rows, [(0, count * tile - n), (0, 0)]).reshape(count, tile, -1)

    def visit(moments, part):
        q, k, v = part
        pairs = jnp.tril(jnp.matmul(q, k.T, precision=_HIGHEST))
        own = jnp.matmul(pairs, v, precision=_HIGHEST)
        before = jnp.matmul(q, moments, precision=_HIGHEST)
        return moments + jnp.matmul(k.T, v, precision=_HIGHEST), own + before

    none = jnp.zeros((keys.shape[1], values.shape[1]), values.dtype)
    # Pairs are formed again in the backward pass; inside a scan nothing merges the two.
    visit = jax.checkpoint(visit, prevent_cse=False)
    _, images = jax.lax.scan(visit, none, tuple(map(split, (queries, keys, values))))
    return images.reshape(count * tile, -1)[:n]
