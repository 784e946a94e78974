"""Energies along token dynamics: how fast any functional of the tokens changes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transportx import _checks, _precision
from transportx.attention._attention import token_weights
from transportx.attention._dynamics import TokenField

Tokens = Float[Array, "n d"]
Weights = Float[Array, " n"]
Scalar = Float[Array, ""]
Functional = Callable[[Tokens, Weights | None], Scalar]


@_checks.gate
def energy_rate(
    energy: Functional, field: TokenField, tokens: Tokens, weights: Weights | None = None
) -> Scalar:
    r"""$\frac{d}{dt} E(\alpha_t)$ along a field, by one forward derivative.

    Along its own Wasserstein gradient it is `squared_speed`: what E gains the tokens spend.

    Args:
        energy: `energy(tokens, weights)`, as `Attention.energy`.
        field: What moves the tokens; not necessarily the gradient of `energy`.
        tokens: Where.
        weights: Their masses; uniform by default.
    """
    velocity = field(jnp.zeros((), tokens.dtype), tokens, weights)
    dtype = _precision.common(tokens.dtype, velocity.dtype)
    tokens, velocity = tokens.astype(dtype), velocity.astype(dtype)
    return jax.jvp(lambda x: energy(x, weights), (tokens,), (velocity,))[1]


@_checks.gate
def squared_speed(field: TokenField, tokens: Tokens, weights: Weights | None = None) -> Scalar:
    r"""$\int |\dot x|^2\,d\alpha$: the squared speed of the measure, as far as it is a gradient."""
    velocity = field(jnp.zeros((), tokens.dtype), tokens, weights)
    return jnp.sum(token_weights(tokens, weights)[:, None] * velocity**2)


@_checks.gate
def wasserstein_gradient(
    energy: Functional, tokens: Tokens, weights: Weights | None = None
) -> Tokens:
    r"""$\nabla\frac{\delta E}{\delta\alpha}(x_i) = \nabla_{x_i} E / w_i$, zero where w_i is.

    Compare it with a field to see whether, and where, attention is a gradient flow.
    """
    masses = token_weights(tokens, weights)[:, None]
    gradient = jax.grad(energy)(tokens, weights)
    return jnp.where(masses == 0, 0, gradient / jnp.where(masses == 0, 1, masses))
