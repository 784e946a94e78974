"""A known free energy recovered from populations: alone, with noise, with interaction."""

import time
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array

import transportx as tx
import transportx.gradient_flows as gf
import transportx.learned_energies as le
from experiments.harness import config as configs


@configs.section
class Recovery:
    """The energy, its populations, and how it is learned."""

    n: configs.Several
    half_width: configs.Positive
    times: list[float]
    steps: configs.Count
    well: configs.Positive
    bowl: configs.Positive
    temperature: configs.Positive
    attraction: configs.Positive
    bandwidth: configs.Positive
    blur: configs.Positive
    degree: configs.Count
    threshold: configs.NotNegative
    epsilon: configs.Positive
    transported: configs.Several
    width: configs.Count
    network_steps: configs.Count
    batch: configs.Count
    learning_rate: configs.Positive
    compared: configs.Several
    repeats: configs.Count
    redrawn: bool

    def __post_init__(self):
        rising = len(self.times) > 1 and all(np.diff(self.times) > 0) and self.times[0] == 0
        configs.require(rising, "recovery.times", "must rise from 0")
        configs.require(self.compared <= self.n, "recovery.compared", "must be at most n")
        configs.require(self.transported <= self.n, "recovery.transported", "must be at most n")


class Case(NamedTuple):
    """What is in the energy, and in the observations."""

    temperature: float
    attraction: float
    blur: float


class Recovered(NamedTuple):
    """One case: populations, the fit of the weak form, and figures of every form."""

    snapshots: np.ndarray
    predicted: np.ndarray
    potentials: dict[str, Any]
    figures: dict[str, Any]


def recover_all(config: Recovery, seed: int) -> dict[str, Recovered]:
    """Every case, each with draws of its own."""
    cases = {
        "potential": Case(0.0, 0.0, 0.0),
        "potential, observed with error": Case(0.0, 0.0, config.blur),
        "with noise": Case(config.temperature, 0.0, 0.0),
        "with noise and interaction": Case(config.temperature, config.attraction, 0.0),
    }
    keys = jr.split(jr.key(seed), len(cases))
    return {
        name: _recover(config, case, key)
        for (name, case), key in zip(cases.items(), keys, strict=True)
    }


def true_potential(config: Recovery):
    """A double well in the first coordinate and a bowl in the second."""

    def potential(x: Array) -> Array:
        return config.well * (x[0] ** 2 - 1) ** 2 / 4 + config.bowl * x[1] ** 2 / 2

    return potential


def _recover(config: Recovery, case: Case, key) -> Recovered:
    data_key, fit_key, push_key, fresh_key, repeat_key = jr.split(key, 5)
    draw = jax.jit(lambda key: _populations(config, case, key))
    clouds = draw(data_key)
    fits, predicted = _fit(config, case, clouds, fit_key), {}
    true = _true(config, case)
    points, figures = _all(clouds), {}
    end, few = clouds[-1], slice(config.compared)
    for name, (fit, seconds) in fits.items():
        predicted = _step(config, fit.energy, clouds[-2], push_key)
        figures[name] = {
            "gradient_error": float(_gradient_error(fit.energy, true, points)),
            "temperature": float(fit.energy.temperature),
            "attraction": [float(c) for c in fit.energy.coefficients],
            "next_wasserstein2": float(tx.metrics.wasserstein2(predicted[few], end[few])),
            "status": tx.Status[fit.status],
            "seconds": round(seconds, 2),
        }
    weak = fits["weak form"][0]
    figures["weak form"] |= {
        "misfit": float(weak.misfit),
        "kept": int(jnp.sum(weak.kept)),
        "condition": float(weak.condition),
    }
    figures["weak form"]["repeated_gradient_errors"] = [
        float(_gradient_error(_by_weak_form(config, case, again).energy, true, _all(again)))
        for again in map(draw, jr.split(repeat_key, config.repeats))
    ]
    fresh = draw(fresh_key)[-1]
    figures["no_change_wasserstein2"] = float(tx.metrics.wasserstein2(clouds[-2][few], end[few]))
    figures["floor_wasserstein2"] = float(tx.metrics.wasserstein2(fresh[few], end[few]))
    shown = _step(config, weak.energy, clouds[-2], push_key)
    potentials = {name: fit.energy.potential for name, (fit, _) in fits.items()}
    return Recovered(np.asarray(clouds), np.asarray(shown), potentials, figures)


