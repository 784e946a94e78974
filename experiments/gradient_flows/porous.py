"""The porous medium equation on a grid, beside Barenblatt's solution."""

import time
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Gt

import transportx as tx
import transportx.gradient_flows as gf
from experiments.harness import config as configs

# Of the whole mass, on every empty cell: masses must be positive.
_BACKGROUND = 1e-7


@configs.section
class Porous:
    """Exponent, cells and steps."""

    cells: configs.Several
    half_width: configs.Positive
    exponent: Annotated[float, Gt(1)]
    t0: configs.Positive
    t1: configs.Positive
    steps: configs.Count

    def __post_init__(self):
        configs.require(self.t1 > self.t0, "porous.t1", "must be above porous.t0")


class BarenblattRun(NamedTuple):
    """Densities at all times, exact and found."""

    x: np.ndarray
    times: np.ndarray
    found: np.ndarray
    exact: np.ndarray
    energy: np.ndarray
    figures: dict[str, Any]


def spread(config: Porous) -> BarenblattRun:
    """Start from Barenblatt's profile at t0 and follow it to t1."""
    box = gf.CellBox((-config.half_width,), (config.half_width,), (config.cells,))
    x = np.asarray(box.centres[:, 0], np.float64)
    began = time.perf_counter()
    start = jnp.asarray(barenblatt(config.t0, x, config.exponent) * box.volume)
    start = start + _BACKGROUND * jnp.sum(start)
    functional = gf.PorousMedium(box.volume, config.exponent)
    made = jax.jit(
        lambda masses: gf.grid_flow(
            functional, box, masses, t1=config.t1 - config.t0, steps=config.steps
        )
    )(start)
    masses = np.asarray(made.masses, np.float64)
    seconds = time.perf_counter() - began
    times = config.t0 + np.asarray(made.times, np.float64)
    exact = np.stack([barenblatt(t, x, config.exponent) for t in times])
    found = masses / box.volume
    totals = masses.sum(axis=1)
    figures = {
        "status": tx.Status[made.status],
        "relative_l1_error": float(np.sum(np.abs(found[-1] - exact[-1])) / np.sum(exact[-1])),
        "mass_error": float(np.max(np.abs(totals / totals[0] - 1))),
        "least_mass": float(masses.min()),
        "largest_rise_of_energy": float(np.max(np.diff(np.asarray(made.energy, np.float64)))),
        "steps_over_explicit_limit": _over_limit(config, box, found[0].max()),
        "seconds": round(seconds, 2),
    }
    return BarenblattRun(x, times, found, exact, np.asarray(made.energy), figures)


def barenblatt(t: float, x: np.ndarray, exponent: float) -> np.ndarray:
    """The solution on the line that starts from a point, of height .5 at its centre at t = 1."""
    rate = 1 / (exponent + 1)
    bend = rate * (exponent - 1) / (2 * exponent)
    height = 0.5 ** (exponent - 1)
    inside = np.maximum(height - bend * x**2 * t ** (-2 * rate), 0)
    return t**-rate * inside ** (1 / (exponent - 1))


def _over_limit(config: Porous, box: gf.CellBox, peak: float) -> float:
    """The time step over h^2 / 2 D, with the diffusivity D = m rho^(m - 1) at the peak."""
    diffusivity = config.exponent * peak ** (config.exponent - 1)
    return round((config.t1 - config.t0) / config.steps * 2 * diffusivity / box.volume**2, 1)
