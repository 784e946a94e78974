"""Clouds whose points lie over the devices of a mesh."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PyTree

from transportx import _checks
from transportx._meshes import automatic, released
from transportx._precision import common
from transportx.geometry._costs import AbstractCost, Pointwise, SquaredEuclidean, Swapped
from transportx.geometry._fold import Given, fold, whole_costs
from transportx.geometry._geometries import AbstractCloud, AbstractGeometry, PointCloud
from transportx.geometry._layout import Layout, default_tile, may_be_held
from transportx.geometry._merges import AbstractMerge, Sum
from transportx.geometry._ring import Ring


@_checks.gate
class ShardedCloud(AbstractCloud):
    """Costs between two clouds that lie over an axis of a mesh of devices.

    Every device keeps its own sources. Targets, and what belongs to them, go around a ring
    of the devices: each visits the block that it has, whole or in tiles, and passes it on.
    No device ever holds all targets, nor costs beyond a tile: plans, their products and
    derivatives are the same calls as for `PointCloud`, with memory O((n + m) d / devices)
    both ways. A device sends m (d + O(1)) numbers for a product, which a Sinkhorn step
    has two of; its derivatives visit once more and send twice as many. Small
    problems (up to 2^24 costs a device) hold the costs of their rows; a product then moves
    O(n + m) numbers. Call it inside `jit`.

    Attributes:
        x: Source points; their number is a multiple of the devices along the axis.
        y: Target points; likewise.
        cost: An `AbstractCost`, or any callable `cost(x, y) -> scalar`.
        mesh: Devices, with axes of type Auto or Explicit.
        axes: Names of the mesh axis that sources and that targets lie over; None for points
            that every device holds.
        tile: Rows that a device holds at once of their costs with one device's targets. By
            default all of them up to 2^20 costs.
        centre: As in `PointCloud`.
    """

    x: Float[Array, "n d"]
    y: Float[Array, "m d"]
    cost: AbstractCost
    mesh: Mesh = eqx.field(static=True)
    axes: tuple[str | None, str | None] = eqx.field(static=True)
    tile: int = eqx.field(static=True)
    centre: Float[Array, " d"] | None

    def __init__(
        self,
        x: Float[Array, "n d"],
        y: Float[Array, "m e"],
        cost: AbstractCost | Callable[[Array, Array], Array] = SquaredEuclidean(),
        *,
        mesh: Mesh,
        axes: tuple[str | None, str | None],
        tile: int | None = None,
        centre: Float[Array, " d"] | None = None,
    ):
        _checks.points("x", x)
        _checks.points("y", y)
        _checks.same_dimension("y", y, "x", x)
        for name, points, axis in zip("xy", (x, y), axes, strict=True):
            _check_placed(name, points, axis, mesh)
        if tile is not None:
            _checks.count("tile", tile)
        mesh = automatic(mesh)
        dtype = common(x.dtype, y.dtype)
        self.x, self.y = (released(mesh, points.astype(dtype)) for points in (x, y))
        self.cost = cost if isinstance(cost, AbstractCost) else Pointwise(cost)
        self.mesh = mesh
        self.axes = axes
        self.centre = centre
        self.tile = self._default_tile() if tile is None else tile

    def _default_tile(self) -> int:
        rows, columns = self._block
        if may_be_held(rows, self.y.shape[0]):
            return rows
        return min(rows, default_tile(2**62, columns))

    @property
    def _ring(self) -> Ring:
        """Sources lie over the axis of the targets too: no two devices do the same work."""
        row_axes = tuple(dict.fromkeys(axis for axis in self.axes if axis is not None))
        return Ring(self.mesh, row_axes, self.axes[1])

    @property
    def _block(self) -> tuple[int, int]:
        """Sources of one device, and the targets that it meets at once."""
        n, m = self.shape
        return -(-n // self._ring.num_rows), m // self._ring.num_columns

    @property
    def streams(self) -> bool:
        rows, _ = self._block
        return rows > self.tile or not may_be_held(rows, self.y.shape[0])

    @property
    def T(self) -> "ShardedCloud":
        rows, columns = self._block
        tile = max(1, self.tile * columns // rows)
        axes = self.axes[1], self.axes[0]
        options = {"mesh": self.mesh, "axes": axes, "tile": tile, "centre": self.centre}
        return ShardedCloud(self.y, self.x, Swapped(self.cost), **options)

    @_checks.gate
    def restrict(
        self, sources: Int[Array, " k"] | slice, targets: Int[Array, " l"] | slice = slice(None)
    ) -> AbstractGeometry:
        """As elsewhere; every device then holds the points of a restricted side.

        Of two restricted sides the sources stay divided, where they can be.
        """
        x, y = self.x[sources], self.y[targets]
        axis_x, axis_y = (
            axis if isinstance(chosen, slice) and chosen == slice(None) else None
            for chosen, axis in zip((sources, targets), self.axes, strict=True)
        )
        if axis_x is None and axis_y is None:
            axis_x = self.axes[0]
            if x.shape[0] % _num_shards(self.mesh, axis_x):
                return PointCloud(x, y, self.cost, centre=self.centre)
        return self._between(x, y, (axis_x, axis_y))

    @_checks.gate
    def moved(self, x: Float[Array, "k d"]) -> "ShardedCloud":
        return self._between(x, self.y, (None, self.axes[1]))

    def _between(self, x: Array, y: Array, axes: tuple[str | None, str | None]) -> "ShardedCloud":
        """Costs between other points, which lie over these axes."""
        return ShardedCloud(x, y, self.cost, mesh=self.mesh, axes=axes, centre=self.centre)

    @_checks.gate
    def map_tiles(self, function: Callable[..., Any], *rows: Array) -> PyTree[Array]:
        """As elsewhere; but each device holds its rows of costs whole."""
        given = self._given(_as_they_are, (), self.x)
        costs = whole_costs(self._ring, self.tile, given)
        return function(costs[: self.x.shape[0]], *rows)

    @_checks.gate
    def fold_tiles(
        self,
        merge: Sum | AbstractMerge,
        function: Callable[..., Any],
        columns: PyTree[Array],
        *rows: Array,
    ) -> PyTree[Array]:
        given = self._given(function, columns, self.x, *rows)
        folded = fold(self._ring, merge, self.tile, given)
        return jax.tree.map(lambda leaf: leaf[: self.x.shape[0]], folded)

    def _given(self, function: Callable[..., Any], columns: PyTree[Array], *rows: Array) -> Given:
        # One centre for all blocks: a block of padding would choose a bad one.
        rows, columns = released(self.mesh, (rows, columns))
        wanted = self.cost.wants_centring(self.y.shape[1])
        centre = self._shift() if wanted else None
        rows = tuple(self._rows(row) for row in rows)
        return Given((self.cost, function, centre), rows, (self.y, columns))

    def _rows(self, array: Array) -> Array:
        """The array, filled up with copies of the last row to what the devices divide."""
        n, blocks = array.shape[0], self._ring.num_rows
        if n % blocks == 0:
            return array
        return array[jnp.minimum(jnp.arange(-(-n // blocks) * blocks), n - 1)]


@_checks.gate
def cloud_between(
    x: Float[Array, "n d"],
    y: Float[Array, "m e"],
    cost: AbstractCost | Callable[[Array, Array], Array] = SquaredEuclidean(),
    *,
    layout: Layout = Layout(),
    centre: Float[Array, " d"] | None = None,
) -> AbstractCloud:
    """Costs between two clouds: of one device, or shared by those of a mesh.

    Args:
        x: Source points; a number that the devices do not divide is filled up.
        y: Target points; the devices divide their number.
        cost: An `AbstractCost`, or any callable `cost(x, y) -> scalar`.
        layout: The devices that share the costs, and rows of costs that one holds at once.
        centre: A point near those that count, to compute costs around; robust by default.

    Raises:
        ValueError: A cloud is no matrix of real numbers, the dimensions differ, or the devices
            do not divide the targets.
    """
    mesh, tile = layout.mesh, layout.tile
    if mesh is None:
        return PointCloud(x, y, cost, tile=tile, centre=centre)
    _checks.points("x", x)
    _checks.divided("y", y, mesh)
    (axis,) = mesh.axis_names
    axis_x = None if x.shape[0] % mesh.size else axis
    axes = axis_x, axis
    return ShardedCloud(x, y, cost, mesh=mesh, axes=axes, tile=tile, centre=centre)


def _as_they_are(columns: tuple[()], costs: Array) -> Array:
    return costs


def _num_shards(mesh: Mesh, axis: str | None) -> int:
    return 1 if axis is None else mesh.shape[axis]


def _check_placed(name: str, points: Array, axis: str | None, mesh: Mesh) -> None:
    """That the mesh has the axis, of the right type, and that it divides the points."""
    if axis is None:
        return
    if axis not in mesh.axis_names:
        _checks.reject("axes", f"names {axis!r}", f"give axes of the mesh: {mesh.axis_names}")
    _checks.own_axis(mesh, axis)
    if points.shape[0] % _num_shards(mesh, axis):
        cure = f"add points of weight zero up to a multiple of {_num_shards(mesh, axis)}"
        _checks.reject(name, f"has {points.shape[0]} points", cure)
