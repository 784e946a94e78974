"""Laws of the times that a loss is averaged over: `times(num, dtype, key=key)`."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray, ScalarLike

from transportx import _checks

Times = Callable[..., Float[Array, " b"]]


@_checks.gate
def uniform_times(num: int, dtype: Any, *, key: PRNGKeyArray) -> Float[Array, " b"]:
    """`num` independent uniform times, in the open interval (0, 1).

    The ends are left out because the velocity of noisy paths is infinite there.
    """
    _checks.count("num", num)
    return jr.uniform(key, (num,), dtype, minval=jnp.finfo(dtype).eps, maxval=1)


@_checks.gate
class LogitNormalTimes(eqx.Module):
    """Times whose logit is normal: more of them in the middle, where the field is hard.

    Attributes:
        mean: Of the logit; above zero towards the target.
        deviation: Standard deviation of the logit, positive.

    References:
        Esser et al., Scaling rectified flow transformers for high-resolution image
        synthesis, 2024, section 3.1.
    """

    mean: ScalarLike = 0.0
    deviation: ScalarLike = 1.0

    def __check_init__(self):
        _checks.positive("deviation", self.deviation)

    @_checks.gate
    def __call__(self, num: int, dtype: Any, *, key: PRNGKeyArray) -> Float[Array, " b"]:
        """Draw `num` times."""
        _checks.count("num", num)
        mean, deviation = (jnp.asarray(part, dtype) for part in (self.mean, self.deviation))
        return inside(jax.nn.sigmoid(mean + deviation * jr.normal(key, (num,), dtype)))


@_checks.gate
class BetaTimes(eqx.Module):
    """Times drawn from a Beta law: (1, 1) is uniform, equal shapes above 1 favour the middle.

    Attributes:
        a: Positive; above `b` towards the target.
        b: Positive.
    """

    a: ScalarLike
    b: ScalarLike

    def __check_init__(self):
        _checks.positive("a", self.a)
        _checks.positive("b", self.b)

    @_checks.gate
    def __call__(self, num: int, dtype: Any, *, key: PRNGKeyArray) -> Float[Array, " b"]:
        """Draw `num` times."""
        _checks.count("num", num)
        a, b = jnp.asarray(self.a, dtype), jnp.asarray(self.b, dtype)
        return inside(jr.beta(key, a, b, (num,), dtype))


def inside(times: Array) -> Array:
    """Keep off the ends, which rounding reaches."""
    least = jnp.finfo(times.dtype).eps
    return jnp.clip(times, least, 1 - least)
