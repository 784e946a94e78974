"""Geometries: every cost between two sets, held as a matrix or streamed in tiles of rows."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from transportx import _checks
from transportx.geometry._costs import AbstractCost, Pointwise, SquaredEuclidean, Swapped

# Entries of one tile. 2^22 float32 entries are 16 MiB: large enough to keep matrix
# products busy, small enough that a few live at once.
_TILE_ENTRIES = 2**22


class AbstractGeometry(eqx.Module):
    """Costs between n sources and m targets, visited row by row.

    A new geometry says its `shape`, its transpose `T`, and how `map_rows` visits it.
    """

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, int]:
        """(n, m)."""

    @property
    @abc.abstractmethod
    def T(self) -> "AbstractGeometry":
        """The same costs with sources and targets exchanged."""

    @abc.abstractmethod
    def map_rows(self, function: Callable[..., Any], *rows: Array) -> PyTree[Array]:
        """Apply `function(costs (m,), *row)` to every row of costs.

        Args:
            function: Acts on one row; returns any pytree of arrays.
            *rows: Arrays with leading axis n; each call gets its own slice.

        Returns:
            The results, stacked along a leading axis n.
        """

    def matrix(self) -> Float[Array, "n m"]:
        """All costs at once: n m numbers, whether the geometry streams or not."""
        return self.map_rows(lambda costs: costs)


class CostMatrix(AbstractGeometry):
    """Costs given as an (n, m) matrix."""

    costs: Float[Array, "n m"]

    def __check_init__(self):
        if self.costs.ndim != 2 or 0 in self.costs.shape:
            _checks.reject("costs", f"has shape {self.costs.shape}", "give a matrix, shape (n, m)")
        _checks.floating("costs", self.costs)

    @property
    def shape(self) -> tuple[int, int]:
        n, m = self.costs.shape
        return n, m

    @property
    def T(self) -> "CostMatrix":
        return CostMatrix(self.costs.T)

    def map_rows(self, function: Callable[..., Any], *rows: Array) -> PyTree[Array]:
        return jax.vmap(function)(self.costs, *rows)


class PointCloud(AbstractGeometry):
    """Costs between two clouds, computed when asked for.

    Below `tile` rows the costs are one matrix; above, rows are visited in tiles of that
    many, recomputed in the backward pass, so that memory stays O(n + m) in both directions.

    Attributes:
        x: Source points.
        y: Target points.
        cost: An `AbstractCost`, or any callable `cost(x, y) -> scalar`.
        tile: Rows held at once. By default as many as keep a tile within 2^22 entries.
    """

    x: Float[Array, "n d"]
    y: Float[Array, "m d"]
    cost: AbstractCost
    tile: int = eqx.field(static=True)

    def __init__(
        self,
        x: Float[Array, "n d"],
        y: Float[Array, "m e"],
        cost: AbstractCost | Callable[[Array, Array], Array] = SquaredEuclidean(),
        *,
        tile: int | None = None,
    ):
        _checks.points("x", x)
        _checks.points("y", y)
        _checks.same_dimension("y", y, "x", x)
        if tile is not None:
            _checks.count("tile", tile)
        self.x = x
        self.y = y
        self.cost = cost if isinstance(cost, AbstractCost) else Pointwise(cost)
        self.tile = max(1, _TILE_ENTRIES // y.shape[0]) if tile is None else tile

    @property
    def shape(self) -> tuple[int, int]:
        return self.x.shape[0], self.y.shape[0]

    @property
    def T(self) -> "PointCloud":
        entries = self.tile * self.y.shape[0]
        tile = max(1, entries // self.x.shape[0])
        return PointCloud(self.y, self.x, Swapped(self.cost), tile=tile)

    def map_rows(self, function: Callable[..., Any], *rows: Array) -> PyTree[Array]:
        x, y = self._centred()
        if x.shape[0] <= self.tile:
            return jax.vmap(function)(self.cost.matrix(x, y), *rows)

        @jax.checkpoint
        def visit(row):
            point, *others = row
            return function(self.cost.matrix(point[None, :], y)[0], *others)

        return jax.lax.map(visit, (x, *rows), batch_size=self.tile)

    def _centred(self) -> tuple[Float[Array, "n d"], Float[Array, "m d"]]:
        if not self.cost.translation_invariant:
            return self.x, self.y
        centre = jax.lax.stop_gradient((jnp.mean(self.x, axis=0) + jnp.mean(self.y, axis=0)) / 2)
        return self.x - centre[None, :], self.y - centre[None, :]
