"""Two unpaired clouds with a known warp between them, and the family of warps to find it in."""

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge
from jaxtyping import Array, Float

from experiments.data import photographs
from experiments.harness import config as configs

Points = Float[Array, "n 2"]
# Coefficients of a warp: three rows of an affine map, then one displacement a bump.
Theta = Float[Array, "k 2"]

_SHIFT = (0.2, 0.1)
# Where the second object lies, and how wide it is.
_OUTLIERS, _SPREAD = (1.7, -0.9), 0.15


@configs.section
class Registration:
    """The truth, what is seen of it, and how it is looked for."""

    n: Annotated[configs.Count, Ge(10)]
    m: Annotated[configs.Count, Ge(10)]
    rotation: float
    scale: configs.Positive
    bend: float
    noise: configs.NotNegative
    outliers: configs.BelowOne
    bumps: configs.Count
    stiffness: configs.NotNegative
    epsilon: configs.Positive
    rho: configs.Positive
    steps: configs.Count


class Scene(NamedTuple):
    """Source, target, and where each source point belongs; the target ends with its outliers."""

    source: Points
    target: Points
    truth: Points


def make_scene(config: Registration, *, outliers: float, seed: int) -> Scene:
    """Draw different edge pixels for both clouds; warp, jitter and pollute the target's."""
    rng = np.random.default_rng(seed)
    edges = rng.permutation(photographs.pagoda_edges())
    if config.n + config.m > len(edges):
        most = f"are {config.n} and {config.m}; there are only {len(edges)} edge pixels"
        configs.require(False, "registration.n and registration.m", most)
    alien = round(outliers * config.m)
    source, other = edges[: config.n], edges[config.n :][: config.m - alien]
    seen = _true_warp(config, other) + config.noise * rng.normal(size=other.shape)
    second = _OUTLIERS + _SPREAD * rng.normal(size=(alien, 2))
    clouds = source, np.concatenate([seen, second]), _true_warp(config, source)
    return Scene(*(jnp.asarray(cloud, jnp.float32) for cloud in clouds))


def _true_warp(config: Registration, points: np.ndarray) -> np.ndarray:
    """Bend, rotate, scale, shift."""
    angle = np.deg2rad(config.rotation)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    bent = points + config.bend * np.stack([points[:, 1] ** 2, np.zeros(len(points))], axis=1)
    return config.scale * bent @ rotation.T + np.array(_SHIFT)


def features(points: Points, bumps: int) -> Float[Array, "n k"]:
    """Coordinates, one, and Gaussian bumps on a grid: a warp is linear in its coefficients."""
    ticks = np.linspace(-1, 1, bumps) if bumps > 1 else np.zeros(1)
    centres = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
    squares = jnp.sum((points[:, None] - jnp.asarray(centres, points.dtype)[None]) ** 2, axis=2)
    width = 2 / max(bumps - 1, 1)
    affine = [points, jnp.ones_like(points[:, :1])]
    return jnp.concatenate([*affine, jnp.exp(-squares / (2 * width**2))], axis=1)


def identity(phi: Float[Array, "n k"]) -> Theta:
    """Coefficients that leave points where they are."""
    return jnp.eye(phi.shape[1], 2, dtype=phi.dtype)


def warp(phi: Float[Array, "n k"], theta: Theta) -> Points:
    """Where points with these features go."""
    return jnp.matmul(phi, theta, precision=jax.lax.Precision.HIGHEST)


def roughness(theta: Theta) -> Float[Array, ""]:
    """Squared size of the bumps; an affine warp has none."""
    return jnp.sum(theta[3:] ** 2)
