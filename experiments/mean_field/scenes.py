"""Students of a teacher network in the plane and beyond it, and networks of growing width."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import transportx as tx
import transportx.gradient_flows as gf
import transportx.mean_field as mf
from experiments.harness import config as configs
from experiments.harness.memory import peak_mebibytes
from transportx.evolution import AdaptiveSteps, FixedSteps

NUM_RECORDS = 41
# A student this well aligned has met a teacher, by cosine.
MET = 0.95


@configs.section
class School:
    """Students of a teacher, of one data set."""

    dim: configs.Several
    teachers: configs.Several
    students: configs.Several
    scale: configs.Positive
    data: configs.Several
    t1: configs.Positive
    steps: configs.Count
    rate: configs.Positive
    batch: configs.Count

    def __post_init__(self):
        name = type(self).__name__.lower()
        configs.require(self.batch <= self.data, f"{name}.batch", f"must not exceed {name}.data")
        of_records = f"must be a multiple of {NUM_RECORDS - 1}"
        configs.require(self.steps % (NUM_RECORDS - 1) == 0, f"{name}.steps", of_records)


@configs.section
class Plane(School):
    """Students that are drawn on their way."""


@configs.section
class Space(School):
    """Students of more dimensions, in the same four ways."""


@configs.section
class Width:
    """Independent networks of growing width, at one time."""

    dim: configs.Count
    teachers: configs.Count
    data: configs.Several
    least: configs.Count
    most: configs.Count
    widths: configs.Several
    copies: configs.Several
    t1: configs.Positive
    steps: configs.Count

    def __post_init__(self):
        configs.require(self.most > self.least, "width.most", "must exceed width.least")


class Taught(NamedTuple):
    """A teacher, and its students trained in four ways."""

    teacher: mf.Network
    trainings: dict[str, mf.Training]
    figures: dict[str, dict[str, Any]]


class Widths(NamedTuple):
    """Spread and errors by width; rates are exponents of the width."""

    widths: np.ndarray
    errors: dict[str, np.ndarray]
    rates: dict[str, float]
    figures: dict[str, Any]


def teach(config: School, seed: int) -> Taught:
    """Every way of training, from one start and on one clock."""
    keys = jr.split(jr.key(seed), 6)
    teacher = _teacher(config.teachers, config.dim, keys[0])
    risk, unseen = (_lesson(teacher, config.data, key) for key in keys[1:3])
    start = mf.random_network(config.students, dim=config.dim, scale=config.scale, key=keys[3])
    # Equal to another scene's of equal settings, with which it then shares its programs.
    school, reaction = School(**dataclasses.asdict(config)), _reaction(config)
    ways: dict[str, Callable[[], mf.Training]] = {
        "flow": lambda: _flow(school, risk, start, gf.Wasserstein()),
        "birth and death of weight": lambda: _flow(school, risk, start, reaction),
        "birth and death, drawn": lambda: _draw(school, risk, start, keys[4]),
        "SGD": lambda: _jump(school, risk, start, keys[5]),
    }
    trainings, figures = {}, {}
    for name, way in ways.items():
        began = time.perf_counter()
        made = jax.block_until_ready(way())
        seconds = time.perf_counter() - began
        trainings[name] = made
        figures[name] = _describe(made, teacher, unseen) | {"seconds": round(seconds, 2)}
    figures["flow"]["drift_of_invariants"] = _drift(trainings["flow"])
    return Taught(teacher, trainings, figures)


@eqx.filter_jit
def _flow(school: School, risk, start, dynamics) -> mf.Training:
    times = school.t1 * jnp.linspace(0, 1, NUM_RECORDS)
    options = {"steps": FixedSteps(school.steps, diffrax.Heun()), "times": times}
    return mf.train(risk, start, t1=school.t1, dynamics=dynamics, **options)


@eqx.filter_jit
def _draw(school: School, risk, start, key) -> mf.Training:
    rounds = NUM_RECORDS - 1
    steps = FixedSteps(school.steps // rounds, diffrax.Heun())
    options = {"num_rounds": rounds, "steps": steps, "dynamics": _reaction(school)}
    made = gf.birth_death(risk, *start.measure, t1=school.t1, key=key, **options)
    return mf.as_training(start, made)


@eqx.filter_jit
def _jump(school: School, risk, start, key) -> mf.Training:
    times = school.t1 * jnp.linspace(0, 1, NUM_RECORDS)
    options = {"steps": school.steps, "times": times, "key": key}
    return mf.train(mf.MiniBatches(risk, school.batch), start, t1=school.t1, **options)


def _reaction(school: School) -> gf.WassersteinFisherRao:
    return gf.WassersteinFisherRao(reaction=school.rate)


def _teacher(num: int, dim: int, key) -> mf.Network:
    """Neurons of alternating signs; in the plane evenly around the circle."""
    if dim == 2:
        angles = 2 * jnp.pi * (jnp.arange(float(num)) + 0.25) / num
        inner = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
    else:
        inner = jr.normal(key, (num, dim))
        inner = inner / jnp.linalg.norm(inner, axis=1, keepdims=True)
    signs = jnp.where(jnp.arange(num) % 2 == 0, 2.0, -2.0)
    return mf.Network(inner, signs[:, None], jnp.ones(num))


@eqx.filter_jit
def _lesson(teacher: mf.Network, num: int, key) -> mf.Risk:
    x = jr.normal(key, (num, teacher.inner.shape[1]))
    return mf.Risk(x, teacher(x))


def _describe(made: mf.Training, teacher: mf.Network, unseen: mf.Risk) -> dict[str, Any]:
    risks = {"risk_before": made.risk[0], "risk_after": made.risk[-1]}
    measured = risks | _measure(made.final, teacher, unseen)
    figures = {name: np.asarray(value).tolist() for name, value in measured.items()}
    return {"status": tx.Status[made.status], **figures}


@eqx.filter_jit
def _measure(final: mf.Network, teacher: mf.Network, unseen: mf.Risk) -> dict[str, Any]:
    strengths = mf.strengths(final)
    met = mf.alignment(final, teacher) > MET
    return {
        "risk_unseen": unseen(*final.measure),
        "strength_recovered": _recovered(final, teacher, strengths),
        "share_met": jnp.sum(jnp.where(met, strengths, 0)) / jnp.sum(strengths),
        "neurons_that_count": 1 / jnp.sum(final.masses**2),
    }


def _recovered(final: mf.Network, teacher: mf.Network, strengths):
    """Strength of the students that met each teacher, over the teacher's own."""

    def met(inner, outer):
        one = mf.Network(inner[None], outer[None], jnp.ones(1))
        return jnp.sum(jnp.where(mf.alignment(final, one) > MET, strengths, 0))

    return jax.vmap(met)(teacher.inner, teacher.outer) / mf.strengths(teacher)


