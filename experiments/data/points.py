"""Laws of the plane, drawn on the device.

The pair "wide_moons" and "wide_eight_gaussians" is the one of Tong et al. (2023, their
own runner); the tutorials of torchcfm use another scale.
"""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

Name = Literal[
    "gaussian", "moons", "wide_moons", "eight_gaussians", "wide_eight_gaussians", "checkerboard"
]
Law = Callable[..., Float[Array, "n 2"]]


def gaussian(num: int, *, key: PRNGKeyArray) -> Float[Array, "n 2"]:
    """Standard normal."""
    return jr.normal(key, (num, 2))


def moons(num: int, *, key: PRNGKeyArray) -> Float[Array, "n 2"]:
    """Two half circles of radius 2 with noise .1, centred in x."""
    return 2 * _two_moons(num, 0.05, key) - jnp.array([[1.0, 0.0]])


def wide_moons(num: int, *, key: PRNGKeyArray) -> Float[Array, "n 2"]:
    """Two moons with noise .1, standardised by one mean and deviation of all, times 7."""
    noise = 0.1
    # Moments of the noiseless moons: E x = 1/2, E y = 1/4, E x^2 = 1, E y^2 = 5/8 - 1/pi.
    mean = 3 / 8
    square = (1 + 5 / 8 - 1 / jnp.pi) / 2 + noise**2
    return 7 * (_two_moons(num, noise, key) - mean) / jnp.sqrt(square - mean**2)


def eight_gaussians(num: int, *, key: PRNGKeyArray) -> Float[Array, "n 2"]:
    """Eight normals of deviation 1 on a circle of radius 5."""
    return _ring(num, 5.0, 1.0, key)


def wide_eight_gaussians(num: int, *, key: PRNGKeyArray) -> Float[Array, "n 2"]:
    """Eight normals of deviation 1.5 on a circle of radius 12."""
    return _ring(num, 12.0, 1.5, key)


def checkerboard(num: int, *, key: PRNGKeyArray) -> Float[Array, "n 2"]:
    """Uniform on the eight dark squares, side 1, of a board on [-2, 2]^2."""
    x_key, y_key, row_key = jr.split(key, 3)
    x = jr.uniform(x_key, (num,), minval=-2.0, maxval=2.0)
    row = 2.0 * jr.bernoulli(row_key, shape=(num,)) - 2.0
    y = jr.uniform(y_key, (num,)) + row + jnp.floor(x) % 2
    return jnp.stack([x, y], axis=1)


LAWS: dict[str, Law] = {
    "gaussian": gaussian,
    "moons": moons,
    "wide_moons": wide_moons,
    "eight_gaussians": eight_gaussians,
    "wide_eight_gaussians": wide_eight_gaussians,
    "checkerboard": checkerboard,
}


def _two_moons(num: int, noise: float, key: PRNGKeyArray) -> Float[Array, "n 2"]:
    angle_key, side_key, noise_key = jr.split(key, 3)
    angle = jr.uniform(angle_key, (num,), maxval=jnp.pi)
    inner = jr.bernoulli(side_key, shape=(num,))
    x = jnp.where(inner, 1 - jnp.cos(angle), jnp.cos(angle))
    y = jnp.where(inner, 0.5 - jnp.sin(angle), jnp.sin(angle))
    return jnp.stack([x, y], axis=1) + noise * jr.normal(noise_key, (num, 2))


def _ring(num: int, radius: float, deviation: float, key: PRNGKeyArray) -> Float[Array, "n 2"]:
    centre_key, noise_key = jr.split(key)
    angle = jnp.pi / 4 * jnp.floor(8 * jr.uniform(centre_key, (num,)))
    centres = radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    return centres + deviation * jr.normal(noise_key, (num, 2))
