"""Classifier-free guidance."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, ScalarLike

from transportx import _checks, _numbers


@_checks.gate
class Guided(eqx.Module):
    r"""A class-conditional field pushed towards its class: $v_\emptyset + w (v_c - v_\emptyset)$.

    `args` is the label c. Strength 0 ignores it, 1 is the conditional field, above 1 trades
    variety for agreement with the label. Two evaluations of `field` a call. For a strength
    other than 0 and 1 the law of the samples is no longer the data's.

    Attributes:
        field: Field trained with labels dropped at random to `null_label`.
        strength: w; may be traced.
        null_label: The label that means "no label"; one that the labels' dtype can hold.

    References:
        Ho and Salimans, Classifier-Free Diffusion Guidance, 2022.
    """

    field: Callable[..., Array]
    strength: ScalarLike
    null_label: int = eqx.field(static=True)

    def __check_init__(self):
        _checks.finite("strength", self.strength)

    @_checks.gate
    def __call__(
        self, t: Float[Array, ""], x: Float[Array, "..."], args: Int[Array, ""]
    ) -> Float[Array, "..."]:
        """Guided velocity at one point and time."""
        _checks.label("args", args)
        _checks.held("null_label", self.null_label, args)
        t, point = _numbers.widened((t, x))
        plain = self.field(t, point, jnp.full_like(args, self.null_label))
        towards = self.field(t, point, args)
        for velocity in (plain, towards):
            _checks.velocity(velocity, point)
        plain, towards = _numbers.matched(plain, towards)
        strength = jnp.asarray(self.strength, plain.dtype)
        return _numbers.as_given(plain + strength * (towards - plain), x)
