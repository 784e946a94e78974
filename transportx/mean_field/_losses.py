"""Losses of one example: prediction and target to a number."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transportx import _checks

Output = Float[Array, " e"]
Scalar = Float[Array, ""]


@_checks.gate
def square_loss(prediction: Output, target: Output) -> Scalar:
    """|f - y|^2 / 2.

    Example:
        >>> float(tx.mean_field.square_loss(jnp.array([3.0]), jnp.array([1.0])))
        2.0
    """
    return jnp.sum((prediction - target) ** 2) / 2


@_checks.gate
def logistic_loss(prediction: Output, target: Output) -> Scalar:
    """log(1 + exp(-y f)), y = -1 or 1, summed over the outputs."""
    known = jnp.where(jnp.isfinite(target), target, jnp.nan)
    return jnp.sum(jax.nn.softplus(-known * prediction))


@_checks.gate
def softmax_loss(prediction: Output, target: Output) -> Scalar:
    """-sum_c y_c log softmax(f)_c: the targets are the probabilities of e classes."""
    return -jnp.sum(target * jax.nn.log_softmax(prediction))
