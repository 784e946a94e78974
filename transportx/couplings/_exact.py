"""Pairs drawn from exact plans between batches of any two sizes."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from transportx import _checks
from transportx.couplings._coupling import AbstractCoupling, check_batches, geometry_between
from transportx.couplings._diagnose import points_of
from transportx.couplings._pairs import Pairs, pairs_or_poison
from transportx.geometry import AbstractCost, SquaredEuclidean
from transportx.ot import ExactPlan, exact


@_checks.gate
class Exact(AbstractCoupling):
    """Exact coupling: draws a source for every target from the exact plan between the batches.

    The batches may differ in size: where the source's is k times as large, every target has k
    sources to draw from, and the plan is nearer to that of the laws. Between batches of one size
    the plan is one to one, that of `Assignment`, which finds it sooner and inside the device.
    The search runs on the host: see `transportx.ot.exact`.

    Attributes:
        cost: Cost between two flattened examples.

    Example:
        >>> x0, x1 = jnp.array([[0.0], [0.2], [5.0], [5.2]]), jnp.array([[5.1], [0.1]])
        >>> i0, i1 = tx.couplings.Exact()(x0, x1, key=jr.key(0))
        >>> (i0 >= 2).tolist(), i1.tolist()
        ([True, False], [0, 1])

    References:
        Pooladian et al., Multisample Flow Matching, 2023.
    """

    cost: AbstractCost = SquaredEuclidean()

    @_checks.gate
    @eqx.filter_jit
    def __call__(
        self, x0: Float[Array, "n ..."], x1: Float[Array, "b ..."], *, key: PRNGKeyArray
    ) -> Pairs:
        return self.draw(self.plan(x0, x1), key=key)

    @_checks.gate
    @eqx.filter_jit
    def plan(self, x0: Float[Array, "n ..."], x1: Float[Array, "b ..."]) -> ExactPlan:
        """The exact plan that pairs are drawn from.

        Args:
            x0: Source batch, shape (n, ...).
            x1: Target batch, shape (b, ...).
        """
        check_batches(x0, x1, one_to_one=False)
        return exact(geometry_between(x0, x1, self.cost))

    @_checks.gate
    @eqx.filter_jit
    def draw(self, plan: ExactPlan, *, key: PRNGKeyArray) -> Pairs:
        """Draw a source for every target of a plan between clouds."""
        x0, x1 = points_of(plan)
        i0 = plan.sample_sources(key=key)
        usable = jnp.all(i0 < x0.shape[0])
        return pairs_or_poison(i0, None, usable, plan.status, x0, x1)