def _drift(made: mf.Training) -> float:
    """How far any neuron's invariant is from where it was."""
    kept = np.asarray(eqx.filter_jit(eqx.filter_vmap(mf.invariants))(made.networks))
    return float(np.max(np.abs(kept - kept[:1])))


def widen(config: Width, seed: int) -> Widths:
    """Relu students of one teacher, and linear ones, whose limit is exact."""
    widths = np.geomspace(config.least, config.most, config.widths).round().astype(int)
    teacher_key, data_key, key = jr.split(jr.key(seed), 3)
    risk = _lesson(_teacher(config.teachers, config.dim, teacher_key), config.data, data_key)
    began = time.perf_counter()
    relu_risks, outputs = _at_widths(config, mf.Relu(), risk, widths, key)
    linear_risks, _ = _at_widths(config, mf.Identity(), risk, widths, key)
    law = jnp.eye(config.dim + 1)
    exact = eqx.filter_jit(mf.linear_training)(
        risk, law, t1=config.t1, steps=AdaptiveSteps(1e-6, 1e-6, diffrax.Dopri8())
    )
    limit = float(exact.risk[-1])
    errors = {
        "outputs, relu": np.sqrt(np.mean(np.var(outputs, axis=1, ddof=1), axis=1)),
        "risk, relu": np.std(relu_risks, axis=1, ddof=1),
        "risk from its limit, linear": np.sqrt(np.mean((linear_risks - limit) ** 2, axis=1)),
    }
    rates = {name: float(np.polyfit(np.log(widths), np.log(e), 1)[0]) for name, e in errors.items()}
    figures = {
        "widths": widths.tolist(),
        "mean_risk_relu": np.mean(relu_risks, axis=1).tolist(),
        "mean_risk_linear": np.mean(linear_risks, axis=1).tolist(),
        "limit_risk_linear": limit,
        "errors": {name: error.tolist() for name, error in errors.items()},
        "rates": rates,
        "peak_mebibytes": round(peak_mebibytes()),
        "seconds": round(time.perf_counter() - began, 2),
    }
    return Widths(widths, errors, rates, figures)


def _at_widths(config: Width, activation, risk, widths, key) -> tuple[np.ndarray, np.ndarray]:
    """Risks (widths, copies) and outputs (widths, copies, data) at the last time."""
    options: dict[str, Any] = {"steps": FixedSteps(config.steps, diffrax.Heun())}

    @eqx.filter_jit
    def run(key, n):
        start = mf.random_network(n, dim=config.dim, key=key, activation=activation)
        times = config.t1 * jnp.linspace(0, 1, 2)
        made = mf.train(risk, start, t1=config.t1, times=times, **options)
        return made.risk[-1], made.final(risk.x)[:, 0]

    made = [
        [run(k, int(n)) for k in jr.split(jr.fold_in(key, int(n)), config.copies)] for n in widths
    ]
    risks = np.array([[float(value) for value, _ in row] for row in made])
    return risks, np.array([[np.asarray(outputs) for _, outputs in row] for row in made])
