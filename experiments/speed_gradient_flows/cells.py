"""The flows that `speed_gradient_flows` measures, ours and by hand, and their accuracy."""
# pyright: reportMissingImports=false

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array

import transportx as tx
import transportx.gradient_flows as gf
from experiments.harness import timing
from experiments.speed_gradient_flows import loops

CELLS = ("SVGD", "MMD", "energy distance", "Sinkhorn divergence")
# Of an Euler step: the flows are well on their way after ten of them.
_STEP = {"SVGD": 0.5, "MMD": 1.0, "energy distance": 0.5, "Sinkhorn divergence": 0.1}
# Of the Sinkhorn divergence, over the mean squared distance.
_EPSILON = 0.1
# Knobs from cheap to dear; the first one that is accurate enough enters.
_TOLERANCES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4)
_ITERATIONS = (5, 10, 15, 20, 30, 40, 60, 80, 120, 160, 240, 320)
_SCALINGS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)

Run = Callable[[Array, Array], Any]


class Clouds(NamedTuple):
    """Particles, and the points that they are drawn to."""

    x: Array
    y: Array


def clouds(num: int, dim: int) -> Clouds:
    """Two normal clouds, the second shifted by one deviation in all."""
    x_key, y_key = jr.split(jr.key(0))
    y = 1 / dim**0.5 + jr.normal(y_key, (num, dim), jnp.float32)
    return Clouds(jr.normal(x_key, (num, dim), jnp.float32), y)


def ours(name: str, solver: tx.ot.AbstractSolver, *, steps: int) -> Callable[..., gf.ParticleFlow]:
    """Euler steps of `flow` from `x` towards `y`."""

    def run(x: Array, y: Array) -> gf.ParticleFlow:
        functional, dynamics = _energy(name, x.shape[1], y, solver)
        t1 = steps * _STEP[name]
        times = t1 * jnp.linspace(0, 1, 2, dtype=x.dtype)
        options = {"dynamics": dynamics, "steps": steps, "times": times}
        return gf.flow(functional, x, t1=t1, **options)

    return run


def _energy(name: str, dim: int, y: Array, solver) -> tuple[gf.AbstractFunctional, Any]:
    kernel = gf.Gaussian(_bandwidth(dim))
    if name == "SVGD":
        return gf.Potential(_Well(jnp.mean(y, axis=0))), gf.Stein(kernel)
    energies = {
        "MMD": lambda: gf.MMD(y, kernel),
        "energy distance": lambda: gf.energy_distance_squared(y),
        "Sinkhorn divergence": lambda: gf.SinkhornDivergenceTo(y, epsilon(dim), solver=solver),
    }
    return energies[name](), gf.Wasserstein()


class _Well(eqx.Module):
    centre: Array

    def __call__(self, x: Array) -> Array:
        return jnp.sum((x - self.centre) ** 2) / 2


def _bandwidth(dim: int) -> float:
    """Half the root mean squared distance of two normal points, over root two."""
    return dim**0.5


def epsilon(dim: int) -> float:
    """Of the Sinkhorn divergence, in units of the cost."""
    return _EPSILON * (2 * dim + 1)


def rivals(name: str, dim: int, steps: int, target: Callable[[Run, Any], bool], at: Clouds):
    """Entrants by name, ours first, each a function without arguments.

    Args:
        name: Of the flow.
        dim: Of the points.
        steps: Of Euler.
        target: Whether the answer of a run is accurate enough: knobs are turned until it is, or
            to their end.
        at: Where they start.
    """
    tensors = _tensors(at)
    for label, runs in _entrants(name, dim, steps, at):
        arguments = at if label.startswith(("transportx", "jax")) else tensors
        run, knob = next(runs)
        while not target(run, arguments) and (dearer := next(runs, None)):
            run, knob = dearer
        yield f"{label}{knob}", partial(run, *arguments)


def _entrants(name, dim, steps, at) -> Iterator[tuple[str, Iterator[tuple[Run, str]]]]:
    size = _STEP[name]
    if name != "Sinkhorn divergence":
        velocity = {
            "SVGD": loops.stein(_bandwidth(dim)),
            "MMD": loops.mmd(_bandwidth(dim)),
            "energy distance": loops.energy_distance(),
        }[name]
        yield "transportx", iter([(_compiled(_end(name, tx.ot.Newton(), steps), at), "")])
        yield "jax loop", iter([(_compiled(loops.in_jax(velocity, steps, size), at), "")])
        yield "torch loop", iter([(loops.in_torch(velocity, steps, size), "")])
        return
    strength = epsilon(dim)
    for solver in (tx.ot.Newton, tx.ot.Sinkhorn):
        yield (
            f"transportx {solver.__name__}",
            (
                (_compiled(_end(name, solver(tol=tol), steps), at), f", tol {tol:g}")
                for tol in _TOLERANCES
            ),
        )
    counted = ((loops.sinkhorn(strength, k), f", {k} iterations") for k in _ITERATIONS)
    yield (
        "jax loop",
        ((_compiled(loops.in_jax(v, steps, size), at), knob) for v, knob in counted),
    )
    counted = ((loops.sinkhorn(strength, k), f", {k} iterations") for k in _ITERATIONS)
    yield "torch loop", ((loops.in_torch(v, steps, size), knob) for v, knob in counted)
    yield (
        "GeomLoss",
        ((loops.in_geomloss(strength, s, steps, size), f", scaling {s:g}") for s in _SCALINGS),
    )


def _end(name: str, solver, steps: int) -> Run:
    flow = ours(name, solver, steps=steps)
    return lambda x, y: flow(x, y).x[-1]


def _compiled(run: Run, at: Clouds) -> Run:
    return timing.compiled(run, *at).run


def _tensors(at: Clouds) -> tuple[Any, Any]:
    import torch

    return torch.from_numpy(np.array(at.x)), torch.from_numpy(np.array(at.y))


def reference(name: str, steps: int, at: Clouds) -> np.ndarray:
    """Where the particles are after the steps, in float64, transport solved to 1e-10."""
    with jax.enable_x64(True):
        exact = (jnp.asarray(np.asarray(part), jnp.float64) for part in at)
        return np.asarray(jax.jit(_end(name, tx.ot.Newton(tol=1e-10), steps))(*exact))
