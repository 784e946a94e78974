"""Infinite costs: pairs that carry nothing, in exponents and in sums, and their derivatives."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def forbidden(costs: Array) -> Bool[Array, "..."]:
    """Whether each pair is one that may carry nothing: its cost is infinite."""
    return costs == jnp.inf


def finite_part(costs: Array) -> Array:
    """The costs, and zero for pairs that carry nothing: what to sum, weighed by a plan."""
    return jnp.where(forbidden(costs), 0, costs)


def exponents(
    costs: Float[Array, "*s"], potentials: Float[Array, "*s"], epsilon: Float[Array, ""]
) -> Float[Array, "*s"]:
    """(potentials - costs) / epsilon: -inf, with derivatives zero, where a pair carries nothing.

    So it is too where the quotient would leave the range whose derivatives are finite, as
    costs of 1e30 do that mark such pairs.

    Args:
        costs: Costs of pairs.
        potentials: The sum of the potentials of each pair.
        epsilon: Regularisation, in units of the cost.
    """
    quotients = (potentials - finite_part(costs)) * (1 / epsilon)
    lowest = -jnp.sqrt(jnp.finfo(costs.dtype).max)
    return jnp.where(forbidden(costs) | (quotients < lowest), -jnp.inf, quotients)
