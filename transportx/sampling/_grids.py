"""Where fixed steps begin and end: `grid(num_steps, dtype)`, from 0 to 1 of the way."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from transportx import _checks
from transportx.evolution import uniform_grid
from transportx.interpolants import AbstractInterpolant, time_of_angle


@_checks.gate
class PowerGrid(eqx.Module):
    """1 - (1 - i/n)^power: with a power of 2 or more, steps that shorten towards the end.

    Attributes:
        power: Positive; 1 is uniform, below 1 steps shorten towards the beginning.
    """

    power: ScalarLike = 2.0

    def __check_init__(self):
        _checks.positive("power", self.power)

    @_checks.gate
    def __call__(self, num_steps: int, dtype: Any) -> Float[Array, " steps"]:
        """The grid."""
        left = 1 - uniform_grid(num_steps, dtype)
        return 1 - left ** jnp.asarray(self.power, dtype)


@_checks.gate
class KarrasGrid(eqx.Module):
    r"""Steps even in the power 1 / rho of the noise-to-target ratio sigma_t / beta_t.

    Between its ends the ratio falls from `ratio_max` to `ratio_min`; one step before leads
    there from t = 0 and one after to t = 1, where those are not the ends already. For
    sampling from noise to target.

    Attributes:
        path: Interpolant, from a Gaussian source.
        ratio_min: Ratio after which the last step removes all noise.
        ratio_max: Ratio that the first step leads to.
        rho: 7 shortens the steps at little noise; 1 makes them even in the ratio.
        scale: Standard deviation of the source.

    References:
        Karras et al., Elucidating the design space of diffusion-based generative models,
        2022, equation 5.
    """

    path: AbstractInterpolant
    ratio_min: ScalarLike = 0.002
    ratio_max: ScalarLike = 80.0
    rho: ScalarLike = 7.0
    scale: ScalarLike = 1.0

    def __check_init__(self):
        for name in ("ratio_min", "ratio_max", "rho"):
            _checks.positive(name, getattr(self, name))

    @_checks.gate
    def __call__(self, num_steps: int, dtype: Any) -> Float[Array, " steps"]:
        """The grid.

        Raises:
            ValueError: Fewer than three steps.
        """
        _checks.count("num_steps", num_steps, least=3)
        rho = jnp.asarray(self.rho, dtype)
        first, last = (
            jnp.asarray(end, dtype) ** (1 / rho) for end in (self.ratio_max, self.ratio_min)
        )
        ratios = jnp.linspace(first, last, num_steps - 1, dtype=dtype) ** rho
        angles = jnp.arctan2(jnp.ones_like(ratios), ratios)
        inner = jax.vmap(lambda angle: time_of_angle(self.path, angle, self.scale))(angles)
        return jnp.concatenate([jnp.zeros(1, dtype), inner, jnp.ones(1, dtype)])
