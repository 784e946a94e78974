"""Exact optimal transport between two batches."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from transportx import _checks
from transportx._status import Status, judge
from transportx.couplings._coupling import AbstractCoupling, check_batches, geometry_between
from transportx.couplings._pairs import Pairs, pairs_or_poison
from transportx.geometry import AbstractCost, SquaredEuclidean
from transportx.ot import assignment


@_checks.gate
class Assignment(AbstractCoupling):
    """Exact optimal transport between two batches of one size, one to one.

    Straight paths between such pairs cross little, which makes the learnt field easier to
    integrate. O(b^3): see `transportx.ot.assignment` for what runs where. The plan of a
    batch is not that of the laws: its bias falls only slowly with b. For class-conditional
    models it also ties the source to the label within a batch.

    Attributes:
        cost: Cost between two flattened examples.

    Example:
        >>> x0, x1 = jnp.array([[0.0], [1.0]]), jnp.array([[1.1], [0.1]])
        >>> i0, i1 = tx.couplings.Assignment()(x0, x1, key=jr.key(0))
        >>> i0.tolist(), i1.tolist()
        ([1, 0], [0, 1])

    References:
        Pooladian et al., Multisample Flow Matching, 2023; Tong et al., Improving and
        generalizing flow-based generative models with minibatch optimal transport, 2023.
    """

    cost: AbstractCost = SquaredEuclidean()

    @_checks.gate
    @eqx.filter_jit
    def __call__(
        self, x0: Float[Array, "n ..."], x1: Float[Array, "b ..."], *, key: PRNGKeyArray
    ) -> Pairs:
        check_batches(x0, x1, one_to_one=True)
        costs = geometry_between(x0, x1, self.cost).T.matrix()
        sources = assignment(costs)
        usable = jnp.all(sources < x0.shape[0])
        status = judge(
            (~jnp.all(costs > -jnp.inf), Status.NON_FINITE),
            (~usable, Status.INFEASIBLE),
            otherwise=Status.CONVERGED,
        )
        return pairs_or_poison(sources, None, usable, status, x0, x1)
