"""Heat and Fokker-Planck on the line, four ways each, beside their exact solutions."""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import scipy.stats

import transportx as tx
import transportx.gradient_flows as gf
from experiments.harness import config as configs

# Potentials of the two equations are this much of x^2 / 2.
EQUATIONS = {"heat": 0.0, "Fokker-Planck": 1.0}


@configs.section
class Line:
    """A Gaussian that diffuses, carried by particles, by cells and by quantiles."""

    n: configs.Several
    cells: configs.Several
    half_width: configs.Positive
    intervals: configs.Several
    mean: float
    deviation: configs.Positive
    t1: configs.Positive
    steps: configs.Count


class Diffused(NamedTuple):
    """One equation: atoms and masses of every way at the last time, and how far from exact."""

    mean: float
    deviation: float
    atoms: dict[str, tuple[np.ndarray, np.ndarray]]
    figures: dict[str, Any]


def diffuse(config: Line, seed: int) -> dict[str, Diffused]:
    """Both equations from one Gaussian, of temperature one."""
    programs = _programs(config)
    keys = jr.split(jr.key(seed), len(EQUATIONS))
    return {
        name: _solve(config, programs, stiffness, key)
        for (name, stiffness), key in zip(EQUATIONS.items(), keys, strict=True)
    }


def _solve(config: Line, programs, stiffness: float, key) -> Diffused:
    mean, deviation = _exact(config, stiffness)
    start_key, noise_key, fresh_key = jr.split(key, 3)
    start = config.mean + config.deviation * jr.normal(start_key, (config.n, 1))
    atoms, figures = {}, {}
    for name, program in programs.items():
        began = time.perf_counter()
        x, weights, status = jax.block_until_ready(program(stiffness, start, noise_key))
        atoms[name] = np.asarray(x), np.asarray(weights)
        figures[name] = {
            "status": tx.Status[status],
            "wasserstein2": _distance(x, weights, mean, deviation),
            "seconds": round(time.perf_counter() - began, 2),
        }
    fresh = mean + deviation * jr.normal(fresh_key, (config.n,))
    even = jnp.full(config.n, 1 / config.n)
    figures["floor of the particles"] = {
        "wasserstein2": _distance(fresh, even, mean, deviation),
    }
    return Diffused(mean, deviation, atoms, figures)


def _programs(config: Line) -> dict[str, Any]:
    """Ways to solve: from stiffness, particles and a key to atoms, masses and a status."""
    box = gf.CellBox((-config.half_width,), (config.half_width,), (config.cells,))
    centres = np.asarray(box.centres[:, 0], np.float64)
    masses = scipy.stats.norm.pdf(centres, config.mean, config.deviation) + 1e-9
    ends = config.mean + 3.5 * config.deviation * np.linspace(-1, 1, config.intervals + 1)
    held = np.diff(scipy.stats.norm.cdf(ends, config.mean, config.deviation))
    masses, nodes, held = (jnp.asarray(a, jnp.float32) for a in (masses, ends, held))
    masses, held = masses / jnp.sum(masses), held / jnp.sum(held)
    options = {"t1": config.t1, "steps": config.steps}

    @jax.jit
    def by_cells(stiffness, x, key):
        functional = _well(stiffness) + gf.Entropy(box.volume)
        made = gf.grid_flow(functional, box, masses, **options)
        return box.centres[:, 0], made.masses[-1], made.status

    @jax.jit
    def by_quantiles(stiffness, x, key):
        def functional(lengths):
            return _well(stiffness) + gf.Entropy(lengths)

        made = gf.line_flow(functional, nodes, held, **options)
        last = made.nodes[-1]
        return (last[1:] + last[:-1]) / 2, held, made.status

    def by_particles(dynamics, stiffness, x, key):
        way = {"t1": config.t1, "steps": config.steps, "key": key}
        made = gf.flow(_well(stiffness), x, dynamics=dynamics, **way)
        return made.x[-1, :, 0], made.weights[-1], made.status

    score = gf.FittedScore(lambda x: jnp.concatenate([x, x**2, x**3]))
    return {
        "cells, implicit": by_cells,
        "quantiles, JKO": by_quantiles,
        "particles, noise": jax.jit(lambda *args: by_particles(gf.Langevin(), *args)),
        "particles, fitted score": jax.jit(lambda s, x, _: by_particles(score, s, x, None)),
    }


def _well(stiffness) -> gf.Potential:
    return gf.Potential(lambda x: stiffness * jnp.sum(x**2) / 2)


def _exact(config: Line, stiffness: float) -> tuple[float, float]:
    """Mean and deviation at the last time; of the heat equation in the limit of no potential."""
    if stiffness == 0:
        return config.mean, float(np.sqrt(config.deviation**2 + 2 * config.t1))
    shrunk = float(np.exp(-stiffness * config.t1))
    rest = 1 / stiffness
    return config.mean * shrunk, float(np.sqrt(rest + (config.deviation**2 - rest) * shrunk**2))


def _distance(x, weights, mean: float, deviation: float) -> float:
    """W2 to the exact law, by 4,000 of its quantiles."""
    levels = (np.arange(4000) + 0.5) / 4000
    quantiles = jnp.asarray(scipy.stats.norm.ppf(levels, mean, deviation), x.dtype)
    return float(_wasserstein(x, quantiles, weights / jnp.sum(weights)))


@jax.jit
def _wasserstein(x, quantiles, weights):
    return tx.ot.wasserstein_1d(x, quantiles, weights)
