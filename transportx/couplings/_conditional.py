"""Couplings whose cost includes the conditions of the targets."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from transportx import _checks
from transportx._precision import working
from transportx._status import Status, judge
from transportx.couplings._coupling import AbstractCoupling, check_batches, flat
from transportx.couplings._pairs import Pairs


@_checks.gate
class Conditional(eqx.Module):
    """Conditional coupling of two batches: the conditions of the targets enter the cost.

    A coupling blind to conditions ties noise to conditions within a batch, while sampling
    draws them independently: conditional generation suffers. Here source i is given condition
    i before points are paired, which is independent of the source, and pairs of unlike
    conditions cost `weight` times their squared distance more. With a large weight pairs stay
    within a condition, and noise stays independent of it.

    Called as ``coupling(x0, x1, conditions, key=key)`` with one condition per target: numbers
    (b, k), or labels as ``jax.nn.one_hot(labels, num)``.

    Attributes:
        coupling: Any coupling whose cost grows with the distance of flattened examples. A
            relative epsilon is then in units of the mean cost with conditions.
        weight: Cost of a unit of squared distance between conditions, positive.

    Example:
        >>> x0, x1 = jnp.array([[0.0], [1.0]]), jnp.array([[1.1], [0.1]])
        >>> labels = jax.nn.one_hot(jnp.array([0, 1]), 2)
        >>> coupling = tx.couplings.Conditional(tx.couplings.Assignment(), weight=100.0)
        >>> i0, i1 = coupling(x0, x1, labels, key=jr.key(0))
        >>> i0.tolist()  # source 0 was given the condition of target 0
        [0, 1]

    References:
        Cheng and Schwing, The curse of conditions, 2025; Chemseddine, Hagemann, Steidl and
        Wald, Conditional Wasserstein distances with applications in Bayesian OT flow
        matching, 2024.
    """

    coupling: AbstractCoupling
    weight: float | Float[Array, ""]

    def __check_init__(self):
        _checks.positive("weight", self.weight)

    @_checks.gate
    @eqx.filter_jit
    def __call__(
        self,
        x0: Float[Array, "b ..."],
        x1: Float[Array, "b ..."],
        conditions: Float[Array, "b *k"],
        *,
        key: PRNGKeyArray,
    ) -> Pairs:
        """Pair source points with target points of like conditions.

        Args:
            x0: Source batch, shape (b, ...).
            x1: Target batch of the same shape.
            conditions: Condition of each target, floating-point numbers of shape (b, ...).
            key: Randomness, for couplings that draw.

        Returns:
            Indices (i0, i1) of the pairs, and a status.

        Raises:
            ValueError: Sizes of batches and conditions differ, conditions are not floating-point
                numbers, or the wrapped coupling refuses its batches.
        """
        check_batches(x0, x1, one_to_one=True)
        _checks.same_size("conditions", conditions, "x1", x1)
        _checks.floating("conditions", conditions)
        dtype = working(x0.dtype, x1.dtype)
        weight = jnp.asarray(self.weight, dtype)
        weight = jnp.where(weight > 0, weight, jnp.nan)
        marks = jnp.sqrt(weight) * flat(conditions).astype(dtype)
        marked = (jnp.concatenate([flat(x).astype(dtype), marks], axis=1) for x in (x0, x1))
        pairs = self.coupling(*marked, key=key)
        usable = jnp.all(jnp.isfinite(marks))
        status = judge((~usable, Status.NON_FINITE), otherwise=pairs.status)
        i0, i1 = pairs
        return Pairs(jnp.where(usable, i0, x0.shape[0]), i1, status)
