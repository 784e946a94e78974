"""Time as network input."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from transportx import _checks, _numbers


@_checks.gate
def fourier_features(t: Float[Array, ""], num_frequencies: int) -> Float[Array, " features"]:
    """[t, cos(pi k t), sin(pi k t)] for k = 1 .. `num_frequencies`: smooth on [0, 1].

    Args:
        t: Time; in a half, the features are computed in float32 and rounded.
        num_frequencies: Pairs of features, zero or more.
    """
    _checks.count("num_frequencies", num_frequencies, least=0)
    wide = _numbers.widened(t)
    angles = jnp.pi * wide * jnp.arange(1, num_frequencies + 1, dtype=wide.dtype)
    features = jnp.concatenate([wide[None], jnp.cos(angles), jnp.sin(angles)])
    return _numbers.as_given(features, t)
