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


def single_inside(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose halves, wherever in its arguments, are computed with in float32.

    What it returns in float32 is given back in the dtype of the halves.
    """

    def is_half(leaf):
        return hasattr(leaf, "dtype") and leaf.dtype in (jnp.float16, jnp.bfloat16)

    @functools.wraps(function)
    def computed(*args, **kwargs):
        halves = {leaf.dtype for leaf in jax.tree.leaves((args, kwargs)) if is_half(leaf)}
        if not halves:
            return function(*args, **kwargs)
        widen = functools.partial(_converted, is_half, jnp.float32)
        args, kwargs = jax.tree.map(widen, (args, kwargs))

        def is_single(leaf):
            return hasattr(leaf, "dtype") and leaf.dtype == jnp.float32

        narrow = functools.partial(_converted, is_single, common(*halves))
        return jax.tree.map(narrow, function(*args, **kwargs))

    return computed


def _converted(chosen: Callable[[Any], bool], dtype: Any, leaf: Any) -> Any:
    return leaf.astype(dtype) if chosen(leaf) else leaf
