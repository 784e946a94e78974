"""What the fused kernels of every platform do with a tile: costs, exponentials, padding."""

import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from transportx import _checks
from transportx.geometry._merges import largest_exponent

# In place of minus infinity, which less itself is not a number.
LOWEST = -1e38


@_checks.gate
def capped_exp(exponents: Array) -> Array:
    """The exponential, cut at `largest_exponent`; NaN stays NaN, which compiled minima may drop."""
    cap = largest_exponent(exponents.dtype)
    return jnp.exp(jnp.where(exponents > cap, jnp.full_like(exponents, cap), exponents))


def squared_gaps(pairs: Iterable[tuple[Array, Array]]) -> Array:
    """Sum of squared differences over pairs of coordinates, the two already broadcastable."""
    return functools.reduce(jnp.add, ((xk - yk) ** 2 for xk, yk in pairs))


def expanded(xx: Array, yy: Array, products: Array) -> Array:
    """Squared distances from squared norms and inner products, never below zero; NaN stays."""
    costs = xx + yy - 2 * products
    return jnp.where(costs < 0, jnp.zeros_like(costs), costs)


def counted(exponents: Array, b: Array) -> Array:
    """Exponents of what has weight; the lowest number for what counts for nothing."""
    return jnp.where(b != 0, exponents, jnp.full_like(exponents, LOWEST))


def dot(left: Array, right: Array, contract: tuple[int, int] = (1, 0)) -> Array:
    """A matrix product in float32 throughout."""
    return jax.lax.dot_general(
        left,
        right,
        (((contract[0],), (contract[1],)), ((), ())),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


def rounded_up(size: int, multiple: int) -> int:
    """The least multiple that is at least the size."""
    return -(-size // multiple) * multiple


def padded(array: Array, *multiples: int) -> Array:
    """Zeros added at the end of each axis, up to a multiple."""
    sizes = zip(array.shape, multiples, strict=True)
    return jnp.pad(array, [(0, rounded_up(size, multiple) - size) for size, multiple in sizes])
