"""The mixing that adds up exponentials of inner products."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from transportx.attention._mixing import (
    AbstractOnMixtures,
    Context,
    Taken,
    check_numbers,
    exponentials,
    over_tiles,
    softmax_tilts,
)
from transportx.gaussians import Mixture
from transportx.geometry import Dot, PointCloud

Scalar = Float[Array, ""]
Point = Float[Array, " d"]
_HIGHEST = jax.lax.Precision.HIGHEST


class Unnormalised(AbstractOnMixtures):
    r"""$\sum_j w_j e^{\langle Qx, Ky_j\rangle/\tau} V y_j$, without softmax's denominator.

    Its potential is $\phi(x) = \tau\sum_j w_j e^{\langle Qx, K y_j\rangle/\tau}$ and its energy
    $\frac12\int\phi\,d\alpha = \frac\tau2 \sum_{ij} w_i w_j e^{\langle Qy_i, Ky_j\rangle/\tau}$.
    With V = Q^T K symmetric the field is the Wasserstein gradient of that energy, which thus
    grows along the flow; also along that of `Softmax`, whose field is this one divided by a
    positive number. Large scores overflow to infinity. O(n m (k + e)) operations.

    Attributes:
        temperature: tau, positive; the inverse of the papers' beta.
        causal: As in `Softmax`.
        tile: As in `Softmax`.

    References:
        Geshkovski, Letrouit, Polyanskiy and Rigollet, A mathematical perspective on
        transformers, 2023, section 3.
    """

    temperature: ScalarLike = 1.0
    causal: bool = eqx.field(static=True, default=False)
    tile: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        check_numbers(self.temperature, self.tile)

    def __call__(self, queries: Float[Array, "n k"], context: Context) -> Float[Array, "n e"]:
        def rows(scores, shares):
            return jnp.matmul(exponentials(scores, shares), context.values, precision=_HIGHEST)

        return self._rows(rows, queries, context)

    def potential(self, queries: Float[Array, "n k"], context: Context) -> Float[Array, " n"]:
        def rows(scores, shares):
            return jnp.sum(exponentials(scores, shares), axis=1)

        totals = self._rows(rows, queries, context)
        return jnp.asarray(self.temperature, totals.dtype) * totals

    def energy(self, context: Context) -> Scalar:
        return jnp.sum(context.weights * self.potential(context.queries, context)) / 2

    def on_mixture(
        self, query: Float[Array, "k d"], key: Float[Array, "k d"], mixture: Mixture, x: Point
    ) -> Taken:
        temperature = jnp.asarray(self.temperature, x.dtype)
        scores, means = softmax_tilts(key.T @ (query @ x) / temperature, mixture)
        masses = exponentials(scores[None], mixture.weights[None])[0]
        return Taken(masses @ means, temperature * jnp.sum(masses))

    def _rows(self, function, queries, context):
        cloud = PointCloud(queries, context.keys, Dot(), tile=self.tile)
        return over_tiles(function, cloud, context.weights, self.temperature, causal=self.causal)
