"""Classifier-free guidance."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, ScalarLike

from transportx import _checks


@_checks.gate
class Guided(eqx.Module):
    r"""A class-conditional field pushed towards its class: $v_\emptyset + w (v_c - v_\emptyset)$.

    `args` is the label c. Scale 0 ignores it, 1 is the conditional field, above 1 trades
    variety for agreement with the label. Two evaluations of `field` a call. For a scale
    other than 0 and 1 the law of the samples is no longer the data's.

    Attributes:
        field: Field trained with labels dropped at random to `null_label`.
        scale: w; may be traced.
        null_label: The label that means "no label".

    References:
        Ho and Salimans, Classifier-Free Diffusion Guidance, 2022.
    """

    field: Callable[..., Array]
    scale: ScalarLike
    null_label: int = eqx.field(static=True)

    @_checks.gate
    def __call__(
        self, t: Float[Array, ""], x: Float[Array, "..."], args: Int[Array, ""]
    ) -> Float[Array, "..."]:
        """Guided velocity at one point and time."""
        plain = self.field(t, x, jnp.full_like(args, self.null_label))
        scale = jnp.asarray(self.scale, x.dtype)
        return plain + scale * (self.field(t, x, args) - plain)
