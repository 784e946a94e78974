"""Tokens that cluster: what moves, and what is measured on the way."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from experiments.attention.choices import Circle, Moving, Shift, Sphere, Sweep
from transportx import attention as att
from transportx import gaussians
from transportx.geometry import PointCloud

# Three components of a plane, one longer than it is wide.
_MEANS = ((-1.5, 0.0), (1.4, 0.8), (0.9, -1.5))
_SPREADS = ((0.35, 0.35), (0.3, 0.5), (0.45, 0.3))


class Clustered(NamedTuple):
    """Tokens at recorded depths, with their clusters, energies and order parameters."""

    depths: Float[np.ndarray, " k"]
    path: Float[np.ndarray, "k n d"]
    clusters: Int[np.ndarray, " k"]
    energies: Float[np.ndarray, " k"]
    orders: Float[np.ndarray, " k"]


class Swept(NamedTuple):
    """Mean numbers of clusters."""

    betas: Float[np.ndarray, " b"]
    depths: Float[np.ndarray, " k"]
    clusters: Float[np.ndarray, "b k"]


def cluster(config: Circle | Sphere, *, dimension: int, seed: int) -> Clustered:
    """Random directions in softmax attention with Q = K = V = I, on the sphere."""
    start = _directions(config.tokens, dimension, key=jr.key(seed))
    temperature, identity = 1 / config.beta, jnp.eye(dimension)
    attention = att.Attention(identity, identity, identity, att.Softmax(temperature))

    def energy(tokens):
        """Of unnormalised attention over its maximum; it grows in softmax attention too."""
        rows = PointCloud(tokens, tokens).map_rows(
            lambda c: jnp.mean(jnp.exp(-config.beta / 2 * c))
        )
        return jnp.mean(rows)

    return _record(config, att.TokenField(attention, sphere=True), start, energy)


def shift(config: Shift, *, seed: int) -> Clustered:
    """Mean shift: x' = Gamma(x) - x in L2 attention to a sample that stays where it is."""
    sample = jax.jit(lambda key: _mixture().sample(key=key, num=config.tokens))(jr.key(seed))
    identity, temperature = jnp.eye(2), 2 * config.bandwidth**2
    attention = att.Attention(identity, identity, identity, att.L2(temperature))

    def to_sample(x, y, weights):
        return attention(x, sample)

    def log_density(tokens):
        potential = attention.potential(tokens, sample) - jnp.sum(tokens**2, axis=1) / 2
        return 2 / temperature * jnp.mean(potential)

    return _record(config, att.TokenField(to_sample, decay=1.0), sample, log_density)


def _record(
    config: Moving, field: att.TokenField, start: Array, energy: Callable[[Array], Array]
) -> Clustered:
    depths = jnp.linspace(0, config.depth, config.frames)

    @jax.jit
    def measured(start):
        path = _path(config, field, start)
        clusters = jax.lax.map(lambda x: att.num_clusters(x, radius=config.radius), path)
        return path, clusters, jax.lax.map(energy, path), jax.vmap(att.order_parameter)(path)

    return Clustered(*map(np.asarray, (depths, *measured(start))))


def _path(config: Moving, field: att.TokenField, start: Array) -> Array:
    depths = jnp.linspace(0, config.depth, config.frames)
    return att.evolve(field, start, depth=config.depth, steps=config.steps, depths=depths)


def figures(made: Clustered) -> dict[str, Any]:
    """Counts and energies at both ends, and whether the energy ever fell beyond rounding."""
    least = float(np.min(np.diff(made.energies)))
    slack = 1e-5 * float(np.ptp(made.energies))
    return {
        "clusters_before": int(made.clusters[0]),
        "clusters_after": int(made.clusters[-1]),
        "energy_before": float(made.energies[0]),
        "energy_after": float(made.energies[-1]),
        "energy_grows": least > -slack,
        "order_after": float(made.orders[-1]),
    }


def farthest_mode(made: Clustered) -> float:
    """Largest distance of a token, where it ended, from the nearest component's mean."""
    gaps = made.path[-1][:, None] - np.asarray(_MEANS)[None]
    return float(np.max(np.min(np.linalg.norm(gaps, axis=2), axis=1)))


def sweep(config: Sweep, *, seed: int) -> Swept:
    """Numbers of clusters on the circle, averaged over random starts."""
    betas = jnp.geomspace(config.beta_least, config.beta_most, config.betas)
    keys = jr.split(jr.key(seed), config.repeats)
    starts = jax.vmap(lambda key: _directions(config.tokens, 2, key=key))(keys)

    def counts(beta, start):
        identity = jnp.eye(2)
        attention = att.Attention(identity, identity, identity, att.Softmax(1 / beta))
        path = _path(config, att.TokenField(attention, sphere=True), start)
        return jax.vmap(lambda x: att.num_clusters(x, radius=config.radius))(path)

    @jax.jit
    def mean_counts(beta):
        return jnp.mean(jax.vmap(lambda start: counts(beta, start))(starts), axis=0)

    depths = np.linspace(0, config.depth, config.frames)
    return Swept(np.asarray(betas), depths, np.stack([mean_counts(beta) for beta in betas]))


def sweep_figures(swept: Swept) -> dict[str, Any]:
    """Mean numbers of clusters at the last depth."""
    ends = {"least": 0, "most": -1}
    counts = {f"clusters_at_{name}_beta": float(swept.clusters[i, -1]) for name, i in ends.items()}
    return {**counts, "betas": [float(beta) for beta in swept.betas]}


def mixture_density(x: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, " n"]:
    """Density that the sample of `shift` is drawn from."""
    return np.exp(jax.jit(jax.vmap(lambda point: _mixture().log_density(point)))(jnp.asarray(x)))


def _mixture() -> gaussians.Mixture:
    spreads = jnp.array(_SPREADS)
    covariances = jax.vmap(jnp.diag)(spreads**2)
    return gaussians.Mixture(jnp.full(3, 1 / 3), jnp.array(_MEANS), covariances)


def _directions(num: int, dimension: int, *, key: PRNGKeyArray) -> Float[Array, "n d"]:
    return att.normalise(jr.normal(key, (num, dimension)))
