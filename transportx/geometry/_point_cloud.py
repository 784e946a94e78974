"""Point clouds: every cost between two sets of points, computed when asked for."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from transportx import _checks
from transportx._precision import common
from transportx.geometry._centre import centre_between
from transportx.geometry._cost import AbstractCost, Pointwise, Swapped
from transportx.geometry._costs import SquaredEuclidean
from transportx.geometry._geometries import AbstractGeometry
from transportx.geometry._layout import default_tile


class AbstractCloud(AbstractGeometry):
    """A geometry of points: costs between sources and targets, on one device or many.

    Attributes:
        x: Source points, shape (n, d).
        y: Target points, shape (m, d).
        cost: The cost between two points.
        centre: A point that costs are computed around, as if it were the origin, shape (d,).
    """

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
        centre = centre_between(*self._points(), a, b)
        return eqx.tree_at(lambda cloud: cloud.centre, self, centre, is_leaf=_is_none)

    def _points(self) -> tuple[Float[Array, "n d"], Float[Array, "m d"]]:
        """Both clouds in the `working_dtype`."""
        return self.x.astype(self.working_dtype), self.y.astype(self.working_dtype)

    def _shift(self) -> Float[Array, " d"]:
        """Where to centre the points: as `weighed` found, or as if all of them counted."""
        if self.centre is None:
            return centre_between(*self._points())
        return jax.lax.stop_gradient(self.centre)

    def centred(self) -> tuple[Float[Array, "n d"], Float[Array, "m d"]]:
        """Both clouds in the `working_dtype`, shifted by the same vector to lie around zero."""
        x, y = self._points()
        centre = self._shift()[None, :]
        return x - centre, y - centre

    @abc.abstractmethod
    def moved(self, x: Float[Array, "k d"]) -> "AbstractCloud":
        """Costs between other sources and the same targets.

        Args:
            x: The other sources, shape (k, d).
        """


@_checks.gate
class PointCloud(AbstractCloud):
    """A point cloud: the costs between two sets of points, computed from the points.

    Up to `tile` rows the costs are one matrix. Above, they are streamed: rows are visited in
    tiles of that many and recomputed in the backward pass, so that memory stays O(n + m) in
    both directions.

    Example:
        >>> x, y = jnp.array([[0.0], [1.0]]), jnp.array([[0.0], [3.0]])
        >>> cloud = tx.geometry.PointCloud(x, y)
        >>> cloud.matrix().tolist()
        [[0.0, 9.0], [1.0, 4.0]]
        >>> plan = tx.ot.solve(cloud, epsilon=0.1)
        >>> bool(plan.converged)
        True

    Attributes:
        x: Source points, shape (n, d).
        y: Target points, shape (m, d).
        cost: An `AbstractCost`, or any callable `cost(x, y) -> scalar`.
        tile: Rows of costs held at once. By default all of them up to 2^24 costs, and beyond as
            many as keep a tile within 2^20 costs.
        centre: A point that costs are computed around, as if it were the origin, shape (d,); for
            costs that a translation does not change. By default a robust centre of all points.

    Raises:
        ValueError: A cloud is no matrix of real numbers, the dimensions differ, or `tile` is not
            a positive integer.
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
        wants_centring = self.cost.wants_centring(self.x.shape[1])
        x, y = self.centred() if wants_centring else self._points()
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


def _is_none(leaf: Any) -> bool:
    return leaf is None
