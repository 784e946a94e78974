"""What is done to numbers before they are computed with: halves widened, bad values made NaN."""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, ScalarLike

from transportx import _precision

Tree = TypeVar("Tree")


def is_half(leaf: object) -> bool:
    """Whether this is an array of float16, bfloat16 or something narrower."""
    return (
        isinstance(leaf, jax.Array | np.ndarray)
        and jnp.issubdtype(leaf.dtype, jnp.floating)
        and jnp.finfo(leaf.dtype).bits < 32
    )


def widened(tree: Tree) -> Tree:
    """The tree with half-precision arrays in float32; all other leaves as they are."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32) if is_half(leaf) else leaf, tree)


def in_dtype(tree: Tree, like: Array) -> Tree:
    """The floating-point arrays of a result in the dtype of the input that it belongs to."""
    return jax.tree.map(lambda leaf: leaf.astype(like.dtype), tree)


def as_given(tree: Tree, given: Array) -> Tree:
    """A result in the dtype of an input that was widened for it; else as it is."""
    return in_dtype(tree, given) if is_half(given) else tree


def matched(*arrays: Array) -> list[Array]:
    """Arrays in the widest of their dtypes, and in float32 at least."""
    dtype = _precision.working(*(array.dtype for array in arrays))
    return [array.astype(dtype) for array in arrays]


def positive(value: ScalarLike, dtype) -> Float[Array, "..."]:
    """A number as an array, NaN unless it is positive and finite."""
    number = jnp.asarray(value, dtype)
    return jnp.where((number > 0) & (number < jnp.inf), number, jnp.nan)


def not_negative(value: ScalarLike, dtype) -> Float[Array, "..."]:
    """A number as an array, NaN unless it is zero or positive, and finite."""
    number = jnp.asarray(value, dtype)
    return jnp.where((number >= 0) & (number < jnp.inf), number, jnp.nan)