def _terms(config: Recovery, case: Case):
    kernel = gf.Gaussian(config.bandwidth)
    return (gf.Interaction(kernel),) if case.attraction else ()


def _attraction(case: Case):
    return jnp.array([case.attraction] if case.attraction else [], float)


def _true(config: Recovery, case: Case) -> le.LearnedEnergy:
    return le.LearnedEnergy(
        true_potential(config), _terms(config, case), _attraction(case), case.temperature
    )


def _all(clouds: Array) -> Array:
    """The points of all populations."""
    return clouds.reshape(-1, 2)


def _populations(config: Recovery, case: Case, key) -> Array:
    """One flow seen at all times or, `redrawn`, at each time another: nobody is followed."""
    energy, times = _true(config, case), jnp.asarray(config.times, float)

    def draw(key):
        start_key, key = jr.split(key)
        x = jr.uniform(start_key, (config.n, 2), minval=-1.0) * config.half_width
        return _flow(energy, x, times[-1], config.steps, key, case.temperature > 0, times).x

    blur_key, key = jr.split(key)
    if config.redrawn:
        flows = jax.lax.map(draw, jr.split(key, len(config.times)))
        clouds = jnp.stack([flow[j] for j, flow in enumerate(flows)])
    else:
        clouds = draw(key)
    return clouds + case.blur * jr.normal(blur_key, clouds.shape)


def _by_weak_form(config: Recovery, case: Case, clouds: Array) -> le.EnergyFit:
    return _fit_weak_form(
        clouds,
        jnp.asarray(config.times, float),
        le.Monomials(2, config.degree),
        terms=_terms(config, case),
        threshold=config.threshold,
    )


_fit_weak_form = eqx.filter_jit(le.fit_weak_form)


def _flow(energy, x, t1, steps, key, noisy, times=None):
    options = {"t1": t1, "steps": tx.evolution.FixedSteps(steps, diffrax.Heun()), "times": times}
    if not noisy:
        return gf.flow(energy.functional, x, **options)
    dynamics = gf.Langevin(energy.temperature)
    return gf.flow(energy.functional, x, dynamics=dynamics, key=key, **options)


def _step(config: Recovery, energy, x, key):
    """From the last time but one to the last, under what was learned."""
    t1 = config.times[-1] - config.times[-2]
    noisy = float(energy.temperature) > 0
    run = eqx.filter_jit(lambda energy, x: _flow(energy, x, t1, 40, key, noisy).x[-1])
    return run(energy, x)


def _fit(config: Recovery, case: Case, clouds, key) -> dict[str, Any]:
    """By every form, with the seconds each took, compilation included."""
    features, times = le.Monomials(2, config.degree), jnp.asarray(config.times, float)
    options = {"terms": _terms(config, case), "threshold": config.threshold}
    few = clouds[:, : config.transported]
    model_key, train_key = jr.split(key)
    network = eqx.nn.MLP(2, "scalar", config.width, 2, jax.nn.softplus, key=model_key)

    def by_first_order():
        def fit(few):
            moved = le.transport_displacements(few, times, epsilon=config.epsilon)
            return le.fit_first_order(few, times, features, displacements=moved, **options)

        return eqx.filter_jit(fit)(few)

    weak = _timed(lambda: _by_weak_form(config, case, clouds))
    fits = {"weak form": weak, "first order": _timed(by_first_order)}

    def by_network():
        moved = eqx.filter_jit(le.transport_displacements)(few, times, epsilon=config.epsilon)
        train = eqx.filter_jit(le.fit_network)
        return train(
            network,
            moved,
            optimizer=optax.adam(config.learning_rate),
            num_steps=config.network_steps,
            batch=config.batch,
            temperature=weak[0].energy.temperature,
            key=train_key,
        )

    # A network of a potential alone has no part for what points do to each other.
    return fits if case.attraction else fits | {"network": _timed(by_network)}


def _timed(fit):
    began = time.perf_counter()
    made = jax.block_until_ready(fit())
    return made, time.perf_counter() - began


@eqx.filter_jit
def _gradient_error(energy, true, x):
    """Of the potential, in the mean square over all populations, relative."""
    found, exact = (jax.vmap(jax.grad(e.potential))(x) for e in (energy, true))
    return jnp.sqrt(jnp.sum((found - exact) ** 2) / jnp.sum(exact**2))
