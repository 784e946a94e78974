"""Fourier features of time, the input of networks."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from transportx import _checks, _numbers


@_checks.gate
def fourier_features(t: Float[Array, ""], num_frequencies: int) -> Float[Array, " features"]:
    """Fourier features of time: [t, cos(pi k t), sin(pi k t)] for k = 1 .. `num_frequencies`.

    They are smooth and distinct on [0, 1].

    Args:
        t: Time; in half precision, the features are computed in float32 and rounded.
        num_frequencies: Number of pairs of a cosine and a sine, zero or more.

    Returns:
        Features, shape (1 + 2 num_frequencies,).

    Raises:
        ValueError: `num_frequencies` is no integer of at least zero.

    Example:
        >>> tx.fields.fourier_features(jnp.array(0.0), 1).tolist()
        [0.0, 1.0, 0.0]
    """
    _checks.count("num_frequencies", num_frequencies, least=0)
    wide = _numbers.widened(t)
    angles = jnp.pi * wide * jnp.arange(1, num_frequencies + 1, dtype=wide.dtype)
    features = jnp.concatenate([wide[None], jnp.cos(angles), jnp.sin(angles)])
    return _numbers.as_given(features, t)
