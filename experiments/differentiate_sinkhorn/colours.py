"""Colour transfer: the palette of one photograph carried onto another by an entropic map."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import transportx as tx
from experiments.data import photographs
from experiments.harness import config as configs

Pixels = Float[Array, "n 3"]


@configs.section
class Colours:
    """Which photographs, how many pixels, how much regularisation."""

    source: photographs.Name
    target: photographs.Name
    pixels: configs.Several
    epsilon: configs.Positive
    report_pixels: configs.Several

    def __post_init__(self):
        drawn = self.pixels + 2 * self.report_pixels
        most = "needs pixels + 2 report_pixels to be at most 273,280, those of a photograph"
        configs.require(drawn <= 427 * 640, "colours", most)


class Transfer(NamedTuple):
    """Photographs of shape (h, w, 3) in [0, 1], and some pixels, to show their colours."""

    source: np.ndarray
    target: np.ndarray
    transferred: np.ndarray
    shown: np.ndarray


def transfer(config: Colours, seed: int) -> tuple[Transfer, dict[str, Any]]:
    """Map every pixel of the source by a plan between some pixels; the photographs and figures."""
    source, target = (photographs.load(name) for name in (config.source, config.target))
    rng = np.random.default_rng(seed)
    x, y = (jnp.asarray(image.reshape(-1, 3)) for image in (source, target))
    order_x, order_y = (rng.permutation(len(pixels)) for pixels in (x, y))
    used = slice(config.pixels)
    plan = _solve(x[order_x[used]], y[order_y[used]], config.epsilon)
    # The map streams: all pixels at once cost no more memory than one tile.
    mapped = eqx.filter_jit(tx.ot.EntropicPlan.map)(plan, x)
    fresh, second = np.split(order_y[config.pixels :][: 2 * config.report_pixels], 2)
    fresh_x = order_x[config.pixels :][: config.report_pixels]
    figures = {
        "energy_distance_before": _distance(x[fresh_x], y[fresh]),
        "energy_distance_after": _distance(mapped[fresh_x], y[fresh]),
        "energy_distance_floor": _distance(y[second], y[fresh]),
        **describe(plan),
    }
    return Transfer(source, target, np.asarray(mapped).reshape(source.shape), fresh_x), figures


def describe(plan: tx.ot.EntropicPlan) -> dict[str, Any]:
    """What a plan says about itself."""
    return {
        "converged": bool(plan.converged),
        "status": tx.Status[plan.status],
        "marginal_error": float(plan.marginal_error),
        "value": float(plan.value),
        "gap": float(plan.gap),
        "transport_cost": float(plan.transport_cost),
        "epsilon": float(plan.epsilon),
        "num_steps": int(plan.num_steps),
    }


@jax.jit
def _solve(x: Pixels, y: Pixels, relative_epsilon: Float[Array, ""]) -> tx.ot.EntropicPlan:
    geometry = tx.geometry.PointCloud(x, y)
    mean_cost = jnp.mean(geometry.map_rows(jnp.mean))
    return tx.ot.solve(geometry, epsilon=relative_epsilon * mean_cost)


def _distance(x: Pixels, y: Pixels) -> float:
    return float(jax.jit(tx.metrics.energy_distance)(x, y))
