"""Noise paired with a whole data set, by potentials that are computed once."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from transportx import _checks
from transportx.couplings._coupling import flat
from transportx.couplings._pairs import Pairs, pairs_or_poison
from transportx.ot import SemiDiscretePlan


@_checks.gate
class SemiDiscrete(eqx.Module):
    """Semidiscrete coupling: every source point goes to the point of a whole data set that wins it.

    Called as ``i0, i1 = coupling(x0, x1, key=key)``, where `x1` is the whole data set, not a batch
    of it: each of the n source points is paired, and data come with the frequencies of their
    weights. The plan is that between the laws of source and data, so that pairs have none of the
    bias of plans between batches. O(n m d) per call, in blocks of the data.

    Attributes:
        plan: Potentials of the data, from `transportx.ot.semidiscrete` with examples as flat
            vectors. Of a plan that failed all indices are out of range; one short of its
            tolerance pairs all the same, and its status says so.

    Example:
        >>> x1 = jnp.array([[-1.0], [1.0]])
        >>> def normal(*, key, num):
        ...     return jr.normal(key, (num, 1))
        >>> plan = tx.ot.semidiscrete(normal, x1, key=jr.key(0))
        >>> i0, i1 = tx.couplings.SemiDiscrete(plan)(jnp.array([[2.0], [-3.0]]), x1, key=jr.key(1))
        >>> i0.tolist(), i1.tolist()
        ([0, 1], [1, 0])

    References:
        Mousavi-Hosseini, Zhang, Klein and Cuturi, Flow matching with semidiscrete couplings, 2025.
    """

    plan: SemiDiscretePlan

    @_checks.gate
    @eqx.filter_jit
    def __call__(
        self, x0: Float[Array, "n ..."], x1: Float[Array, "m ..."], *, key: PRNGKeyArray
    ) -> Pairs:
        """Pair every source point with a point of the data.

        Args:
            x0: Source batch, shape (n, ...).
            x1: The whole data set that the plan was solved for, shape (m, ...).
            key: Randomness, which counts where the plan's epsilon > 0 alone.

        Returns:
            Indices (i0, i1) of n pairs, i0 in order, and the status of the plan.

        Raises:
            ValueError: The data are not as many, or not of the dimension, of those of the plan.
        """
        check_data(x0, x1, self.plan)
        x0 = jax.lax.stop_gradient(x0)
        plan = jax.lax.stop_gradient(eqx.filter(self.plan, eqx.is_array))
        plan = eqx.combine(plan, self.plan)
        i1 = plan.assign(flat(x0), key=key)
        i0 = jnp.arange(x0.shape[0], dtype=i1.dtype)
        usable = jnp.all(i1 < x1.shape[0])
        return pairs_or_poison(i0, i1, usable, plan.status, x0, x1)


def check_data(x0: Array, x1: Array, plan: SemiDiscretePlan) -> None:
    """Raise on batches that are not of the shapes of a plan."""
    _checks.batch("x0", x0)
    _checks.batch("x1", x1)
    _checks.same_dimension("x1", x1, "x0", x0)
    _checks.same_size("x1", x1, "plan.y", plan.y)
    _checks.same_dimension("x1", flat(x1), "plan.y", plan.y)
