"""Registration by gradient: L-BFGS on the warp of a cloud, through a divergence to another."""

import time
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from tqdm import trange

import transportx as tx
from experiments.differentiate_sinkhorn.warps import (
    Points,
    Registration,
    Scene,
    Theta,
    features,
    identity,
    make_scene,
    roughness,
    warp,
)

Scalar = Float[Array, ""]

_OPTIMIZER = optax.lbfgs()
# Near its end the divergence is small: at the default 1e-3 the gap is a tenth of it.
_SOLVER = tx.ot.Newton(tol=1e-4)


class Sinkhorn(eqx.Module):
    """The Sinkhorn divergence; its numbers are traced, so all of one shape share a program."""

    epsilon: Scalar
    rho: Scalar

    def judge(self, x: Points, y: Points) -> dict[str, Array]:
        made = tx.ot.sinkhorn_divergence(x, y, epsilon=self.epsilon, rho=self.rho, solver=_SOLVER)
        return {"value": made.value, "gap": made.gap, "converged": made.converged}


class EnergyDistance(eqx.Module):
    """The squared energy distance: the baseline."""

    def judge(self, x: Points, y: Points) -> dict[str, Array]:
        return {"value": tx.metrics.energy_distance(x, y) ** 2}


Divergence = Sinkhorn | EnergyDistance


class Objective(eqx.Module):
    """A divergence in units of its start, so that one stiffness suits all; and that stiffness."""

    divergence: Divergence
    phi: Float[Array, "n k"]
    target: Points
    start: Scalar
    stiffness: Scalar

    def __call__(self, theta: Theta) -> Scalar:
        judged = self.divergence.judge(warp(self.phi, theta), self.target)
        return judged["value"] / self.start + self.stiffness * roughness(theta)


class Fit(NamedTuple):
    """One fit: the moved source, a row (step, loss, error, seconds) for every step, and figures."""

    moved: Points
    history: list[dict[str, float]]
    figures: dict[str, Any]


class Registered(NamedTuple):
    """A scene, and the fit of every divergence to it."""

    scene: Scene
    fits: dict[str, Fit]
    floor: float


def register(config: Registration, *, outliers: float, seed: int) -> Registered:
    """Fit one scene with each divergence."""
    scene = make_scene(config, outliers=outliers, seed=seed)
    fits = {name: _fit(config, scene, of, name) for name, of in _divergences(config, scene).items()}
    return Registered(scene, fits, _floor(config, scene, seed))


def _divergences(config: Registration, scene: Scene) -> dict[str, Divergence]:
    rows = tx.geometry.PointCloud(scene.source, scene.target).map_rows(jnp.mean)
    epsilon, rho = config.epsilon * jnp.mean(rows), config.rho * jnp.mean(rows)
    return {
        "sinkhorn": Sinkhorn(epsilon, jnp.full_like(rho, jnp.inf)),
        "sinkhorn_unbalanced": Sinkhorn(epsilon, rho),
        "energy_distance": EnergyDistance(),
    }


def _fit(config: Registration, scene: Scene, divergence: Divergence, name: str) -> Fit:
    phi = features(scene.source, config.bumps)
    before, at_truth = (_judge(divergence, x, scene.target) for x in (scene.source, scene.truth))
    stiffness = jnp.asarray(config.stiffness, phi.dtype)
    objective = Objective(divergence, phi, scene.target, before["value"], stiffness)
    theta, history = _minimise(objective, scene.truth, config.steps, name)
    moved = warp(phi, theta)
    after = {key: value.item() for key, value in _judge(divergence, moved, scene.target).items()}
    figures = {
        "error": history[-1]["error"],
        "divergence_before": float(before["value"]),
        "divergence_after": after.pop("value"),
        "divergence_floor": float(at_truth["value"]),
        **after,
        "seconds": round(history[-1]["seconds"], 3),
    }
    return Fit(moved, history, figures)


def _minimise(
    objective: Objective, truth: Points, steps: int, name: str
) -> tuple[Theta, list[dict[str, float]]]:
    """Go `steps` steps from the identity, and note each; compilation is not timed."""
    theta = identity(objective.phi)
    # Strong types throughout, as after a step: the program is compiled once, here.
    state = jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), _OPTIMIZER.init(theta))
    _update(objective, theta, state)
    began = time.perf_counter()
    history = [_row(objective, theta, truth, step=0, loss=1.0, seconds=0.0)]
    for step in trange(1, steps + 1, desc=name, leave=False, dynamic_ncols=True):
        theta, state = _update(objective, theta, state)
        loss, seconds = float(optax.tree.get(state, "value")), time.perf_counter() - began
        if not np.isfinite(loss):
            raise FloatingPointError(f"the loss {name} is not finite at step {step}")
        history.append(_row(objective, theta, truth, step=step, loss=loss, seconds=seconds))
    return theta, history


def _row(objective: Objective, theta: Theta, truth: Points, **measured: float) -> dict[str, float]:
    return {**measured, "error": error(warp(objective.phi, theta), truth)}


@eqx.filter_jit
def _update(objective: Objective, theta: Theta, state: Any) -> tuple[Any, Any]:
    """A step of L-BFGS: value, gradient and line search through the solver."""
    value, grad = optax.value_and_grad_from_state(objective)(theta, state=state)
    moves, state = _OPTIMIZER.update(grad, state, theta, value=value, grad=grad, value_fn=objective)
    return optax.apply_updates(theta, moves), state


@eqx.filter_jit
def _judge(divergence: Divergence, x: Points, y: Points) -> dict[str, Array]:
    return divergence.judge(x, y)


def error(moved: Points, truth: Points) -> float:
    """Root mean squared distance of the source points from where they belong."""
    return float(jnp.sqrt(jnp.mean(jnp.sum((moved - truth) ** 2, axis=1))))


def _floor(config: Registration, scene: Scene, seed: int) -> float:
    """Error of the same family fitted to known partners with the same noise."""
    rng = np.random.default_rng(seed)
    noise = config.noise * rng.normal(size=scene.truth.shape)
    phi = np.asarray(features(scene.source, config.bumps), np.float64)
    theta, *_ = np.linalg.lstsq(phi, np.asarray(scene.truth, np.float64) + noise)
    return error(jnp.asarray(phi @ theta, jnp.float32), scene.truth)
