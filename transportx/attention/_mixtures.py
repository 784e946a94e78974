"""A Gaussian mixture as the context of attention: infinitely many tokens, exactly."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transportx import _checks
from transportx.attention._attention import Attention
from transportx.attention._gaussians import check_no_order
from transportx.attention._mixing import AbstractOnMixtures, Taken
from transportx.gaussians import Mixture

Point = Float[Array, " d"]
Scalar = Float[Array, ""]


@_checks.gate
class MixtureContext(eqx.Module):
    r"""Attention field of a Gaussian mixture at one point: the limit of infinitely many tokens.

    Components of weight $w_c$, mean $m_c$ and covariance $S_c$ tilt to Gaussians again, so
    that a head averages affine maps, with weights depending on x. With $z = K^\top Q x/\tau$ it is

    - `Softmax`: $V\sum_c p_c (m_c + S_c z)$, $p_c \propto w_c e^{\langle z, m_c\rangle +
      \langle z, S_c z\rangle/2}$;
    - `L2`: $V\sum_c p_c (m_c + S_c K^\top C_c^{-1}(Qx - K m_c))$ with $C_c = K S_c K^\top +
      \tau/2$ and $p_c \propto w_c N(Qx;\ K m_c, C_c)$;
    - `Unnormalised`: `Softmax` without the denominator of $p_c$;
    - `LinearAttention`: $V M z$ with $M = \sum_c w_c (S_c + m_c m_c^\top)$.

    O(h c d^2) per point, and d^3 for `L2`. Tokens that move in it do not change it; a law that
    follows its own field stays a mixture only where it is one Gaussian (`evolve_gaussian`).

    Attributes:
        attention: Attention with one of these mixings, not causal.
        mixture: Law of the tokens. Its weights are their masses: a zero removes its component, and
            where one is negative the field is NaN. Covariances may be singular.

    Raises:
        ValueError: The mixing has no closed form, or dimensions differ.

    Example:
        >>> attention = tx.attention.Attention(jnp.eye(2), jnp.eye(2), jnp.eye(2))
        >>> mixture = tx.gaussians.Mixture(jnp.ones(1), jnp.ones((1, 2)), jnp.eye(2)[None])
        >>> context = tx.attention.MixtureContext(attention, mixture)
        >>> context(jnp.ones(2)).tolist()  # m + S x
        [2.0, 2.0]

    References:
        Castin, Ablin, Carrillo and Peyre, A unified perspective on the dynamics of deep
        transformers, 2025, for one Gaussian; a mixture is linear in what its integrals are.
    """

    attention: Attention
    mixture: Mixture

    def __check_init__(self):
        mixing = self.attention.mixing
        if not isinstance(mixing, AbstractOnMixtures):
            problem = f"is {type(mixing).__name__}, whose field on a mixture has no closed form"
            cure = "give Softmax, L2, Unnormalised or LinearAttention"
            _checks.reject("attention.mixing", problem, cure)
        check_no_order(mixing)
        dim, found = self.attention.query.shape[-1], self.mixture.means.shape[1]
        if dim != found:
            problem = f"has {found} dimensions, but the matrices act on {dim}"
            _checks.reject("mixture", problem, "give both the same dimension")

    @_checks.gate
    def __call__(self, x: Point) -> Float[Array, " e"]:
        """The field at one point."""
        taken = jax.vmap(lambda value, taken: value @ taken)
        return jnp.sum(taken(self.attention.value, self._taken(x).value), axis=0)

    @_checks.gate
    def potential(self, x: Point) -> Scalar:
        """The function of one point whose gradient is the field where V = Q^T K."""
        return jnp.sum(self._taken(x).potential)

    def _taken(self, x: Point) -> Taken:
        _checks.point("x", x, "mixture.means", self.mixture.means)
        mixing, weights = self.attention.mixing, self.mixture.weights
        assert isinstance(mixing, AbstractOnMixtures)
        masses = jnp.where(weights < 0, jnp.nan, weights)
        mixture = Mixture(masses, self.mixture.means, self.mixture.covariances)

        def head(query, key):
            return mixing.on_mixture(query, key, mixture, x)

        return jax.vmap(head)(self.attention.query, self.attention.key)
