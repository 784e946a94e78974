"""The dtype that a computation runs in: float32 at least, whatever its inputs are kept in."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def common(*dtypes: Any) -> np.dtype:
    """The dtype that holds the numbers of all these: what answers are returned in."""
    # Whatever the user's rule for operations that mix dtypes: these are mixed on purpose.
    with jax.numpy_dtype_promotion("standard"):
        return functools.reduce(jnp.promote_types, dtypes)


def working(*dtypes: Any) -> np.dtype:
    """The dtype to compute in with inputs of these: theirs together, and float32 for halves."""
    return common(jnp.float32, *dtypes)


def at_least_single(method: Callable[..., Array]) -> Callable[..., Array]:
    """A method of two arrays, computed in their `working` dtype and returned in their own."""

    @functools.wraps(method)
    def computed(self, x: Array, y: Array) -> Array:
        dtype = working(x.dtype, y.dtype)
        return method(self, x.astype(dtype), y.astype(dtype)).astype(common(x.dtype, y.dtype))

    return computed
