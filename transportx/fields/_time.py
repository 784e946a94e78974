"""Time as network input."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from transportx import _checks


@_checks.gate
def fourier_features(t: Float[Array, ""], num_frequencies: int) -> Float[Array, " features"]:
    """[t, cos(pi k t), sin(pi k t)] for k = 1 .. `num_frequencies`: smooth on [0, 1]."""
    angles = jnp.pi * t * jnp.arange(1, num_frequencies + 1, dtype=t.dtype)
    return jnp.concatenate([t[None], jnp.cos(angles), jnp.sin(angles)])
