"""How costs between two clouds are laid out: over which devices, and in tiles of how many rows."""

import equinox as eqx
from jax.sharding import Mesh

from transportx import _checks

# Costs up to this many entries (64 MiB in float32) are held whole; more are streamed.
_HELD_ENTRIES = 2**24
# Entries of one tile: a few of them stay in a core's cache, and keep matrix products busy.
_TILE_ENTRIES = 2**20


@_checks.gate
class Layout(eqx.Module):
    """Layout of the costs between two clouds: over which devices, in tiles of how many rows.

    Example:
        >>> x = jnp.arange(6.0).reshape(6, 1)
        >>> layout = tx.geometry.Layout(tile=2)
        >>> cloud = tx.geometry.cloud_between(x, x + 1, layout=layout)
        >>> cloud.streams, float(cloud.mean_cost()) == float(jnp.mean(cloud.matrix()))
        (True, True)

    Attributes:
        mesh: Devices that share the costs, points lying over the mesh's one axis, of type Auto
            or Explicit; None for one device.
        tile: Rows of costs that a device holds at once, at least one. None picks it: all rows
            where their costs are few, else as many as have 2^20 costs.

    Raises:
        ValueError: The mesh has more than one axis, or `tile` is not a positive integer.
    """

    mesh: Mesh | None = eqx.field(static=True, default=None)
    tile: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        if self.mesh is not None:
            _checks.one_axis(self.mesh)
        if self.tile is not None:
            _checks.count("tile", self.tile)


def may_be_held(n: int, m: int, *, copies: int = 1) -> bool:
    """Whether so many costs are held whole by default.

    Args:
        n: Rows.
        m: Columns.
        copies: Arrays of as many entries that are held beside each other.
    """
    return n * m * copies <= _HELD_ENTRIES


def default_tile(n: int, m: int, *, copies: int = 1) -> int:
    """Rows to hold at once of so many, all of them where they `may_be_held`."""
    return n if may_be_held(n, m, copies=copies) else max(1, _TILE_ENTRIES // m)
