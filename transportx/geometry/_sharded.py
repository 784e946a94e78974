"""Clouds whose points lie over the devices of a mesh."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jax.sharding import AxisType, Mesh, PartitionSpec
from jaxtyping import Array, Float, Int, PyTree

from transportx import _checks
from transportx.geometry._costs import AbstractCost, Pointwise, SquaredEuclidean, Swapped
from transportx.geometry._geometries import (
    AbstractCloud,
    AbstractGeometry,
    PointCloud,
    default_tile,
)


class ShardedCloud(AbstractCloud):
    """Costs between two clouds that lie over an axis of a mesh of devices.

    Every device visits the rows of its own sources, whole or in tiles, as `PointCloud` does;
    so plans, their products and derivatives are the same calls. Visiting gathers the targets
    and what belongs to them, m d + O(m) numbers a device, and never costs: communication is
    O((n + m) d) a Sinkhorn step, memory O((n + m) d / devices + m d). Call it inside `jit`.

    Attributes:
        x: Source points; their number is a multiple of the devices along the axis.
        y: Target points; likewise.
        cost: An `AbstractCost`, or any callable `cost(x, y) -> scalar`.
        mesh: Devices, with axes of type Auto.
        axes: Names of the mesh axis that sources and that targets lie over; None for points
            that every device holds.
        tile: Rows that a device holds at once; as in `PointCloud`, for its own sources.
    """

    x: Float[Array, "n d"]
    y: Float[Array, "m d"]
    cost: AbstractCost
    mesh: Mesh = eqx.field(static=True)
    axes: tuple[str | None, str | None] = eqx.field(static=True)
    tile: int = eqx.field(static=True)

    def __init__(
        self,
        x: Float[Array, "n d"],
        y: Float[Array, "m e"],
        cost: AbstractCost | Callable[[Array, Array], Array] = SquaredEuclidean(),
        *,
        mesh: Mesh,
        axes: tuple[str | None, str | None],
        tile: int | None = None,
    ):
        _checks.points("x", x)
        _checks.points("y", y)
        _checks.same_dimension("y", y, "x", x)
        for name, points, axis in zip("xy", (x, y), axes, strict=True):
            _check_placed(name, points, axis, mesh)
        if tile is not None:
            _checks.count("tile", tile)
        self.x = x
        self.y = y
        self.cost = cost if isinstance(cost, AbstractCost) else Pointwise(cost)
        self.mesh = mesh
        self.axes = axes
        self.tile = default_tile(self._num_rows, y.shape[0]) if tile is None else tile

    @property
    def _num_rows(self) -> int:
        """Sources of one device."""
        return self.x.shape[0] // _num_shards(self.mesh, self.axes[0])

    @property
    def streams(self) -> bool:
        return self._num_rows > self.tile

    @property
    def T(self) -> "ShardedCloud":
        tile = max(1, self.tile * self.y.shape[0] // self.x.shape[0])
        axes = self.axes[1], self.axes[0]
        return ShardedCloud(
            self.y, self.x, Swapped(self.cost), mesh=self.mesh, axes=axes, tile=tile
        )

    def restrict(
        self, sources: Int[Array, " k"] | slice, targets: Int[Array, " l"] | slice = slice(None)
    ) -> AbstractGeometry:
        """As elsewhere; every device then holds the points of a restricted side."""
        x, y = self.x[sources], self.y[targets]
        axis_x, axis_y = (
            axis if isinstance(chosen, slice) and chosen == slice(None) else None
            for chosen, axis in zip((sources, targets), self.axes, strict=True)
        )
        if axis_x is None and axis_y is None:
            return PointCloud(x, y, self.cost)
        return ShardedCloud(x, y, self.cost, mesh=self.mesh, axes=(axis_x, axis_y))

    def map_tiles(self, function: Callable[..., Any], *rows: Array) -> PyTree[Array]:
        gathered, rest = eqx.partition((function, self.y, self.cost), eqx.is_array)

        def visit(gathered, x, *rows):
            function, y, cost = eqx.combine(gathered, rest)
            return PointCloud(x, y, cost, tile=self.tile).map_tiles(function, *rows)

        axis = self.axes[0]
        if axis is None:
            return visit(gathered, self.x, *rows)
        whole, split = PartitionSpec(), PartitionSpec(axis)
        specs = (whole, split, *[split] * len(rows))
        mapped = jax.shard_map(visit, mesh=self.mesh, in_specs=specs, out_specs=split)
        return mapped(gathered, self.x, *rows)


def _num_shards(mesh: Mesh, axis: str | None) -> int:
    return 1 if axis is None else mesh.shape[axis]


def _check_placed(name: str, points: Array, axis: str | None, mesh: Mesh) -> None:
    """That the mesh has the axis, of the right type, and that it divides the points."""
    if axis is None:
        return
    if axis not in mesh.axis_names:
        _checks.reject("axes", f"names {axis!r}", f"give axes of the mesh: {mesh.axis_names}")
    if mesh.axis_types[mesh.axis_names.index(axis)] is not AxisType.Auto:
        cure = "make the mesh with axis_types=(jax.sharding.AxisType.Auto,) * its axes"
        _checks.reject("mesh", f"has axis {axis!r} of type Explicit or Manual", cure)
    if points.shape[0] % _num_shards(mesh, axis):
        cure = f"add points of weight zero up to a multiple of {_num_shards(mesh, axis)}"
        _checks.reject(name, f"has {points.shape[0]} points", cure)
