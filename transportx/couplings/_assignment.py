"""Exact optimal transport between two batches."""

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from transportx import _checks
from transportx.couplings._coupling import AbstractCoupling, Pairs, check_batches, geometry_between
from transportx.geometry import AbstractCost, SquaredEuclidean
from transportx.ot import assignment


@_checks.gate
class Assignment(AbstractCoupling):
    """Exact optimal transport between the two batches, one to one.

    Straight paths between such pairs cross little, which makes the learnt field easier to
    integrate. O(b^3): see `transportx.ot.assignment` for what runs where. The plan of a
    batch is not that of the laws: its bias falls only slowly with b. For class-conditional
    models it also ties the source to the label within a batch.

    Attributes:
        cost: What moving a flattened example costs.

    References:
        Pooladian et al., Multisample Flow Matching, 2023; Tong et al., Improving and
        generalizing flow-based generative models with minibatch optimal transport, 2023.
    """

    cost: AbstractCost = SquaredEuclidean()

    @_checks.gate
    def __call__(
        self, x0: Float[Array, "n ..."], x1: Float[Array, "b ..."], *, key: PRNGKeyArray
    ) -> Pairs:
        check_batches(x0, x1, one_to_one=True)
        sources = assignment(geometry_between(x0, x1, self.cost).T.matrix())
        index = jnp.arange(x1.shape[0], dtype=sources.dtype)
        # Where there is no answer, all points are used as they come: a NaN stays visible.
        return jnp.where(sources < index.size, sources, index), index
