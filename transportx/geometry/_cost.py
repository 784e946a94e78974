"""What a cost is: a number per pair of points, and all of them between two clouds."""

import abc
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
from jaxtyping import Array, Float

from transportx import _checks

Point = Float[Array, " d"]
Scalar = Float[Array, ""]


class AbstractCost(eqx.Module):
    """A ground cost: what it takes to move a point x onto a point y.

    An infinite cost forbids a pair: plans put nothing there.

    Implementing a cost:
        - `__call__` gives the cost of one pair of points;
        - `matrix` gives all costs between two clouds, without an (n, m, d) array;
        - `translation_invariant` says whether moving both points by one vector changes nothing.

    A cost known pair by pair alone subclasses `AbstractPointwiseCost`, which needs no `matrix`.

    Attributes:
        translation_invariant: Whether c(x + v, y + v) = c(x, y) for every vector v. Geometries
            then centre their clouds where the cost `wants_centring`, which keeps float32
            accurate far from the origin.
    """

    translation_invariant: eqx.AbstractVar[bool]

    @_checks.gate
    def wants_centring(self, dim: int) -> bool:
        """Whether costs in `dim` coordinates round less if points are near the origin.

        They do not where differences of coordinates are computed first.
        """
        del dim
        return self.translation_invariant

    @abc.abstractmethod
    def __call__(self, x: Point, y: Point) -> Scalar:
        """The cost of moving `x` onto `y`, two points of shape (d,): one number."""

    @abc.abstractmethod
    def matrix(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        """The matrix of costs between two clouds; O(n m d) operations, no (n, m, d) array.

        Args:
            x: Sources, one point per row.
            y: Targets, one point per row.
        """


class AbstractPointwiseCost(AbstractCost):
    """A cost known pair by pair: subclasses write `__call__` and `translation_invariant` alone.

    Example:
        >>> class Directed(tx.geometry.AbstractPointwiseCost):
        ...     translation_invariant = True
        ...
        ...     def __call__(self, x, y):
        ...         return jnp.sum(jnp.maximum(y - x, 0.0))
        >>> x, y = jnp.array([[0.0], [3.0]]), jnp.array([[1.0]])
        >>> tx.geometry.PointCloud(x, y, Directed()).matrix().tolist()
        [[1.0], [0.0]]
    """

    @_checks.gate
    def wants_centring(self, dim: int) -> bool:
        del dim
        return False

    @_checks.gate
    def matrix(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        return jax.vmap(lambda xi: jax.vmap(lambda yj: self(xi, yj))(y))(x)


def _as_pytree(function: Callable[..., Array]) -> Callable[..., Array]:
    """A plain function as static structure, so that `jit` and `vmap` may return its cost."""
    plain = jax.tree_util.all_leaves([function])
    return jax.tree_util.Partial(function) if plain else function


@_checks.gate
class Pointwise(AbstractPointwiseCost):
    """A callable as a cost: what `PointCloud` makes of a function that it is given.

    Example:
        >>> cost = tx.geometry.Pointwise(lambda x, y: jnp.max(jnp.abs(x - y)))
        >>> float(cost(jnp.array([0.0, 0.0]), jnp.array([1.0, 3.0])))
        3.0

    Attributes:
        function: Takes two points of shape (d,) and returns their cost, of shape (). A module
            may carry parameters, which differentiate.
    """

    function: Callable[[Array, Array], Array] = eqx.field(converter=_as_pytree)
    translation_invariant: ClassVar[bool] = False

    @_checks.gate
    def __call__(self, x: Point, y: Point) -> Scalar:
        return self.function(x, y)


@_checks.gate
class Swapped(AbstractCost):
    """The transposed cost c(y, x): what the transpose of a geometry needs.

    Example:
        >>> cost = tx.geometry.Pointwise(lambda x, y: jnp.sum(2 * x - y))
        >>> x, y = jnp.array([1.0]), jnp.array([5.0])
        >>> float(cost(x, y)), float(tx.geometry.Swapped(cost)(y, x))
        (-3.0, -3.0)

    Attributes:
        cost: The cost whose arguments are exchanged.
    """

    cost: AbstractCost

    def __init__(self, cost: AbstractCost):
        self.cost = cost

    @property
    def translation_invariant(self) -> bool:
        return self.cost.translation_invariant

    @_checks.gate
    def wants_centring(self, dim: int) -> bool:
        return self.cost.wants_centring(dim)

    @_checks.gate
    def __call__(self, x: Point, y: Point) -> Scalar:
        return self.cost(y, x)

    @_checks.gate
    def matrix(self, x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, "n m"]:
        return self.cost.matrix(y, x).T
