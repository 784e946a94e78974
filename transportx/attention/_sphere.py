"""The unit sphere: where layer norm puts tokens, and what it leaves of their velocities."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from transportx import _checks

Points = Float[Array, "*n d"]


@_checks.gate
def normalise(x: Points) -> Points:
    """Each point divided by its norm, as by a layer norm; NaN at the origin.

    In a `TokenField` on the sphere, tokens of weight zero at the origin rest there.
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
    r"""$v - \langle x, v\rangle x$: what of each vector moves along the sphere at a unit x."""
    return v - jnp.sum(x * v, axis=-1, keepdims=True) * x
