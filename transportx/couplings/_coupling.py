"""The abstract coupling of two batches, and the independent one."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from transportx import _checks
from transportx._precision import working
from transportx._status import Status
from transportx.couplings._pairs import Pairs
from transportx.geometry import AbstractCloud, AbstractCost, Layout, cloud_between


class AbstractCoupling(eqx.Module):
    """Pairs the points of two batches; a subclass writes `__call__`.

    Example:
        >>> class Reversed(tx.couplings.AbstractCoupling):
        ...     def __call__(self, x0, x1, *, key):
        ...         index = jnp.arange(x1.shape[0])
        ...         return tx.couplings.Pairs(index[::-1], index, tx.Status.CONVERGED)
        >>> i0, i1 = Reversed()(jnp.zeros((3, 1)), jnp.zeros((3, 1)), key=jr.key(0))
        >>> i0.tolist()
        [2, 1, 0]
    """

    @abc.abstractmethod
    def __call__(
        self, x0: Float[Array, "n ..."], x1: Float[Array, "b ..."], *, key: PRNGKeyArray
    ) -> Pairs:
        """Pair source points with target points.

        Args:
            x0: Source batch, shape (n, ...); examples are compared as flat vectors.
            x1: Target batch, shape (b, ...).
            key: Randomness, for couplings that draw.

        Returns:
            Indices (i0, i1) of the b pairs, and a status; i1 is a permutation of the
            targets, save where a coupling is made to leave some out. Where no plan was
            found, `take` with these indices gives NaN.

        Raises:
            ValueError: A batch is empty, examples differ in shape, or sizes differ where
                the coupling is one to one.
        """


class Independent(AbstractCoupling):
    """Independent coupling: row i of one batch goes with row i of the other. Free.

    Batches that are drawn independently stay independent.

    Example:
        >>> i0, i1 = tx.couplings.Independent()(jnp.zeros((3, 1)), jnp.ones((3, 1)), key=jr.key(0))
        >>> i0.tolist(), i1.tolist()
        ([0, 1, 2], [0, 1, 2])
    """

    @_checks.gate
    def __call__(
        self, x0: Float[Array, "n ..."], x1: Float[Array, "b ..."], *, key: PRNGKeyArray
    ) -> Pairs:
        check_batches(x0, x1, one_to_one=True)
        index = jnp.arange(x1.shape[0])
        return Pairs(index, index, Status.CONVERGED)


def geometry_between(
    x0: Array, x1: Array, cost: AbstractCost, layout: Layout = Layout()
) -> AbstractCloud:
    """Costs between two batches, as constants of autodiff, laid out over devices and in tiles."""
    _checks.divided("x0", x0, layout.mesh)
    _checks.divided("x1", x1, layout.mesh)
    x0, x1 = jax.lax.stop_gradient((x0, x1))
    dtype = working(x0.dtype, x1.dtype)
    return cloud_between(flat(x0).astype(dtype), flat(x1).astype(dtype), cost, layout=layout)


def flat(batch: Array) -> Float[Array, "b d"]:
    """Every example as one vector."""
    return batch.reshape(batch.shape[0], -1)


def check_batches(x0: Array, x1: Array, *, one_to_one: bool) -> None:
    """Raise on batches that cannot be paired."""
    _checks.batch("x0", x0)
    _checks.batch("x1", x1)
    _checks.same_dimension("x1", x1, "x0", x0)
    if one_to_one:
        _checks.same_size("x1", x1, "x0", x0)
