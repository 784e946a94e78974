"""Particle flows by hand, in JAX and in torch, and by GeomLoss. Torch needs the extra `peers`.

A velocity here is written with the methods that arrays of JAX and tensors of torch share:
`xp` is `jax.numpy` or `torch`. It holds all pairs, as short programs do.
"""
# pyright: reportMissingImports=false

import math
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Velocity = Callable[[Any, Any, Any], Any]


def squared_distances(x: Any, y: Any) -> Any:
    """|x_i - y_j|^2."""
    norms = (x * x).sum(1)[:, None] + (y * y).sum(1)[None, :]
    return (norms - 2 * x @ y.T).clip(min=0)


def stein(bandwidth: float) -> Velocity:
    """SVGD with a Gaussian kernel; the target is the normal law around the mean of `y`."""

    def velocity(xp: Any, x: Any, y: Any) -> Any:
        kernel = xp.exp(squared_distances(x, x) / (-2 * bandwidth**2))
        repulsion = (kernel.sum(1)[:, None] * x - kernel @ x) / bandwidth**2
        return (repulsion - kernel @ (x - y.mean(0)[None, :])) / len(x)

    return velocity


def mmd(bandwidth: float) -> Velocity:
    """The squared MMD of a Gaussian kernel to the points `y`."""

    def push(xp: Any, x: Any, y: Any) -> Any:
        kernel = xp.exp(squared_distances(x, y) / (-2 * bandwidth**2))
        return (kernel.sum(1)[:, None] * x - kernel @ y) / (bandwidth**2 * len(y))

    return lambda xp, x, y: 2 * (push(xp, x, x) - push(xp, x, y))


def energy_distance() -> Velocity:
    """The squared energy distance to the points `y`."""

    def push(xp: Any, x: Any, y: Any) -> Any:
        inverse = 1 / xp.sqrt(squared_distances(x, y).clip(min=1e-6))
        return (inverse.sum(1)[:, None] * x - inverse @ y) / len(y)

    return lambda xp, x, y: 2 * (push(xp, x, x) - push(xp, x, y))


def sinkhorn(epsilon: float, iterations: int) -> Velocity:
    """The Sinkhorn divergence to the points `y`, by as many iterations in the log domain.

    The target's plan to itself moves nothing, and is left out.
    """

    def soft_minimum(xp: Any, costs: Any, potential: Any) -> Any:
        exponents = (potential[None, :] - costs) / epsilon
        top = exponents.max(1)
        top = getattr(top, "values", top)
        sums = xp.exp(exponents - top[:, None]).sum(1)
        return -epsilon * (top + xp.log(sums / costs.shape[1]))

    def image(xp: Any, costs: Any, potential: Any, y: Any) -> Any:
        exponents = (potential[None, :] - costs) / epsilon
        top = exponents.max(1)
        weights = xp.exp(exponents - getattr(top, "values", top)[:, None])
        return (weights @ y) / weights.sum(1)[:, None]

    def velocity(xp: Any, x: Any, y: Any) -> Any:
        across, within = squared_distances(x, y), squared_distances(x, x)

        def update(potentials: Any) -> Any:
            g, own = potentials
            f = soft_minimum(xp, across, g)
            return soft_minimum(xp, across.T, f), (own + soft_minimum(xp, within, own)) / 2

        zeros = 0 * y[:, 0], 0 * x[:, 0]
        g, own = _repeat(xp, update, zeros, iterations)
        return 2 * (image(xp, across, g, y) - image(xp, within, own, x))

    return velocity


def _repeat(xp: Any, update: Callable[[Any], Any], start: Any, times: int) -> Any:
    if xp is jnp:
        return jax.lax.fori_loop(0, times, lambda _, state: update(state), start)
    for _ in range(times):
        start = update(start)
    return start


def in_jax(velocity: Velocity, steps: int, size: float) -> Callable[[Any, Any], Any]:
    """Euler steps by one `lax.scan`."""

    def run(x: Any, y: Any) -> Any:
        def step(x, _):
            return x + size * velocity(jnp, x, y), None

        return jax.lax.scan(step, x, None, length=steps)[0]

    return run


def in_torch(velocity: Velocity, steps: int, size: float) -> Callable[[Any, Any], Any]:
    """Euler steps by a loop of torch, without its graph."""
    import torch

    @torch.no_grad()
    def run(x: Any, y: Any) -> Any:
        for _ in range(steps):
            x = x + size * velocity(torch, x, y)
        return x

    return run


def in_geomloss(
    epsilon: float, scaling: float, steps: int, size: float
) -> Callable[[Any, Any], Any]:
    """Euler steps along the gradient of `SamplesLoss`, whose cost is |x - y|^2 / 2."""
    import torch
    from geomloss import SamplesLoss

    blur = math.sqrt(epsilon / 2)
    loss = SamplesLoss("sinkhorn", p=2, blur=blur, scaling=scaling, backend="tensorized")

    def run(x: Any, y: Any) -> Any:
        for _ in range(steps):
            x = x.detach().requires_grad_()
            (slopes,) = torch.autograd.grad(loss(x, y), x)
            x = x - 2 * size * len(x) * slopes
        return x.detach()

    return run


def use_all_cores() -> None:
    """Let torch have every core.

    Raises:
        ModuleNotFoundError: A peer is not installed.
    """
    import geomloss  # noqa: F401
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
