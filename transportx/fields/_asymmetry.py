"""How far a field is from a gradient."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transportx import _checks, _numbers


@_checks.gate
def asymmetry(
    field: Callable[..., Array], t: Float[Array, ""], x: Float[Array, " d"], args=None
) -> Float[Array, ""]:
    r"""Asymmetry of the Jacobian of a field at a point: $|J - J^\top|_F / 2|J|_F$, in [0, 1].

    Zero where the Jacobian J is symmetric, one where it is antisymmetric; NaN where it is zero. It
    costs d forward derivatives of the field.

    Args:
        field: `field(t, x, args) -> dx/dt`, of the shape of `x`.
        t: Time.
        x: One point, shape (d,).
        args: Condition of the point, handed on to `field`.

    Raises:
        ValueError: `field` returns another shape than that of `x`.

    Example:
        >>> def rotation(t, x, args):
        ...     return jnp.stack([-x[1], x[0]])
        >>> float(tx.fields.asymmetry(rotation, jnp.array(0.0), jnp.ones(2)))
        1.0
        >>> float(tx.fields.asymmetry(lambda t, x, args: -x, jnp.array(0.0), jnp.ones(2)))
        0.0
    """
    t, point = _numbers.widened((t, x))

    def velocity(x):
        velocity = field(t, x, args)
        _checks.velocity(velocity, x)
        return velocity

    jacobian = _numbers.widened(jax.jacfwd(velocity)(point))
    odd = jacobian - jacobian.T
    ratio = jnp.sqrt(jnp.sum(odd**2) / jnp.sum(jacobian**2)) / 2
    return _numbers.as_given(ratio, x)
