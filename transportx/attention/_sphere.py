"""The unit sphere, onto which layer norm puts tokens: normalisation and tangent projection."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from transportx import _checks

Points = Float[Array, "*n d"]


@_checks.gate
def normalise(x: Points) -> Points:
    """Divide each point by its norm, as a layer norm does; NaN at the origin.

    In a `TokenField` on the sphere, tokens of weight zero at the origin rest there.

    Args:
        x: Points, with coordinates along the last axis.

    Example:
        >>> [round(float(c), 2) for c in tx.attention.normalise(jnp.array([[3.0, 4.0]]))[0]]
        [0.6, 0.8]
    """
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def units(x: Points, weights: Float[Array, " n"]) -> Points:
    """Each point divided by its norm; at the origin zero where its weight is, and NaN elsewhere.

    So tokens that fill up a set, zeros of weight zero, stay where they are.
    """
    nowhere = jnp.all(x == 0, axis=-1, keepdims=True)
    idle = nowhere & jnp.broadcast_to((weights == 0)[:, None], nowhere.shape)
    return jnp.where(idle, 0, normalise(jnp.where(idle, 1, x)))


@_checks.gate
def tangent(x: Points, v: Points) -> Points:
    r"""Project vectors onto the sphere's tangent space: $v - \langle x, v\rangle x$ at a unit x.

    Args:
        x: Unit points, with coordinates along the last axis.
        v: One vector per point, of the same shape.

    Example:
        >>> tx.attention.tangent(jnp.array([[1.0, 0.0]]), jnp.array([[2.0, 3.0]])).tolist()
        [[0.0, 3.0]]
    """
    return v - jnp.sum(x * v, axis=-1, keepdims=True) * x
