"""Preparing conditions for classifier-free guidance."""

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Int, PRNGKeyArray

from transportx import _checks


@_checks.gate
def drop_labels(
    labels: Int[Array, " b"], *, null_label: int, probability: float, key: PRNGKeyArray
) -> Int[Array, " b"]:
    """Replace each label by `null_label` with the given probability, independently.

    A field trained on such labels is both conditional and unconditional, which is what
    `transportx.fields.Guided` needs.

    Args:
        labels: Integer labels of a batch, shape (b,).
        null_label: The label that means "no label"; one that their dtype can hold.
        probability: Probability with which a label is dropped, in [0, 1].
        key: Randomness.

    Raises:
        ValueError: The labels are not integers, their dtype cannot hold `null_label`, or
            `probability` is outside [0, 1].

    Example:
        >>> labels = jnp.array([0, 1, 2])
        >>> tx.losses.drop_labels(labels, null_label=3, probability=1.0, key=jr.key(0))
        Array([3, 3, 3], dtype=int32)

    References:
        Ho and Salimans, Classifier-Free Diffusion Guidance, 2022, algorithm 1.
    """
    if not 0 <= probability <= 1:
        _checks.reject("probability", f"is {probability}", "give a number in [0, 1]")
    _checks.label("labels", labels)
    _checks.label_value("null_label", null_label, labels)
    dropped = jr.bernoulli(key, float(probability), labels.shape)
    return jnp.where(dropped, jnp.asarray(null_label, labels.dtype), labels)
