"""Mixings that add up: exponentials of inner products, and inner products themselves."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from transportx.attention._mixing import (
    AbstractClosedMixing,
    AbstractMixing,
    Context,
    check_numbers,
    exponentials,
    over_tiles,
)
from transportx.gaussians import AffineMap
from transportx.geometry import Dot, PointCloud

Scalar = Float[Array, ""]
_HIGHEST = jax.lax.Precision.HIGHEST


class Unnormalised(AbstractMixing):
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

    def _rows(self, function, queries, context):
        cloud = PointCloud(queries, context.keys, Dot(), tile=self.tile)
        return over_tiles(function, cloud, context.weights, self.temperature, causal=self.causal)


class Linear(AbstractClosedMixing):
    r"""$\sum_j w_j \langle Qx, Ky_j\rangle V y_j / \tau$: linear in x, by second moments alone.

    Its potential is $\phi(x) = \sum_j w_j \langle Qx, Ky_j\rangle^2 / 2\tau$ and its energy
    $\frac12\int\phi\,d\alpha$, of which it is the Wasserstein gradient with V = Q^T K symmetric.
    Mean and covariance close for every measure, Gaussian or not. O((n + m) k e) operations.

    Attributes:
        temperature: tau, positive.

    References:
        Katharopoulos, Vyas, Pappas and Fleuret, Transformers are RNNs, 2020, without their
        feature map and denominator.
    """

    temperature: ScalarLike = 1.0

    def __check_init__(self):
        check_numbers(self.temperature, None)

    def __call__(self, queries: Float[Array, "n k"], context: Context) -> Float[Array, "n e"]:
        weighed = context.weights[:, None] * context.keys
        moments = jnp.matmul(weighed.T, context.values, precision=_HIGHEST)
        images = jnp.matmul(queries, moments, precision=_HIGHEST)
        return images / jnp.asarray(self.temperature, images.dtype)

    def potential(self, queries: Float[Array, "n k"], context: Context) -> Float[Array, " n"]:
        images = self(queries, context._replace(values=context.keys))
        return jnp.sum(queries * images, axis=1) / 2

    def energy(self, context: Context) -> Scalar:
        return jnp.sum(context.weights * self.potential(context.queries, context)) / 2

    def on_gaussian(
        self,
        query: Array,
        key: Array,
        mean: Float[Array, " d"],
        covariance: Float[Array, "d d"],
    ) -> AffineMap:
        moments = covariance + mean[:, None] * mean[None, :]
        slope = moments @ key.T @ query / jnp.asarray(self.temperature, mean.dtype)
        return AffineMap(mean, slope @ mean, slope)
