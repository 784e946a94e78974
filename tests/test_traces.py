"""Public functions called again with other values of the same shapes compile nothing."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

import transportx as tx
from tests import calls, tables
from transportx.evolution import AdaptiveSteps

PATH = tx.interpolants.Trigonometric()
FIELD = tables.in_float64(tx.fields.MLP(2, 4, 1, key=jr.key(0)))
FLOW_MAP = tables.in_float64(tx.fields.MLPFlowMap(2, 4, 1, key=jr.key(0)))
SCORE = tx.fields.ScoreOf(FIELD, PATH)
TIGHT = AdaptiveSteps(1e-3, 1e-3)


def base_log_prob(x):
    return -jnp.sum(x**2) / 2


def level(t):
    return 1 - t


def cloud(key):
    return jr.normal(key, (6, 2))


def span(key) -> dict[str, Any]:
    return {"t0": float(jr.uniform(key, maxval=0.3)), "t1": 0.9}


def labelled(key) -> dict[str, Any]:
    """Times as a user gives them: numbers of Python."""
    return {"times": jnp.array([0.35, 0.9]), **span(key)}


def solved(key):
    """All that needs entries of the plan, as in a notebook."""
    cloud_key, epsilon_key = jr.split(key)
    x, y = cloud(cloud_key), jr.normal(epsilon_key, (7, 2))
    epsilon = 0.3 + float(jr.uniform(epsilon_key))
    plan = tx.ot.solve(tx.geometry.PointCloud(x, y), epsilon=epsilon)
    parts = plan.value, plan.gap, plan.transport_cost, plan.marginals, plan.matrix()
    drawn = plan.sample(key=key, num=3), plan.sample_sources(key=key), plan.top(2)
    return parts, drawn, plan @ y, plan.T @ x, plan.barycentric_map(), plan.map(x), plan.status


def exactly(key):
    """All that an exact plan answers, and its distance."""
    x, y = cloud(key), jr.normal(key, (7, 2))
    plan = tx.ot.exact(tx.geometry.PointCloud(x, y))
    drawn = plan.sample(key=key, num=3), plan.sample_sources(key=key)
    parts = plan.value, plan.matrix(), plan.barycentric_map(), plan @ y, plan.T @ x
    return parts, drawn, plan.status, tx.metrics.wasserstein2(x, y)


def within(key):
    x = cloud(key)
    plan = tx.ot.solve_symmetric(tx.geometry.PointCloud(x, x), epsilon=float(jr.uniform(key)) + 0.1)
    return plan.value, plan.converged


def debiased(key):
    made = tx.ot.sinkhorn_divergence(
        cloud(key), 1 + cloud(key), epsilon=0.3 + float(jr.uniform(key))
    )
    return made.value, made.gap, made.converged, made.status


def semidiscrete(key):
    """Potentials, what is known of them, and pairs with the data."""
    y = cloud(key)
    options = {"init": jnp.zeros(6), "num_steps": 2, "batch": 8, "num_audit": 8}
    plan = tx.ot.semidiscrete(normal, y, key=key, **options)
    pairs = tx.couplings.SemiDiscrete(plan)(cloud(key), y, key=key)
    return plan.value, plan.converged, pairs.converged


def normal(*, key, num):
    return jr.normal(key, (num, 2))


def on(key):
    """Weights and a last time for what flows."""
    return {"t1": 0.1 + float(jr.uniform(key)), "steps": 3}


FUNCTIONAL = tx.gradient_flows.Potential(base_log_prob)
RISK = tx.mean_field.Risk(jnp.ones((4, 2)), jnp.ones((4, 1)))
NETWORK = tx.mean_field.Network(jnp.ones((3, 2)), jnp.ones((3, 1)), activation=tx.mean_field.Tanh())
ATTENTION = tx.attention.Attention(*jnp.ones((3, 1, 2, 2)))
COUPLINGS = {
    "Independent": tx.couplings.Independent(),
    "Assignment": tx.couplings.Assignment(),
    "Entropic": tx.couplings.Entropic(epsilon=0.3),
    "Exact": tx.couplings.Exact(),
    "Unbalanced": tx.couplings.Unbalanced(epsilon=0.3, rho=1.0),
}
# More flows and couplings, on the good call of each that other tests start from.
GOOD = """attention.blow_up_depth attention.evolve_gaussian attention.token_path
    control.simulate control.steer couplings.Conditional.__call__ fields.solve_least_squares
    gradient_flows.gaussian_flow
    gradient_flows.grid_flow gradient_flows.jko_flow gradient_flows.line_flow
    gradient_flows.birth_death mean_field.linear_training metrics.path_energy
    ot.assignment ot.birkhoff ot.sorting_plan"""


def good(name):
    """The good call of a function, its real arrays varied with a key."""
    call = next(call for call in calls.calls(name.split(".")[0]) if call.name == name)

    def varied(key):
        factor = 1 - 0.01 * float(jr.uniform(key))
        vary = functools.partial(jax.tree.map, lambda leaf: _scaled(leaf, factor))
        return call(**{argument: vary(value) for argument, value in call.arguments.items()})

    return varied


def _scaled(leaf, factor):
    return leaf * factor if eqx.is_inexact_array(leaf) else leaf


CALLS = {
    **{name: good(name) for name in GOOD.split()},
    **{
        name: lambda k, coupling=coupling: coupling(cloud(k), 1 + cloud(k), key=k)
        for name, coupling in COUPLINGS.items()
    },
    "gradient flow": lambda k: tx.gradient_flows.flow(FUNCTIONAL, cloud(k), **on(k)),
    "training": lambda k: tx.mean_field.train(RISK, NETWORK, **on(k)),
    "tokens": lambda k: tx.attention.evolve(
        ATTENTION, cloud(k), depth=float(jr.uniform(k)) + 0.1, steps=3
    ),
    "stretch": lambda k: tx.attention.local_lipschitz(jnp.sin, cloud(k), key=k),
    "time to cluster": lambda k: tx.attention.time_to_cluster(
        jnp.arange(2.0), jnp.stack([cloud(k), cloud(k)]), radius=0.1 + float(jr.uniform(k))
    ),
    "solve": solved,
    "exact": exactly,
    "streamed": lambda k: (
        tx.ot.solve(tx.geometry.PointCloud(cloud(k), cloud(k), tile=2), epsilon=0.5).value
    ),
    "solve_symmetric": within,
    "semidiscrete": semidiscrete,
    "sinkhorn_divergence": debiased,
    "flow": lambda k: tx.sampling.flow(FIELD, cloud(k), steps=3, **labelled(k)),
    "adaptive flow": lambda k: tx.sampling.flow(FIELD, cloud(k), steps=TIGHT, **span(k)),
    "trajectories": lambda k: tx.sampling.trajectories(FIELD, cloud(k), steps=3),
    "log_prob": lambda k: tx.sampling.log_prob(
        FIELD, cloud(k), base_log_prob=base_log_prob, steps=3
    ),
    "hutchinson_log_prob": lambda k: tx.sampling.hutchinson_log_prob(
        FIELD, cloud(k), key=k, base_log_prob=base_log_prob, steps=3
    ),
    "exponential_flow": lambda k: tx.sampling.exponential_flow(
        FIELD, cloud(k), path=PATH, steps=3, source_scale=0.5 + float(jr.uniform(k)), **span(k)
    ),
    "few_step": lambda k: tx.sampling.few_step(FLOW_MAP, cloud(k), grid=3),
    "few_step_log_prob": lambda k: tx.sampling.few_step_log_prob(
        FLOW_MAP, cloud(k), base_log_prob=base_log_prob, grid=jnp.array([0.0, 0.9, 1.0])
    ),
    "push_forward": lambda k: tx.sampling.push_forward(
        FIELD, cloud(k), jnp.zeros(6), steps=3, **span(k)
    ),
    "diffuse": lambda k: tx.sampling.diffuse(
        FIELD, cloud(k), score=SCORE, noise=level, key=k, steps=3, **span(k)
    ),
    "predictor_corrector": lambda k: tx.sampling.predictor_corrector(
        FIELD, cloud(k), score=SCORE, key=k, steps=3, **span(k)
    ),
}


@pytest.fixture
def compilations():
    """The programs lowered so far."""
    seen = []

    def note(event, duration_secs, **_):
        if event == "/jax/core/compile/jaxpr_to_mlir_module_duration":
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    yield seen
    jax.monitoring.unregister_event_duration_listener(note)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_second_call_compiles_nothing(call, compilations):
    call(jr.key(1))
    first = len(compilations)
    assert first > 0
    call(jr.key(2))
    assert len(compilations) == first
