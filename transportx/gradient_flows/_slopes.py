"""First and second derivatives of the features of a point."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Point = Float[Array, " d"]


def slopes_and_laplacians(
    features: Callable[[Array], Array], x: Point
) -> tuple[Float[Array, "p d"], Float[Array, " p"]]:
    """Gradients and Laplacians of functions of a point."""
    jacobian = jax.jacfwd(features)
    return jacobian(x), jnp.trace(jax.jacfwd(jacobian)(x), axis1=1, axis2=2)
