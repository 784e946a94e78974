"""Meshes whose axes are explicit: used as if the compiler placed arrays, which it then does."""

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree


def automatic(mesh: Mesh) -> Mesh:
    """The mesh with all axes of type Auto; `jax.make_mesh` makes Explicit ones by default."""
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))


def explicit(array: Array) -> bool:
    """Whether the type of an array names explicit axes of a mesh."""
    kind: Any = jax.typeof(array)
    return AxisType.Explicit in kind.sharding.mesh.axis_types


def beside(batch: Array, tree: PyTree) -> PyTree:
    """Arrays with a leading axis like that of a batch, laid out over explicit axes as it is.

    What is drawn for a batch lies on no axis, and `vmap` wants all its arguments to lie alike.

    Args:
        batch: Examples, shape (b, ...).
        tree: Any pytree of arrays, shape (b, ...).
    """
    if not explicit(batch):
        return tree
    kind: Any = jax.typeof(batch)
    first = PartitionSpec(kind.sharding.spec[0])
    return jax.tree.map(lambda leaf: jax.sharding.reshard(leaf, first), tree)


def released(mesh: Mesh | None, tree: PyTree) -> PyTree:
    """The arrays where they are, but free to be placed by the compiler from here on.

    Args:
        mesh: Their devices; None leaves all arrays as they are.
        tree: Any pytree; arrays without explicit axes stay as they are.
    """
    if mesh is None:
        return tree
    placed = automatic(mesh)

    def release(leaf):
        if not (isinstance(leaf, jax.Array) and explicit(leaf)):
            return leaf
        kind: Any = jax.typeof(leaf)
        return jax.device_put(leaf, NamedSharding(placed, kind.sharding.spec))

    return jax.tree.map(release, tree)
