"""Laws of the times that a loss is averaged over: `times(num, dtype, key=key)`."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray, ScalarLike

from transportx import _checks, _numbers

Times = Callable[..., Float[Array, " b"]]


@_checks.gate
def uniform_times(num: int, dtype: Any, *, key: PRNGKeyArray) -> Float[Array, " b"]:
    """Draw independent uniform times in the open interval (0, 1).

    The ends are left out because the velocity of noisy paths is infinite there.

    Args:
        num: Number of times.
        dtype: Floating-point dtype; for halves times are drawn in float32 and rounded.
        key: Randomness.

    Returns:
        Times, shape (num,).

    Example:
        >>> t = tx.losses.uniform_times(4, jnp.float32, key=jr.key(0))
        >>> t.shape, bool(jnp.all((0 < t) & (t < 1)))
        ((4,), True)
    """
    wide = drawn_in(num, dtype)
    times = jr.uniform(key, (num,), wide, minval=jnp.finfo(wide).eps, maxval=1)
    return times if wide == dtype else inside(times, dtype)


@_checks.gate
class LogitNormalTimes(eqx.Module):
    """Logit-normal times: more of them in the middle, where the field is hard to learn.

    Attributes:
        mean: Mean of the logit log(t / (1 - t)); above zero, times lie nearer the target.
        deviation: Standard deviation of the logit, positive.

    Example:
        >>> times = tx.losses.LogitNormalTimes(mean=0.0, deviation=0.1)
        >>> t = times(8, jnp.float32, key=jr.key(0))
        >>> bool(jnp.all(jnp.abs(t - 0.5) < 0.1))
        True

    References:
        Esser et al., Scaling rectified flow transformers for high-resolution image
        synthesis, 2024, section 3.1.
    """

    mean: ScalarLike = 0.0
    deviation: ScalarLike = 1.0

    def __check_init__(self):
        _checks.finite("mean", self.mean)
        _checks.scale("deviation", self.deviation)

    @_checks.gate
    def __call__(self, num: int, dtype: Any, *, key: PRNGKeyArray) -> Float[Array, " b"]:
        """Draw `num` independent times in the open interval (0, 1).

        Args:
            num: Number of times.
            dtype: Floating-point dtype; for halves times are drawn in float32 and rounded.
            key: Randomness.
        """
        wide = drawn_in(num, dtype)
        mean, deviation = jnp.asarray(self.mean, wide), _numbers.positive(self.deviation, wide)
        mean = jnp.where(jnp.isfinite(mean), mean, jnp.nan)
        return inside(jax.nn.sigmoid(mean + deviation * jr.normal(key, (num,), wide)), dtype)


@_checks.gate
class BetaTimes(eqx.Module):
    """Times from a Beta law: (1, 1) is uniform, equal shapes above 1 favour the middle.

    Their density is proportional to $t^{a - 1} (1 - t)^{b - 1}$.

    Attributes:
        a: First shape, positive; above `b`, times lie nearer the target.
        b: Second shape, positive.

    Example:
        >>> t = tx.losses.BetaTimes(100.0, 1.0)(8, jnp.float32, key=jr.key(0))
        >>> bool(jnp.mean(t) > 0.9)
        True
    """

    a: ScalarLike
    b: ScalarLike

    def __check_init__(self):
        _checks.scale("a", self.a)
        _checks.scale("b", self.b)

    @_checks.gate
    def __call__(self, num: int, dtype: Any, *, key: PRNGKeyArray) -> Float[Array, " b"]:
        """Draw `num` independent times in the open interval (0, 1).

        Args:
            num: Number of times.
            dtype: Floating-point dtype; for halves times are drawn in float32 and rounded.
            key: Randomness.
        """
        wide = drawn_in(num, dtype)
        a, b = _numbers.positive(self.a, wide), _numbers.positive(self.b, wide)
        return inside(jr.beta(key, a, b, (num,), wide), dtype)


def drawn_in(num: int, dtype: Any) -> Any:
    """Dtype in which times are drawn: float32 at least."""
    _checks.count("num", num)
    if not jnp.issubdtype(dtype, jnp.floating):
        _checks.reject("dtype", f"is {jnp.dtype(dtype)}", "give a floating-point dtype")
    return jnp.dtype(dtype) if jnp.finfo(dtype).bits >= 32 else jnp.dtype(jnp.float32)


def inside(times: Array, dtype: Any) -> Array:
    """Times in this dtype, moved off the ends, which rounding reaches; NaN stays."""
    least = jnp.finfo(dtype).eps
    return jnp.clip(times.astype(dtype), least, 1 - least)
