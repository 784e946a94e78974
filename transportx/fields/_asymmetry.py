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
    r"""How far a field is from a gradient at a point: $|J - J^\top|_F / 2|J|_F$, in [0, 1].

    Zero where the Jacobian is symmetric, one where it is antisymmetric; NaN where it is zero.
    d forward derivatives.
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
