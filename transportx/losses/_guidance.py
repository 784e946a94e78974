"""Preparing conditions for classifier-free guidance."""

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Int, PRNGKeyArray

from transportx import _checks


@_checks.gate
def drop_labels(
    labels: Int[Array, " b"], *, null_label: int, probability: float, key: PRNGKeyArray
) -> Int[Array, " b"]:
    """Replace each label by `null_label` with the given probability.

    A field trained on such labels is both conditional and unconditional, which is what
    `transportx.fields.Guided` needs.

    Args:
        labels: Integer labels of a batch.
        null_label: The label that means "no label"; one that their dtype can hold.
        probability: How often a label is dropped, in [0, 1].
        key: Randomness.

    Raises:
        ValueError: The labels are not integers, their dtype cannot hold `null_label`, or
            `probability` is outside [0, 1].

    References:
        Ho and Salimans, Classifier-Free Diffusion Guidance, 2022, algorithm 1.
    """
    if not 0 <= probability <= 1:
        _checks.reject("probability", f"is {probability}", "give a number in [0, 1]")
    _checks.label("labels", labels)
    _checks.held("null_label", null_label, labels)
    dropped = jr.bernoulli(key, float(probability), labels.shape)
    return jnp.where(dropped, jnp.asarray(null_label, labels.dtype), labels)
