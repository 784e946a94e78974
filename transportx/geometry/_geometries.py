"""Geometries: every cost between two sets, held as a matrix or streamed in tiles of rows."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from transportx import _checks
from transportx._precision import common, working
from transportx.geometry._centre import centre_between
from transportx.geometry._costs import AbstractCost, Pointwise, SquaredEuclidean, Swapped
from transportx.geometry._forbidden import finite_part, forbidden
from transportx.geometry._layout import default_tile
from transportx.geometry._merges import AbstractMerge, Sum


class AbstractGeometry(eqx.Module):
    """Costs between n sources and m targets, visited in tiles of rows.

    A new geometry says its `shape`, its transpose `T`, whether it `streams`, how to
    restrict it to some points, and how `map_tiles` visits it; `fold_tiles` too, if its
    targets are not all in one place.
    """

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, int]:
        """(n, m)."""

    @property
    @abc.abstractmethod
    def dtype(self) -> np.dtype:
        """Of the points or entries: what `matrix` and `mean_cost` are returned in."""

    @property
    def working_dtype(self) -> np.dtype:
        """Of the costs that functions of tiles are given: float32 where `dtype` is a half."""
        return working(self.dtype)

    @property
    @abc.abstractmethod
    def streams(self) -> bool:
        """Whether costs are computed tile by tile, never held whole."""

    @property
    @abc.abstractmethod
    def T(self) -> "AbstractGeometry":
        """The same costs with sources and targets exchanged."""

    @abc.abstractmethod
    def restrict(
        self, sources: Int[Array, " k"] | slice, targets: Int[Array, " l"] | slice = slice(None)
    ) -> "AbstractGeometry":
        """Costs between some of the sources and some of the targets."""

    @_checks.gate
    def weighed(
        self, a: Float[Array, " n"] | None, b: Float[Array, " m"] | None
    ) -> "AbstractGeometry":
        """The same costs, computed as suits points of these weights.

        Points of weight zero may lie anywhere and shall not cost the others their digits.

        Args:
            a: Source weights; uniform by default.
            b: Target weights.
        """
        self._check_weights(a, b)
        return self

    def _check_weights(self, *weights: Array | None) -> None:
        for name, given, size in zip("ab", weights, self.shape, strict=True):
            if given is not None:
                _checks.shaped(name, given, (size,), "one weight per point")

    @abc.abstractmethod
    def map_tiles(self, function: Callable[..., Any], *rows: Array) -> PyTree[Array]:
        """Apply `function(costs (t, m), *rows of the tile)` to every tile of rows.

        Args:
            function: Acts on t rows at once; returns any pytree of arrays with leading
                axis t. Each row of its result may depend on the same row of its
                arguments alone.
            *rows: Arrays with leading axis n; each tile gets its own slices.

        Returns:
            The results, with leading axis n.
        """

    @_checks.gate
    def fold_tiles(
        self,
        merge: Sum | AbstractMerge,
        function: Callable[..., Any],
        columns: PyTree[Array],
        *rows: Array,
    ) -> PyTree[Array]:
        """Reduce over targets `function(columns (k,), costs (t, k), *rows of the tile)`.

        Targets come in blocks, all at once where one device has them: so nothing needs to
        hold whole rows of costs, nor all targets.

        Args:
            merge: How what two blocks give is joined.
            function: Acts on t rows and a block of k targets; returns the block's part, with
                leading axis t, row by row. Arrays that it needs beside those of rows and
                columns are bound to it by `eqx.Partial`: those of a closure would not
                differentiate on many devices.
            columns: Arrays with leading axis m; each block gets its own slices.
            *rows: Arrays with leading axis n; each tile gets its own slices.

        Returns:
            What all targets give, with leading axis n.
        """
        return self.map_tiles(eqx.Partial(function, columns), *rows)

    @_checks.gate
    def map_rows(self, function: Callable[..., Any], *rows: Array) -> PyTree[Array]:
        """Apply `function(costs (m,), *row)` to every row of costs."""
        return self.map_tiles(eqx.Partial(_every_row, function), *rows)

    @_checks.gate
    def fold_rows(
        self,
        merge: Sum | AbstractMerge,
        function: Callable[..., Any],
        columns: PyTree[Array],
        *rows: Array,
    ) -> PyTree[Array]:
        """`fold_tiles` of `function(columns (k,), costs (k,), *row)` of every row of costs."""
        return self.fold_tiles(merge, eqx.Partial(_every_part, function), columns, *rows)

    def matrix(self) -> Float[Array, "n m"]:
        """All costs at once: n m numbers, whether the geometry streams or not."""
        return self.working_matrix().astype(self.dtype)

    def working_matrix(self) -> Float[Array, "n m"]:
        """`matrix` in the `working_dtype`: what to compute with."""
        return self.map_tiles(lambda costs: costs)

    @_checks.gate
    def mean_cost(
        self, a: Float[Array, " n"] | None = None, b: Float[Array, " m"] | None = None
    ) -> Float[Array, ""]:
        """Mean absolute cost between independent points: what to measure epsilon by.

        Over the pairs that may carry something: infinite costs are left out.

        Args:
            a: Source weights; uniform by default.
            b: Target weights.
        """
        weighed = self if a is None and b is None else self.weighed(a, b)
        a, b = (
            _shares(weights, size, self.working_dtype)
            for weights, size in zip((a, b), self.shape, strict=True)
        )
        sums = weighed.fold_tiles(Sum(), _absolute_and_share, b)
        total, share = jnp.matmul(a, sums, precision=jax.lax.Precision.HIGHEST)
        return (total / share).astype(self.dtype)

    @_checks.gate
    def reach(self, b: Float[Array, " m"]) -> Float[Array, " n"]:
        """The mass of the targets that each source may send to: those at a finite cost.

        Args:
            b: Target weights.
        """
        self._check_weights(None, b)
        return self.fold_tiles(Sum(), _reachable, b.astype(self.working_dtype))


def _every_row(function: Callable[..., Any], costs: Array, *rows: Array) -> PyTree[Array]:
    return jax.vmap(function)(costs, *rows)


def _every_part(
    function: Callable[..., Any], columns: PyTree[Array], costs: Array, *rows: Array
) -> PyTree[Array]:
    return jax.vmap(eqx.Partial(function, columns))(costs, *rows)


def _shares(weights: Array | None, size: int, dtype: Any) -> Array:
    """Weights of total one, uniform by default: to divide before summing, not after."""
    if weights is None:
        return jnp.full(size, 1 / size, dtype)
    weights = weights.astype(dtype)
    return weights / jnp.sum(weights)


def _absolute_and_share(b: Array, costs: Array) -> Array:
    """Of each row the mean absolute cost, and the mass of what it is over."""
    sizes = jnp.abs(finite_part(costs)) * b[None, :]
    return jnp.stack([jnp.sum(sizes, axis=1), _reachable(b, costs)], axis=1)


def _reachable(b: Array, costs: Array) -> Array:
    return jnp.sum(jnp.where(forbidden(costs), 0, b[None, :]), axis=1)


@_checks.gate
class CostMatrix(AbstractGeometry):
    """Costs given as an (n, m) matrix; infinite ones forbid a pair."""

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
    def dtype(self) -> np.dtype:
        return self.costs.dtype

    @property
    def streams(self) -> bool:
        return False

    @property
    def T(self) -> "CostMatrix":
        return CostMatrix(self.costs.T)

    @_checks.gate
    def restrict(
        self, sources: Int[Array, " k"] | slice, targets: Int[Array, " l"] | slice = slice(None)
    ) -> "CostMatrix":
        return CostMatrix(self.costs[sources][:, targets])

    @_checks.gate
    def map_tiles(self, function: Callable[..., Any], *rows: Array) -> PyTree[Array]:
        return function(self.costs.astype(self.working_dtype), *rows)


class AbstractCloud(AbstractGeometry):
    """Costs between points: of sources `x` and targets `y`, by `cost`."""

    x: eqx.AbstractVar[Float[Array, "n d"]]
    y: eqx.AbstractVar[Float[Array, "m d"]]
    cost: eqx.AbstractVar[AbstractCost]
    centre: eqx.AbstractVar[Float[Array, " d"] | None]

    @property
    def shape(self) -> tuple[int, int]:
        return self.x.shape[0], self.y.shape[0]

    @property
    def dtype(self) -> np.dtype:
        return self.x.dtype

    @_checks.gate
    def weighed(
        self, a: Float[Array, " n"] | None, b: Float[Array, " m"] | None
    ) -> "AbstractCloud":
        self._check_weights(a, b)
        if not self.cost.translation_invariant:
            return self
        x, y = (points.astype(self.working_dtype) for points in (self.x, self.y))
        return eqx.tree_at(
            lambda cloud: cloud.centre, self, centre_between(x, y, a, b), is_leaf=_is_none
        )

    def _shift(self) -> Float[Array, " d"]:
        """Where to centre the points: as `weighed` found, or as if all of them counted."""
        if self.centre is None:
            x, y = (points.astype(self.working_dtype) for points in (self.x, self.y))
            return centre_between(x, y)
        return jax.lax.stop_gradient(self.centre)

    @abc.abstractmethod
    def moved(self, x: Float[Array, "k d"]) -> "AbstractCloud":
        """Costs between other sources and the same targets."""


@_checks.gate
class PointCloud(AbstractCloud):
    """Costs between two clouds, computed when asked for.

    Below `tile` rows the costs are one matrix; above, rows are visited in tiles of that
    many, recomputed in the backward pass, so that memory stays O(n + m) in both directions.

    Attributes:
        x: Source points.
        y: Target points.
        cost: An `AbstractCost`, or any callable `cost(x, y) -> scalar`.
        tile: Rows held at once. By default all of them up to 2^24 costs, and beyond as
            many as keep a tile within 2^20.
        centre: Where costs are computed as if it were the origin, which none depends on;
            by default a robust centre of all points. As `weighed` gives it.
    """

    x: Float[Array, "n d"]
    y: Float[Array, "m d"]
    cost: AbstractCost
    tile: int = eqx.field(static=True)
    centre: Float[Array, " d"] | None

    def __init__(
        self,
        x: Float[Array, "n d"],
        y: Float[Array, "m e"],
        cost: AbstractCost | Callable[[Array, Array], Array] = SquaredEuclidean(),
        *,
        tile: int | None = None,
        centre: Float[Array, " d"] | None = None,
    ):
        _checks.points("x", x)
        _checks.points("y", y)
        _checks.same_dimension("y", y, "x", x)
        if tile is not None:
            _checks.count("tile", tile)
        self.x, self.y = (points.astype(common(x.dtype, y.dtype)) for points in (x, y))
        self.cost = cost if isinstance(cost, AbstractCost) else Pointwise(cost)
        self.tile = default_tile(x.shape[0], y.shape[0]) if tile is None else tile
        self.centre = centre

    @property
    def streams(self) -> bool:
        return self.x.shape[0] > self.tile

    @property
    def T(self) -> "PointCloud":
        entries = self.tile * self.y.shape[0]
        tile = max(1, entries // self.x.shape[0])
        return PointCloud(self.y, self.x, Swapped(self.cost), tile=tile, centre=self.centre)

    @_checks.gate
    def restrict(
        self, sources: Int[Array, " k"] | slice, targets: Int[Array, " l"] | slice = slice(None)
    ) -> "PointCloud":
        return PointCloud(self.x[sources], self.y[targets], self.cost, centre=self.centre)

    @_checks.gate
    def moved(self, x: Float[Array, "k d"]) -> "PointCloud":
        return PointCloud(x, self.y, self.cost, centre=self.centre)

    @_checks.gate
    def map_tiles(self, function: Callable[..., Any], *rows: Array) -> PyTree[Array]:
        x, y = (points.astype(self.working_dtype) for points in (self.x, self.y))
        if self.cost.wants_centring(x.shape[1]):
            x, y = self.centred()
        if not self.streams:
            return function(self.cost.matrix(x, y), *rows)
        n = x.shape[0]
        count = -(-n // self.tile)
        size = -(-n // count)

        def split(array):
            # The last tile is filled up with copies of the last row, dropped again below.
            padding = [(0, count * size - n), *[(0, 0)] * (array.ndim - 1)]
            return jnp.pad(array, padding, mode="edge").reshape(count, size, *array.shape[1:])

        # Held with coordinates first, so that a cost reads each of them without gaps.
        coordinates = y.T

        def visit(tile):
            points, *others = tile
            return function(self.cost.matrix(points, coordinates.T), *others)

        # Inside a scan nothing can merge the recomputation with the first pass.
        visit = jax.checkpoint(visit, prevent_cse=False)
        tiles = jax.lax.map(visit, (split(x), *map(split, rows)))
        return jax.tree.map(lambda leaf: leaf.reshape(count * size, *leaf.shape[2:])[:n], tiles)

    def centred(self) -> tuple[Float[Array, "n d"], Float[Array, "m d"]]:
        """Both clouds in the `working_dtype`, the same vector taken off all points."""
        centre = self._shift()[None, :]
        x, y = (points.astype(self.working_dtype) for points in (self.x, self.y))
        return x - centre, y - centre


def _is_none(leaf: Any) -> bool:
    return leaf is None
