"""Squared distances of which none is lost to rounding, however far from the others two points are.

In many coordinates |x|^2 + |y|^2 - 2 <x, y> is one matrix product, but hides distances that
are small beside |x| and |y|. Those few, a point's with itself above all, are computed again
by differences.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from transportx import _checks
from transportx._precision import at_least_single
from transportx._varying import alike
from transportx.geometry._cost import AbstractCost
from transportx.geometry._costs import FEW_COORDINATES, SquaredEuclidean

Scalar = Float[Array, ""]


class ResolvedSquares(AbstractCost):
    """|x - y|^2 to a share of the root of the unit roundoff at worst, for any two points.

    As fast as the expansion where every point has at most one other, or itself, so near that
    the expansion hides their distance; where clusters are tight, as slow as differences are.
    """

    translation_invariant: ClassVar[bool] = True

    def wants_centring(self, dim: int) -> bool:
        return dim > FEW_COORDINATES

    @_checks.gate
    @at_least_single
    def __call__(self, x: Float[Array, " d"], y: Float[Array, " d"]) -> Scalar:
        return jnp.sum((x - y) ** 2)

    @_checks.gate
    @at_least_single
    def matrix(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        if x.shape[1] <= FEW_COORDINATES:
            return SquaredEuclidean().matrix(x, y)
        squares = _expanded(x, y)
        held = jax.lax.stop_gradient(squares)
        # Derivatives are those of the expansion, which no square divides.
        return squares + (_resolved(*jax.lax.stop_gradient((x, y)), held) - held)


def _expanded(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
    """Norms and inner products by one matrix product."""
    norms_x, norms_y = (jnp.sum(z * z, axis=1, keepdims=True) for z in (x, y))
    left = jnp.concatenate([-2 * x, norms_x, jnp.ones_like(norms_x)], axis=1)
    right = jnp.concatenate([y, jnp.ones_like(norms_y), norms_y], axis=1)
    return jnp.matmul(left, right.T, precision=jax.lax.Precision.HIGHEST)


def _resolved(
    x: Float[Array, "n d"], y: Float[Array, "m d"], squares: Float[Array, "n m"]
) -> Float[Array, "n m"]:
    """The squares, those that the expansion leaves uncertain by differences."""
    root, m = jnp.sqrt(jnp.finfo(x.dtype).eps), y.shape[0]
    least = root * jnp.sum(x * x, axis=1)[:, None] + root * jnp.sum(y * y, axis=1)[None, :]
    near = squares <= least
    # How many such squares a row has, and the sum of their columns: of one, its column. As a
    # product, which takes a fraction of the time of two sums of integers.
    columns = jnp.stack([jnp.ones(m, x.dtype), jnp.arange(m, dtype=x.dtype)], axis=1)
    found = jnp.matmul(near.astype(x.dtype), columns, precision=jax.lax.Precision.HIGHEST)
    count, column = found[:, 0], found[:, 1].astype(jnp.int32)
    alone = jnp.sum((x - y.at[column].get(mode="clip")) ** 2, axis=1)
    crowded = count > 1
    exact = _differences(x, y, jnp.any(crowded))
    return jnp.where(near, jnp.where(crowded[:, None], exact, alone[:, None]), squares)


def _differences(
    x: Float[Array, "n d"], y: Float[Array, "m d"], wanted: Bool[Array, ""]
) -> Float[Array, "n m"]:
    """Squared differences, a few coordinates at a time; zero, at no cost, if not wanted."""
    d = x.shape[1]
    chunks = -(-d // FEW_COORDINATES)
    x, y = (
        jnp.pad(z, [(0, 0), (0, chunks * FEW_COORDINATES - d)])
        .reshape(z.shape[0], chunks, FEW_COORDINATES)
        .transpose(1, 0, 2)
        for z in (x, y)
    )

    def add(chunk, sums):
        return sums + SquaredEuclidean().matrix(x[chunk], y[chunk])

    # No rounds at all, rather than a branch: so it is for a batch too, unless one wants them.
    zeros = alike(jnp.zeros((x.shape[1], y.shape[1]), x.dtype), x, y, wanted)
    return jax.lax.fori_loop(alike(jnp.array(0), wanted), jnp.where(wanted, chunks, 0), add, zeros)
