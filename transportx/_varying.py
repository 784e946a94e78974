"""Loops inside `shard_map`: what a loop carries varies over the devices from the start."""

from typing import Any

import jax
from jaxtyping import Array, PyTree


def axes_of(array: Array) -> frozenset[str]:
    """The mesh axes over which an array inside `shard_map` varies; none elsewhere."""
    kind: Any = jax.typeof(array)
    marks = getattr(kind, "manual_axis_type", None)
    return frozenset(kind.vma if marks is None else marks.varying)


def alike(carry: PyTree, *seen: PyTree) -> PyTree:
    """The carry, every array of it marked as varying over all axes that any of these vary over.

    `shard_map` wants a loop to carry the same types in and out, and its start is often a
    constant: the same on all devices, where what the body makes of it is not. Elsewhere
    nothing changes.

    Args:
        carry: What a loop starts from, or what a branch returns: any pytree.
        *seen: What else the body uses.
    """
    axes = frozenset().union(*map(axes_of, _arrays((carry, seen))))

    def mark(leaf):
        missing = tuple(sorted(axes - axes_of(leaf))) if _is_array(leaf) else ()
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(mark, carry)


def _arrays(tree: PyTree) -> list[Array]:
    return [leaf for leaf in jax.tree.leaves(tree) if _is_array(leaf)]


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array)
