"""Grids of fixed steps that shorten where a flow bends, or where the noise is gone.

A grid `grid(num_steps, dtype)` gives the times at which steps begin and end, as fractions of the
way. It rises strictly from 0 to 1: nodes that would round onto their neighbours are set apart by
single rounding units.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, ScalarLike

from transportx import _checks, _numbers
from transportx.evolution import uniform_grid
from transportx.interpolants import AbstractInterpolant, noised_target, time_of_angle


@_checks.gate
class PowerGrid(eqx.Module):
    """A grid with the nodes $1 - (1 - i/n)^p$: for p above 1 steps shorten towards the end.

    Attributes:
        power: The exponent p, positive; 1 is uniform, below 1 steps shorten towards the beginning.

    Example:
        >>> tx.sampling.PowerGrid(2.0)(2, jnp.float32).tolist()
        [0.0, 0.75, 1.0]
        >>> steps = tx.evolution.FixedSteps(20, grid=tx.sampling.PowerGrid(2.0))
        >>> tx.sampling.flow(lambda t, x, args: -x, jnp.ones((2, 1)), steps=steps).shape
        (2, 1)
    """

    power: ScalarLike = 2.0

    def __check_init__(self):
        _checks.scale("power", self.power)

    @_checks.gate
    def __call__(self, num_steps: int, dtype: Any) -> Float[Array, " steps"]:
        """The nodes of the grid, one more than steps.

        Args:
            num_steps: Number of steps, positive.
            dtype: float32 or float64: half precision cannot tell a hundred times from each other.

        Raises:
            ValueError: `num_steps` is not a positive integer, or `dtype` is a half.
        """
        _check_grid(num_steps, dtype)
        left = 1 - uniform_grid(num_steps, dtype)
        return rising(1 - left ** _numbers.positive(self.power, dtype))


@_checks.gate
class KarrasGrid(eqx.Module):
    r"""The grid of Karras et al.: steps that are even in a power of the noise-to-target ratio.

    The power is 1 / rho and the ratio is $\sigma_t / \beta_t$. Between its ends the ratio falls
    from `ratio_max` to `ratio_min`; the first step leads there from t = 0, the last from there to t
    = 1. A path that starts below `ratio_max`, as `VarianceExploding(sigma_max=50.0)` does, or ends
    above `ratio_min`, as `Linear(0.1)` does, has no such time: the steps are then even from the
    path's own end. For sampling from noise to target.

    Attributes:
        path: Interpolant from a Gaussian source, along which the ratio falls.
        ratio_min: Ratio after which the last step removes all noise, positive.
        ratio_max: Ratio that the first step leads to, above `ratio_min`.
        rho: Inverse of the power, positive; 7 shortens the steps at little noise, 1 makes them even
            in the ratio.
        source_scale: Standard deviation of the Gaussian source, positive.

    Example:
        >>> grid = tx.sampling.KarrasGrid(tx.interpolants.Linear())
        >>> nodes = grid(4, jnp.float32)
        >>> [round(float(node), 1) for node in nodes]
        [0.0, 0.0, 0.3, 1.0, 1.0]

    References:
        Karras et al., Elucidating the design space of diffusion-based generative models, 2022,
        equation 5.
    """

    path: AbstractInterpolant
    ratio_min: ScalarLike = 0.002
    ratio_max: ScalarLike = 80.0
    rho: ScalarLike = 7.0
    source_scale: ScalarLike = 1.0

    def __check_init__(self):
        for name in ("ratio_min", "ratio_max", "rho", "source_scale"):
            _checks.scale(name, getattr(self, name))
        _checks.below("ratio_min", self.ratio_min, "ratio_max", self.ratio_max)

    @_checks.gate
    def __call__(self, num_steps: int, dtype: Any) -> Float[Array, " steps"]:
        """The nodes of the grid, one more than steps.

        Args:
            num_steps: Number of steps, at least three.
            dtype: float32 or float64.

        Raises:
            ValueError: Fewer than three steps, or `dtype` is a half.
        """
        _check_grid(num_steps, dtype, least=3)
        power = 1 / _numbers.positive(self.rho, dtype)
        first, last, starts, ends = self._ends(dtype)
        # Where the path itself ends within the range, that end is the first or last of equal
        # steps, and not one of the nodes between.
        inner = jnp.arange(num_steps - 1, dtype=dtype)
        part = (inner + starts) / (num_steps - 2 + starts + ends)
        ratios = (first**power * (1 - part) + last**power * part) ** (1 / power)
        angles = jnp.arctan2(jnp.ones_like(ratios), ratios)
        times = jax.vmap(lambda angle: time_of_angle(self.path, angle, self.source_scale))(angles)
        return rising(jnp.concatenate([jnp.zeros(1, dtype), times, jnp.ones(1, dtype)]))

    def _ends(self, dtype) -> tuple[Array, Array, Array, Array]:
        """The first and the last ratio, and whether they are those of the path's own ends."""
        most, least = (_numbers.positive(end, dtype) for end in (self.ratio_max, self.ratio_min))
        most = jnp.where(least < most, most, jnp.nan)
        start, end = (
            noised_target(self.path, jnp.asarray(t, dtype), self.source_scale) for t in (0.0, 1.0)
        )
        starts, ends = start.sigma <= most * start.beta, end.sigma >= least * end.beta
        first = jnp.where(starts, start.sigma / jnp.where(starts, start.beta, 1), most)
        last = jnp.where(ends, end.sigma / jnp.where(ends, end.beta, 1), least)
        return first, last, starts.astype(dtype), ends.astype(dtype)


def rising(times: Float[Array, " steps"]) -> Float[Array, " steps"]:
    """Times in [0, 1] that rise strictly, by moving those that do not as little as that takes.

    Ordered as integers, numbers from 0 to 1 are the bits that they are stored as, and
    neighbours differ by one. Derivatives are those of the times as given; NaN stays.
    """
    integer = {4: jnp.int32, 8: jnp.int64}[times.dtype.itemsize]
    bits = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(jnp.clip(times, 0, 1)), integer)
    count = jnp.arange(times.size, dtype=integer)
    one = jnp.asarray(np.ones((), times.dtype).view(integer), integer)
    # Numbers below the least normal one may be flushed to zero.
    least = jnp.asarray(np.finfo(times.dtype).tiny.view(integer), integer)
    apart = jax.lax.cummax(jnp.maximum(bits, jnp.where(count > 0, least, 0)) - count) + count
    apart = jnp.minimum(apart, one - count[::-1]).at[0].set(0).at[-1].set(one)
    moved = jax.lax.bitcast_convert_type(apart, times.dtype)
    kept = jnp.where(jnp.isnan(times).any(), times, moved)
    return times + jax.lax.stop_gradient(kept - times)


def _check_grid(num_steps: int, dtype: Any, least: int = 1) -> None:
    _checks.count("num_steps", num_steps, least=least)
    if not jnp.issubdtype(dtype, jnp.floating) or jnp.finfo(dtype).bits < 32:
        _checks.reject("dtype", f"is {np.dtype(dtype)}", "give float32 or float64")
