"""Particles that flow from a spot onto two moons, by each of five energies."""

import time
from typing import Annotated, Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from annotated_types import Ge

import transportx as tx
import transportx.gradient_flows as gf
from experiments.data import points
from experiments.harness import config as configs

NUM_RECORDS = 9


@configs.section
class Particles:
    """How many particles flow, from where, for how long, and under which energies."""

    n: configs.Several
    spread: configs.Positive
    offset: float
    t1: configs.Positive
    steps: Annotated[configs.Count, Ge(NUM_RECORDS - 1)]
    bandwidth: configs.Positive
    epsilon: configs.Positive
    projections: configs.Count
    reaction: configs.Positive


class Flown(NamedTuple):
    """One flow: its record and the exact W2 to the target at each recorded time."""

    record: gf.ParticleFlow
    distances: np.ndarray
    figures: dict[str, Any]


class Scene(NamedTuple):
    """The target, its floor, and all flows onto it."""

    target: np.ndarray
    floor: float
    flows: dict[str, Flown]


def flow_all(config: Particles, seed: int) -> Scene:
    """Every energy from one start to one target."""
    start_key, target_key, fresh_key, direction_key = jr.split(jr.key(seed), 4)
    spot = config.spread * points.gaussian(config.n, key=start_key)
    start = spot + jnp.array([[config.offset, 0.0]])
    target, fresh = (points.moons(config.n, key=k) for k in (target_key, fresh_key))
    directions = gf.random_directions(key=direction_key, num=config.projections, dim=2)
    mmd = gf.MMD(target, gf.Gaussian(config.bandwidth))
    weights = gf.WassersteinFisherRao(1.0, config.reaction)
    flows = {
        "MMD": (mmd, gf.Wasserstein()),
        "MMD, birth and death": (mmd, weights),
        "energy distance": (gf.energy_distance_squared(target), gf.Wasserstein()),
        "sliced W2": (gf.SlicedWasserstein(target, directions), gf.Wasserstein()),
        "Sinkhorn divergence": (gf.SinkhornDivergenceTo(target, config.epsilon), gf.Wasserstein()),
    }
    made = {
        name: _flow(config, energy, dynamics, start, target)
        for name, (energy, dynamics) in flows.items()
    }
    return Scene(np.asarray(target), float(_distance(fresh, target)), made)


def _flow(config: Particles, functional, dynamics, start, target) -> Flown:
    times = config.t1 * jnp.linspace(0, 1, NUM_RECORDS)
    began = time.perf_counter()
    record = jax.block_until_ready(
        _carry(functional, dynamics, start, config.t1, config.steps, times)
    )
    seconds = time.perf_counter() - began
    distances = np.array(
        [_weighted_distance(x, w, target) for x, w in zip(record.x, record.weights, strict=True)]
    )
    figures = {
        "status": tx.Status[record.status],
        "energy_before": float(record.energy[0]),
        "energy_after": float(record.energy[-1]),
        "wasserstein2_before": float(distances[0]),
        "wasserstein2_after": float(distances[-1]),
        "seconds": round(seconds, 2),
    }
    return Flown(record, distances, figures)


@eqx.filter_jit
def _carry(functional, dynamics, start, t1, steps, times) -> gf.ParticleFlow:
    options = {"t1": t1, "steps": tx.evolution.FixedSteps(steps, diffrax.Heun()), "times": times}
    return gf.flow(functional, start, dynamics=dynamics, **options)


@jax.jit
def _distance(x, y):
    return tx.metrics.wasserstein2(x, y)


def _weighted_distance(x, weights, target) -> float:
    """Exact W2; weighted particles are drawn as often as their weights say, evenly."""
    n = weights.size
    levels = (np.arange(n) + 0.5) / n
    drawn = np.searchsorted(np.cumsum(np.asarray(weights, np.float64)), levels)
    return float(_distance(x[np.minimum(drawn, n - 1)], target))
