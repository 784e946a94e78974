"""Geometries: every cost between two sets, visited in tiles of rows; held as a matrix."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from transportx import _checks
from transportx._precision import working
from transportx.geometry._forbidden import finite_part, forbidden
from transportx.geometry._merges import AbstractMerge, Sum


class AbstractGeometry(eqx.Module):
    """A geometry: all costs between n sources and m targets, visited in tiles of rows.

    Implementing a geometry:
        - `shape`, `dtype` and `streams` say how many costs there are and whether they are held;
        - `T` and `restrict` give the transposed costs, and those between some of the points;
        - `map_tiles` applies a function to tiles of whole rows;
        - `fold_tiles` too, if not all targets lie on one device.
    """

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, int]:
        """The number of sources and the number of targets, (n, m)."""

    @property
    @abc.abstractmethod
    def dtype(self) -> np.dtype:
        """The dtype of the points or entries: what `matrix` and `mean_cost` are returned in."""

    @property
    def working_dtype(self) -> np.dtype:
        """The dtype of the costs that `map_tiles` hands out: float32 where `dtype` is a half."""
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
        """Costs between some of the sources and some of the targets.

        Args:
            sources: Indices of the sources to keep, or a slice.
            targets: Indices of the targets to keep, or a slice; all by default.
        """

    @_checks.gate
    def weighed(
        self, a: Float[Array, " n"] | None, b: Float[Array, " m"] | None
    ) -> "AbstractGeometry":
        """The same costs, computed accurately between the points that have weight.

        Points of weight zero may lie anywhere: the others lose no digits to them.

        Args:
            a: Source weights, shape (n,); None for uniform ones.
            b: Target weights, shape (m,); None for uniform ones.
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

        The backward pass computes the costs of a tile again, so that memory stays O(n + m).

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
        merge: AbstractMerge,
        function: Callable[..., Any],
        columns: PyTree[Array],
        *rows: Array,
    ) -> PyTree[Array]:
        """Reduce over targets `function(columns (k,), costs (t, k), *rows of the tile)`.

        Targets come in blocks, so that nothing needs to hold whole rows of costs, nor all
        targets. One device visits all of its targets as one block.

        Args:
            merge: How the results of two blocks are joined, a merge of `geometry.internal`.
            function: Acts on t rows and a block of k targets; returns the block's result, with
                leading axis t, row by row. Bind arrays that it needs beside those of rows and
                columns with `eqx.Partial`: those of a closure would not differentiate on many
                devices.
            columns: Arrays with leading axis m; each block gets its own slices.
            *rows: Arrays with leading axis n; each tile gets its own slices.

        Returns:
            The joined results, with leading axis n.

        Raises:
            ValueError: The merge does not join what `function` returns.
        """
        whole = self.map_tiles(eqx.Partial(function, columns), *rows)
        merge.check(whole)
        return whole

    @_checks.gate
    def map_rows(self, function: Callable[..., Any], *rows: Array) -> PyTree[Array]:
        """Apply `function(costs (m,), *row)` to every row of costs.

        Args:
            function: Acts on one row; returns any pytree of arrays.
            *rows: Arrays with leading axis n; each call gets one row of each.
        """
        return self.map_tiles(eqx.Partial(_every_row, function), *rows)

    @_checks.gate
    def fold_rows(
        self,
        merge: AbstractMerge,
        function: Callable[..., Any],
        columns: PyTree[Array],
        *rows: Array,
    ) -> PyTree[Array]:
        """Reduce over targets `function(columns (k,), costs (k,), *row)`, row by row.

        Args:
            merge: How the results of two blocks are joined, a merge of `geometry.internal`.
            function: Acts on one row and a block of k targets; returns the block's result.
            columns: Arrays with leading axis m; each block gets its own slices.
            *rows: Arrays with leading axis n; each call gets one row of each.
        """
        return self.fold_tiles(merge, eqx.Partial(_every_part, function), columns, *rows)

    def matrix(self) -> Float[Array, "n m"]:
        """The matrix of all costs: n m numbers, whether the geometry streams or not."""
        return self.working_matrix().astype(self.dtype)

    def working_matrix(self) -> Float[Array, "n m"]:
        """The matrix of all costs in the `working_dtype`: what to compute with."""
        return self.map_tiles(lambda costs: costs)

    @_checks.gate
    def mean_cost(
        self, a: Float[Array, " n"] | None = None, b: Float[Array, " m"] | None = None
    ) -> Float[Array, ""]:
        """The mean absolute cost between independent points: what to measure epsilon by.

        Pairs at an infinite cost are left out.

        Args:
            a: Source weights, shape (n,); uniform by default.
            b: Target weights, shape (m,); uniform by default.
        """
        weighed = self if a is None and b is None else self.weighed(a, b)
        a, b = (
            _shares(weights, size, self.working_dtype)
            for weights, size in zip((a, b), self.shape, strict=True)
        )
        sums = weighed.fold_tiles(Sum(), _absolute_and_share, b)
        total, share = jnp.matmul(a, sums, precision=jax.lax.Precision.HIGHEST)
        return (total / share).astype(self.dtype)


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
    """The weighed sum of absolute costs of each row, and the weight of the pairs in it."""
    sizes = jnp.abs(finite_part(costs)) * b[None, :]
    allowed = jnp.where(forbidden(costs), 0, b[None, :])
    return jnp.stack([jnp.sum(sizes, axis=1), jnp.sum(allowed, axis=1)], axis=1)


@_checks.gate
class CostMatrix(AbstractGeometry):
    """A cost matrix: the costs themselves, held whole.

    Example:
        >>> geometry = tx.geometry.CostMatrix(jnp.array([[0.0, 1.0], [jnp.inf, 2.0]]))
        >>> plan = tx.ot.solve(geometry, epsilon=0.1)
        >>> float(plan.matrix()[1, 0])  # an infinite cost forbids a pair
        0.0

    Attributes:
        costs: Costs, shape (n, m), of a floating dtype; infinite ones forbid a pair.

    Raises:
        ValueError: `costs` is no matrix of real numbers.
    """

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
