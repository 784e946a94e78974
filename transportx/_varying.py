"""Loops of programs over many devices: what a loop carries is of one kind from the start."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from transportx._meshes import explicit


def axes_of(array: Array) -> frozenset[str]:
    """The mesh axes over which an array inside `shard_map` varies; none elsewhere."""
    kind: Any = jax.typeof(array)
    marks = getattr(kind, "manual_axis_type", None)
    return frozenset(kind.vma if marks is None else marks.varying)


def alike(carry: PyTree, *seen: PyTree) -> PyTree:
    """The carry, every array of it of the kind that a loop's body makes of it.

    `shard_map` wants a loop to carry the same types in and out, and its start is often a
    constant: the same on all devices, where what the body makes of it is not. So all arrays are
    marked as varying over the axes that any of them or of `seen` varies over. Of a batch over
    a mesh with explicit axes constants have no place that JAX could find: they are made to
    depend on what the body uses. Elsewhere nothing changes.

    Args:
        carry: What a loop starts from, or what a branch returns: any pytree.
        *seen: What else the body uses.
    """
    arrays = [leaf for leaf in jax.tree.leaves((carry, seen)) if isinstance(leaf, jax.Array)]
    axes = frozenset().union(*map(axes_of, arrays))
    nothing = _false_of(arrays) if any(map(explicit, arrays)) else None

    def mark(leaf):
        if not isinstance(leaf, jax.Array):
            return leaf
        missing = tuple(sorted(axes - axes_of(leaf)))
        leaf = jax.lax.pcast(leaf, missing, to="varying") if missing else leaf
        if nothing is None or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        return leaf | nothing if leaf.dtype == bool else leaf + nothing.astype(leaf.dtype)

    return jax.tree.map(mark, carry)


def where_asked(
    asked: Bool[Array, ""], compute: Callable[[], PyTree], otherwise: PyTree, *seen: PyTree
) -> PyTree:
    """What `compute` gives where it is asked for, and `otherwise` elsewhere, at no cost.

    A loop of at most one turn: of a batch it turns only if one asks, where both branches of a
    condition would run; and a condition has no place on a mesh of explicit axes. Not
    differentiable in reverse mode.

    Args:
        asked: Whether to compute.
        compute: Gives arrays of the shapes and dtypes of `otherwise`.
        otherwise: What is known without.
        *seen: What `compute` uses.
    """
    return jax.lax.while_loop(
        lambda carry: carry[0],
        lambda carry: alike((jnp.zeros_like(carry[0]), compute()), carry, *seen),
        alike((asked, otherwise), *seen),
    )[1]


def _false_of(arrays: list[Array]) -> Array:
    """Never true, but by the look of it dependent on every array; a compiler drops it."""
    numbers = [array for array in arrays if not jnp.issubdtype(array.dtype, jax.dtypes.prng_key)]
    some = functools.reduce(jnp.logical_or, [jnp.any(array == array) for array in numbers])
    return jnp.where(some, False, False)
