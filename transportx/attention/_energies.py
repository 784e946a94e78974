"""Energies along token dynamics: how fast any functional of the tokens changes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transportx import _checks, _precision
from transportx.attention._attention import Attention, token_weights
from transportx.attention._dynamics import TokenField
from transportx.gradient_flows import AbstractFunctional

Tokens = Float[Array, "n d"]
Weights = Float[Array, " n"]
Scalar = Float[Array, ""]


@_checks.gate
class AttentionEnergy(AbstractFunctional):
    """Energy of attention, `Attention.energy`, as a functional of the measure of tokens.

    Its Wasserstein `gradient` equals the field exactly where attention is a gradient flow, for
    `Unnormalised`, `LinearAttention` and `SinkhornAttention` with V = Q^T K symmetric.
    `gradient_flows.flow` of it moves the tokens the other way, downhill.

    Attributes:
        attention: The attention that tokens pay to each other.

    Example:
        >>> attention = tx.attention.Attention(jnp.eye(2), jnp.eye(2), jnp.eye(2))
        >>> energy = tx.attention.AttentionEnergy(attention)
        >>> weights = jnp.array([0.5, 0.5])
        >>> bool(energy.value(jnp.eye(2), weights) == attention.energy(jnp.eye(2), weights))
        True
    """

    attention: Attention

    @_checks.gate
    def value(self, x: Tokens, weights: Weights) -> Scalar:
        return self.attention.energy(x, weights)


@_checks.gate
def energy_rate(
    energy: AbstractFunctional, field: TokenField, tokens: Tokens, weights: Weights | None = None
) -> Scalar:
    r"""Rate of an energy $\frac{d}{dt} E(\alpha_t)$ along a field, by one forward derivative.

    Along its own Wasserstein gradient it is `squared_speed`.

    Args:
        energy: A functional of `gradient_flows`, or an `AttentionEnergy`.
        field: The field that moves the tokens; not necessarily the gradient of `energy`.
        tokens: Tokens, shape (n, d).
        weights: Their masses, shape (n,); uniform of total one by default.

    Example:
        >>> attention = tx.attention.Attention(jnp.eye(2), jnp.eye(2), jnp.eye(2))
        >>> energy = tx.attention.AttentionEnergy(attention)
        >>> field = tx.attention.TokenField(attention)
        >>> bool(tx.attention.energy_rate(energy, field, jnp.eye(2)) > 0)  # it grows
        True
    """
    velocity = field(jnp.zeros((), tokens.dtype), tokens, weights)
    dtype = _precision.common(tokens.dtype, velocity.dtype)
    tokens, velocity = tokens.astype(dtype), velocity.astype(dtype)
    return jax.jvp(lambda x: energy(x, weights), (tokens,), (velocity,))[1]


@_checks.gate
def squared_speed(field: TokenField, tokens: Tokens, weights: Weights | None = None) -> Scalar:
    r"""Squared speed $\int |\dot x|^2\,d\alpha$ of the tokens.

    Args:
        field: Velocity of all tokens.
        tokens: Tokens, shape (n, d).
        weights: Their masses, shape (n,); uniform by default.

    Example:
        >>> attention = tx.attention.Attention(jnp.eye(2), jnp.eye(2), jnp.eye(2))
        >>> field = tx.attention.TokenField(attention)
        >>> round(float(tx.attention.squared_speed(field, jnp.array([[3.0, 4.0]]))), 2)
        25.0
    """
    velocity = field(jnp.zeros((), tokens.dtype), tokens, weights)
    return jnp.sum(token_weights(tokens, weights)[:, None] * velocity**2)
