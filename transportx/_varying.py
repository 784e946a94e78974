"""Loops of programs over many devices: what a loop carries is of one kind from the start."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jaxtyping import Array, PyTree


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
    same = _true_of(arrays) if any(map(_explicit, arrays)) else None

    def mark(leaf):
        if not isinstance(leaf, jax.Array):
            return leaf
        missing = tuple(sorted(axes - axes_of(leaf)))
        leaf = jax.lax.pcast(leaf, missing, to="varying") if missing else leaf
        # A compiler drops a choice between a thing and itself; before that it ties the two.
        return leaf if same is None else jnp.where(same, leaf, leaf)

    return jax.tree.map(mark, carry)


def _explicit(array: Array) -> bool:
    kind: Any = jax.typeof(array)
    return AxisType.Explicit in kind.sharding.mesh.axis_types


def _true_of(arrays: list[Array]) -> Array:
    """A truth value that depends on every array."""
    numbers = [array for array in arrays if not jnp.issubdtype(array.dtype, jax.dtypes.prng_key)]
    return jnp.all(jnp.stack([jnp.any(array == array) for array in numbers]))
