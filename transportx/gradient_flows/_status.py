"""How a flow ended."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class FlowStatus(eqx.Enumeration):
    """Whether to believe a flow; compare with `==`, also under `jit` and `vmap`."""

    COMPLETED = "The last time was reached, and the energy never rose where it may not."
    MAX_STEPS = "The step limit came first: raise it, or the tolerance, or look for a blow-up."
    NON_FINITE = "A point is NaN or infinite: the input was, or the steps are far too large."
    INFEASIBLE = "A mass is not positive, or at its cap: give empty cells 1e-12 of the whole."
    ENERGY_ROSE = "The recorded energy rose: take more steps, or give tolerances."


def energy_rose(energy: Float[Array, " k"]) -> Bool[Array, ""]:
    """Whether the energy rises anywhere by more than rounding; a NaN does not count."""
    energy = jax.lax.stop_gradient(energy)
    scale = jnp.max(jnp.where(jnp.isfinite(energy), jnp.abs(energy), 0))
    slack = 10 * jnp.sqrt(jnp.finfo(energy.dtype).eps) * scale
    return jnp.any((jnp.diff(energy) > slack) | (energy[1:] == jnp.inf))
