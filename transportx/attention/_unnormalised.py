"""Unnormalised mixing: sums of exponentials of inner products."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from transportx import _checks
from transportx.attention._mixing import (
    AbstractOnMixtures,
    Context,
    Taken,
    softmax_tilts,
)
from transportx.attention._scores import Scores, exponentials
from transportx.gaussians import Mixture
from transportx.geometry import Dot, Layout, cloud_between

Scalar = Float[Array, ""]
Point = Float[Array, " d"]


@_checks.gate
class Unnormalised(AbstractOnMixtures):
    r"""Unnormalised attention $\sum_j w_j e^{\langle Qx, Ky_j\rangle/\tau} V y_j$.

    Its potential is $\phi(x) = \tau\sum_j w_j e^{\langle Qx, K y_j\rangle/\tau}$ and its energy
    $\frac12\int\phi\,d\alpha = \frac\tau2 \sum_{ij} w_i w_j e^{\langle Qy_i, Ky_j\rangle/\tau}$.
    With V = Q^T K symmetric the field is the Wasserstein gradient of that energy, which thus
    grows along the flow; also along that of `Softmax`, whose field is this one divided by a
    positive number. Large scores overflow to infinity. O(n m (k + e)) operations.

    Attributes:
        temperature: tau, positive; the inverse of the papers' beta.
        causal: Whether a token sees only itself and those before it; zero where these have
            no weight.
        layout: Mesh of devices that share the scores, with tokens over its one axis, and the rows
            of scores computed at once. The number of devices divides that of the context.

    Example:
        >>> mixing = tx.attention.Unnormalised()
        >>> attention = tx.attention.Attention(jnp.eye(1), jnp.eye(1), jnp.eye(1), mixing)
        >>> round(float(attention(jnp.array([[0.0]]), jnp.array([[2.0]]))[0, 0]), 2)  # e^0 times 2
        2.0

    References:
        Geshkovski, Letrouit, Polyanskiy and Rigollet, A mathematical perspective on
        transformers, 2023, section 3.
    """

    temperature: ScalarLike = 1.0
    causal: bool = eqx.field(static=True, default=False)
    layout: Layout = Layout()

    def __check_init__(self):
        _checks.positive("temperature", self.temperature)

    @_checks.gate
    def __call__(self, queries: Float[Array, "n k"], context: Context) -> Float[Array, "n e"]:
        return self.scores(queries, context).sums(context.values)

    @_checks.gate
    def potential(self, queries: Float[Array, "n k"], context: Context) -> Float[Array, " n"]:
        totals = self.scores(queries, context).sums(jnp.ones_like(context.weights))
        return _checks.positive_value("temperature", self.temperature, totals.dtype) * totals

    @_checks.gate
    def energy(self, context: Context) -> Scalar:
        return jnp.sum(context.weights * self.potential(context.queries, context)) / 2

    @_checks.gate
    def on_mixture(
        self, query: Float[Array, "k d"], key: Float[Array, "k d"], mixture: Mixture, x: Point
    ) -> Taken:
        temperature = _checks.positive_value("temperature", self.temperature, x.dtype)
        scores, means = softmax_tilts(key.T @ (query @ x) / temperature, mixture)
        masses = exponentials(scores, mixture.weights)
        return Taken(masses @ means, temperature * jnp.sum(masses))

    @_checks.gate
    def scores(self, queries: Float[Array, "n k"], context: Context) -> Scores:
        """Scores between queries and the context's keys."""
        cloud = cloud_between(queries, context.keys, Dot(), layout=self.layout)
        return Scores(cloud, context.weights, self.temperature, causal=self.causal)
