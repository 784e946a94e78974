"""How training ended."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class TrainingStatus(eqx.Enumeration):
    """Whether to believe a training; compare with `==`, also under `jit` and `vmap`."""

    COMPLETED = "The last time was reached, and the risk never rose where it may not."
    MAX_STEPS = "The step limit came first: raise it, or the tolerance, or look for a blow-up."
    NON_FINITE = "A neuron or the risk is NaN or infinite: the input was, or steps are too large."
    RISK_ROSE = "The recorded risk rose: take more steps, or give tolerances."


def risk_rose(risk: Float[Array, " k"]) -> Bool[Array, ""]:
    """Whether the risk rises anywhere by more than rounding; a NaN does not count."""
    risk = jax.lax.stop_gradient(risk)
    scale = jnp.max(jnp.where(jnp.isfinite(risk), jnp.abs(risk), 0))
    slack = 10 * jnp.sqrt(jnp.finfo(risk.dtype).eps) * scale
    return jnp.any(jnp.diff(risk) > slack)
