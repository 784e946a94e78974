"""The unit sphere: where layer norm puts tokens, and what it leaves of their velocities."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from transportx import _checks

Points = Float[Array, "*n d"]


@_checks.gate
def normalise(x: Points) -> Points:
    """Each point divided by its norm, as by a layer norm; NaN at the origin."""
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


@_checks.gate
def tangent(x: Points, v: Points) -> Points:
    r"""$v - \langle x, v\rangle x$: what of each vector moves along the sphere at a unit x."""
    return v - jnp.sum(x * v, axis=-1, keepdims=True) * x
