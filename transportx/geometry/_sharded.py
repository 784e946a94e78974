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
from transportx.geometry._cost import AbstractCost, Pointwise, Swapped
from transportx.geometry._costs import SquaredEuclidean
from transportx.geometry._fold import Operands, fold, whole_costs
from transportx.geometry._geometries import AbstractGeometry
from transportx.geometry._layout import Layout, default_tile, may_be_held
from transportx.geometry._merges import AbstractMerge
from transportx.geometry._point_cloud import AbstractCloud, PointCloud
from transportx.geometry._ring import Ring


@_checks.gate
class ShardedCloud(AbstractCloud):
    """A point cloud whose points lie over an axis of a mesh of devices.

    Every device keeps its own sources. Targets, and the arrays that belong to them, go around a
    ring of the devices: each device computes with the block that it has, whole or in tiles, and
    passes it on. No device ever holds all targets, nor costs beyond a tile. Plans, their
    products and derivatives are the same calls as for `PointCloud`, with memory
    O((n + m) d / devices) forwards and backwards. A device sends m (d + O(1)) numbers per
    product, of which a Sinkhorn step makes two; the derivatives of a product send twice as many
    more. Small problems (up to 2^24 costs per device) hold the costs of their rows; a product
    then sends O(n + m) numbers. Call it inside `jit`.

    Example:
        >>> mesh = jax.make_mesh((1,), ("data",))
        >>> x = jnp.array([[0.0], [1.0]])
        >>> @jax.jit
        ... def mean_cost(x):
        ...     cloud = tx.geometry.ShardedCloud(x, x, mesh=mesh, axes=("data", "data"))
        ...     return cloud.mean_cost()
        >>> float(mean_cost(x))
        0.5

    Attributes:
        x: Source points, shape (n, d); n is a multiple of the devices along the axis.
        y: Target points, shape (m, d); m is a multiple of the devices along the axis.
        cost: An `AbstractCost`, or any callable `cost(x, y) -> scalar`.
        mesh: Devices, with axes of type Auto or Explicit.
        axes: Names of the mesh axis that sources and that targets lie over; None for points
            that every device holds.
        tile: Rows of costs, with one device's targets, that a device holds at once. By default
            all of them up to 2^20 costs.
        centre: A point that costs are computed around, as if it were the origin, shape (d,); for
            costs that a translation does not change. By default a robust centre of all points.

    Raises:
        ValueError: A cloud is no matrix of real numbers, the dimensions differ, the mesh has no
            such axis, or its devices do not divide the points.
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
        """Costs between some of the points; every device then holds those of a restricted side.

        Where both sides are restricted the sources stay divided, if the devices divide them.

        Args:
            sources: Indices of the sources to keep, or a slice.
            targets: Indices of the targets to keep, or a slice; all by default.
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
        """Apply `function(costs, *rows)` to the rows of each device, whose costs it holds whole.

        Args:
            function: Acts on all rows at once; each row of its result may depend on the same row
                of its arguments alone.
            *rows: Arrays with leading axis n.
        """
        operands = self._operands(_as_they_are, (), self.x)
        costs = whole_costs(self._ring, self.tile, operands)
        return function(costs[: self.x.shape[0]], *rows)

    @_checks.gate
    def fold_tiles(
        self,
        merge: AbstractMerge,
        function: Callable[..., Any],
        columns: PyTree[Array],
        *rows: Array,
    ) -> PyTree[Array]:
        operands = self._operands(function, columns, self.x, *rows)
        folded = fold(self._ring, merge, self.tile, operands)
        return jax.tree.map(lambda leaf: leaf[: self.x.shape[0]], folded)

    def _operands(
        self, function: Callable[..., Any], columns: PyTree[Array], *rows: Array
    ) -> Operands:
        # One centre for all blocks: a block of padding would choose a bad one.
        rows, columns = released(self.mesh, (rows, columns))
        centre = self._shift() if self.cost.wants_centring(self.x.shape[1]) else None
        rows = tuple(self._rows(row) for row in rows)
        return Operands((self.cost, function, centre), rows, (self.y, columns))

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
    """A `PointCloud` on one device, or a `ShardedCloud` over the devices of a layout.

    Example:
        >>> x, y = jnp.array([[0.0], [1.0]]), jnp.array([[2.0]])
        >>> tx.geometry.cloud_between(x, y).matrix().tolist()
        [[4.0], [1.0]]
        >>> layout = tx.geometry.Layout(mesh=jax.make_mesh((1,), ("data",)))
        >>> type(tx.geometry.cloud_between(x, y, layout=layout)).__name__
        'ShardedCloud'

    Args:
        x: Source points, shape (n, d). Where the devices do not divide their number, every
            device holds all of them and computes some of their rows.
        y: Target points, shape (m, d); the number of devices divides m.
        cost: An `AbstractCost`, or any callable `cost(x, y) -> scalar`.
        layout: The devices that share the costs, and rows of costs that one holds at once.
        centre: A point that costs are computed around, as if it were the origin, shape (d,); for
            costs that a translation does not change. By default a robust centre of all points.

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
