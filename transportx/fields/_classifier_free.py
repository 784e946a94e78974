"""Classifier-free guidance."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, ScalarLike

from transportx import _checks, _numbers


@_checks.gate
class Guided(eqx.Module):
    r"""Classifier-free guidance: a conditional field pushed towards its class.

    $v_\emptyset + w (v_c - v_\emptyset)$, where `args` is the label c. Strength 0 ignores the
    label, 1 is the conditional field, above 1 trades variety for agreement with the label. A call
    costs two evaluations of `field`. For a strength other than 0 and 1 the law of the samples is no
    longer that of the data.

    Attributes:
        field: Field trained with labels dropped at random to `null_label`.
        strength: The factor w, any finite number; may be traced.
        null_label: The integer label that means "no label"; one that the labels' dtype can hold.

    Raises:
        ValueError: `strength` is infinite or NaN; when called, the label is no integer or its dtype
            cannot hold `null_label`.

    Example:
        >>> def field(t, x, label):
        ...     return x * jnp.where(label == 3, 0.0, label + 1.0)
        >>> guided = tx.fields.Guided(field, strength=2.0, null_label=3)
        >>> guided(jnp.array(0.5), jnp.ones(2), jnp.array(0)).tolist()
        [2.0, 2.0]

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
        """Guided velocity at one point and time.

        Args:
            t: Time, in [0, 1].
            x: One point of any shape.
            args: Integer label of this point.
        """
        _checks.label("args", args)
        _checks.label_value("null_label", self.null_label, args)
        t, point = _numbers.widened((t, x))
        plain = self.field(t, point, jnp.full_like(args, self.null_label))
        towards = self.field(t, point, args)
        for velocity in (plain, towards):
            _checks.velocity(velocity, point)
        plain, towards = _numbers.matched(plain, towards)
        strength = jnp.asarray(self.strength, plain.dtype)
        return _numbers.as_given(plain + strength * (towards - plain), x)
