"""Every public function of the core rooms, ready to be compiled in float32.

A job is a name, `room.function` or `room.Class`, a function of arrays and their shapes. Add a
job for each new public name; a test in `test_aot.py` fails until there is one.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import transportx as tx
from tests import tables
from transportx.geometry import internal

CORE = ("geometry", "gaussians", "ot", "couplings", "interpolants", "fields", "losses")
CORE += ("training", "sampling", "metrics")

# Public, but nothing to compile: types, what only others' jobs make, what runs on the host.
NOT_COMPILED = {
    "geometry.CostMatrix": "job of ot.birkhoff",
    "geometry.Layout": "settings",
    "geometry.ShardedCloud": "test of its own",
    "gaussians.EntropicGaussianPlan": "answer of gaussians.entropic_plan",
    "gaussians.UnbalancedGaussianPlan": "answer of gaussians.unbalanced",
    "gaussians.Quadratic": "part of an answer",
    "gaussians.AffineMap": "answer of gaussians.transport_map",
    "ot.EntropicPlan": "answer of ot.solve",
    "ot.SinkhornDivergence": "answer of ot.sinkhorn_divergence",
    "ot.ExactPlan": "answer of ot.exact",
    "ot.PairMasses": "part of an answer",
    "ot.exact": "searches on the host",
    "ot.semidiscrete": "job of couplings.SemiDiscrete",
    "ot.Problem": "part of an answer",
    "ot.SemiDiscretePlan": "answer of ot.semidiscrete",
    "ot.Scaling": "part of a solver",
    "ot.Iterate": "part of a solver",
    "ot.Status": "part of an answer",
    "ot.sorting_plan": "job of ot.soft_sort",
    "couplings.Diagnostics": "answer of couplings.diagnose",
    "couplings.Exact": "searches on the host",
    "couplings.Pairs": "answer of a coupling",
    "interpolants.Predictions": "an answer",
    "interpolants.NoisedTarget": "an answer",
    "fields.FieldDiagnostics": "answer of fields.diagnose_field",
    "fields.LeastSquaresField": "answer of fields.solve_least_squares",
    "fields.solve_least_squares": "job of fields.least_squares",
    "losses.MeanFlowParts": "answer of losses.mean_flow_parts",
    "losses.path_velocity": "job of losses.mean_flow",
    "sampling.Likelihood": "an answer",
    "sampling.Trajectories": "an answer",
    "sampling.diffusion_trajectories": "job of sampling.diffuse",
    "sampling.exponential_trajectories": "job of sampling.exponential_flow",
    "sampling.hutchinson_likelihood": "job of sampling.hutchinson_log_prob",
    "sampling.likelihood": "job of sampling.log_prob",
    "sampling.predictor_corrector_trajectories": "job of sampling.predictor_corrector",
    "sampling.ReflowBatch": "answer of sampling.Reflow",
    "sampling.few_step_likelihood": "job of sampling.few_step_log_prob",
    "sampling.few_step_trajectories": "job of sampling.few_step",
    "sampling.trajectories": "job of sampling.flow",
    "training.NonFiniteLossError": "an error",
    "training.TrainState": "answer of training.init",
    "training.fit": "runs on the host; its steps are compiled for every config",
    "training.init": "job of training.make_step",
}


class Job(NamedTuple):
    """A function and the arrays it takes."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


def shape(*sizes, dtype: Any = np.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def single(tree):
    """All its numbers in float32: the tables are made for tests in float64."""

    def convert(leaf):
        return leaf.astype(jnp.float32) if eqx.is_inexact_array(leaf) else leaf

    return jax.tree.map(convert, tree)


def public_names():
    """Functions and concrete classes of the core rooms, as room.name."""
    for room in CORE:
        for name, value in vars(getattr(tx, room)).items():
            if name.startswith("_") or inspect.ismodule(value) or not callable(value):
                continue
            named = inspect.isfunction(value) or inspect.isclass(value) or hasattr(value, "jvp")
            if named and not inspect.isabstract(value):
                yield f"{room}.{name}"


X, Y, A = shape(96, 3), shape(80, 3), shape(96)
T, POINT, BATCH = shape(), shape(3), shape(16, 3)
MEAN, MATRIX = shape(3), shape(3, 3)
ENDS = MEAN, MATRIX, MEAN, MATRIX
KEY = jax.eval_shape(lambda: jr.key(0))
CELLS = shape(16, 16)
PATH = tx.interpolants.Linear()
BOX = tx.fields.Box((16, 16), (1.0, 1.0))


def velocity(t, x, args=None):
    return jnp.tanh(x) * (1 + t)


def averaged(s, t, x, args=None):
    return jnp.tanh(x) * (1 + s) * (1 + t)


def normal(x):
    return -jnp.sum(x**2) / 2


def drawn(*, key, num):
    return jr.normal(key, (num, 2))


def semidiscrete_pairs(y, x0, epsilon, key):
    plan = tx.ot.semidiscrete(drawn, y, epsilon=epsilon, key=key, num_steps=4)
    return plan.value, tx.couplings.SemiDiscrete(plan)(x0, y, key=key)


def density_potentials(masses, y, key):
    density = tx.ot.GridDensity(masses, jnp.zeros(2), jnp.ones(2))
    return tx.ot.semidiscrete(density, y, key=key).g


def plan_answers(x, y, a):
    plan = tx.ot.solve(tx.geometry.PointCloud(x, y, tile=16), a, epsilon=0.1)
    loss = plan.value + jnp.sum(jnp.sin(plan.f)) + jnp.sum(plan.barycentric_map())
    return loss, (plan.gap, plan.status, plan.top(3), plan.sample(key=jr.key(0), num=8))


def unbalanced_answers(x, y, a, rho):
    solver = tx.ot.Sinkhorn()
    cloud = tx.geometry.PointCloud(x, y)
    plan = tx.ot.solve(cloud, a, epsilon=0.1, rho_a=rho, solver=solver)
    return plan.value + jnp.sum(plan @ y)


def costs_by(cost):
    return lambda x, y: tx.geometry.PointCloud(x, y, cost).matrix()


def called(field):
    return lambda t, x, label: field(t, x, label)


def coupled(coupling):
    return lambda x0, x1, key: coupling(x0, x1, key=key)


def matched(loss):
    return lambda x0, x1, key: jax.grad(lambda s: loss(_scaled(s), PATH, x0, x1, key=key))(1.0)


def mapped(loss):
    """The gradient of a loss of flow maps in a factor of the map."""

    def of(scale, x0, x1, key):
        found = loss(lambda *given: scale * averaged(*given), PATH, x0, x1, key=key)
        return getattr(found, "loss", found)

    return lambda x0, x1, key: jax.grad(of)(1.0, x0, x1, key)


def _scaled(scale):
    return lambda t, x, args=None: scale * velocity(t, x)


def converted(conversion):
    return lambda t, x, v: conversion(PATH, t, x, v)


def stepped(x0, x1, key):
    optimizer, field = optimizer_and_field()
    state = tx.training.init(field, optimizer)

    def loss(field, batch, *, key):
        return tx.losses.flow_matching(field, PATH, *batch, key=key)

    state, value = tx.training.make_step(loss, optimizer)(state, (x0, x1), key=key)
    return eqx.filter(state, eqx.is_array), value


def optimizer_and_field():
    import optax

    return optax.adam(1e-3), tx.fields.MLP(3, 16, 2, key=jr.key(0))


def _weights(x):
    return jax.nn.softmax(x[:, 0])


def _tables():
    """Classes by the tables of their kinds."""
    for cost in tables.COSTS.values():
        yield "geometry", cost, Job(costs_by(single(cost)), (X, Y))
    for coupling in tables.COUPLINGS.values():
        if f"couplings.{type(single(coupling)).__name__}" in NOT_COMPILED:
            continue
        yield "couplings", coupling, Job(coupled(single(coupling)), (BATCH, BATCH, KEY))
    for path in tables.INTERPOLANTS.values():
        yield "interpolants", path, Job(single(path).__call__, (T, POINT, POINT, POINT))
    for field in tables.FIELDS.values():
        yield "fields", field, Job(jax.vmap(single(field), (None, 0)), (T, BATCH))
    for field, x, label in tables.CONDITIONED_FIELDS.values():
        arguments = T, shape(*x.shape), shape(dtype=label.dtype)
        yield "fields", field, Job(called(single(field)), arguments)
    for flow_map, sizes in tables.FLOW_MAPS.values():
        carried = jax.vmap(single(flow_map), (None, None, 0))
        yield "fields", flow_map, Job(carried, (T, T, shape(16, *sizes)))


@functools.cache
def jobs():
    """All of them, by name."""
    made = {f"{room}.{type(thing).__name__}": job for room, thing, job in _tables()} | INTERNAL
    return made | _GEOMETRY | _GAUSSIANS | _OT | _PATHS | _FIELDS | _LOSSES | _SAMPLING | _METRICS


_GEOMETRY = {
    "geometry.PointCloud": Job(
        lambda x, y: tx.geometry.PointCloud(x, y, tile=16).mean_cost(), (X, Y)
    ),
    "geometry.cloud_between": Job(
        lambda x, y: tx.geometry.cloud_between(
            x, y, tx.geometry.Euclidean(), layout=tx.geometry.Layout(tile=16)
        ).mean_cost(),
        (X, Y),
    ),
}


def _kernel(x, y, a, tile=None):
    cloud = tx.geometry.PointCloud(x, y, tile=tile)
    return internal.gibbs_kernel(cloud, a, y[:, 0], jnp.float32(0.1))


# Not public, but what all else is made of.
INTERNAL = {
    "geometry.internal.DenseKernel": Job(lambda x, y, a: _kernel(x, y, a).T @ x, (X, Y, A)),
    "geometry.internal.StreamedKernel": Job(lambda x, y, a: _kernel(x, y, a, 16) @ y, (X, Y, A)),
    "geometry.internal.log_totals": Job(
        lambda x, y: internal.log_totals(
            tx.geometry.PointCloud(x, y, tile=16), y[:, 1], y[:, 0], jnp.float32(0.1)
        ),
        (X, Y),
    ),
}

_GAUSSIANS = {
    "gaussians.Mixture": Job(
        lambda w, m, s, x, key: (
            tx.gaussians.Mixture(w, m, s).log_density(x),
            tx.gaussians.Mixture(w, m, s).sample(key=key, num=8),
        ),
        (shape(4), shape(4, 3), shape(4, 3, 3), POINT, KEY),
    ),
    "gaussians.bridge": Job(lambda t, *ends: tx.gaussians.bridge(t, *ends, sigma=0.5), (T, *ENDS)),
    "gaussians.bridge_drift": Job(
        lambda t, *ends: tx.gaussians.bridge_drift(t, *ends, sigma=0.5), (T, *ENDS)
    ),
    "gaussians.bures_squared": Job(tx.gaussians.bures_squared, (MATRIX, MATRIX)),
    "gaussians.entropic_plan": Job(
        lambda x, *ends: tx.gaussians.entropic_plan(*ends, epsilon=0.1).f(x), (POINT, *ENDS)
    ),
    "gaussians.entropic_unbalanced": Job(
        lambda m0, S0, m1, S1: tx.gaussians.entropic_unbalanced(
            1.0, m0, S0, 2.0, m1, S1, epsilon=0.1, rho_a=1.0, rho_b=2.0
        ),
        ENDS,
    ),
    "gaussians.flow_matching_field": Job(
        lambda t, *ends: tx.gaussians.flow_matching_field(
            (1 - t, t, 0 * t), (-1 + 0 * t, 1 + 0 * t, 0 * t), *ends
        ),
        (T, *ENDS),
    ),
    "gaussians.geodesic": Job(tx.gaussians.geodesic, (T, *ENDS)),
    "gaussians.log_density": Job(tx.gaussians.log_density, (POINT, MEAN, MATRIX)),
    "gaussians.debiased_divergence": Job(
        lambda *ends: tx.gaussians.debiased_divergence(*ends, epsilon=0.1), ENDS
    ),
    "gaussians.sqrtm": Job(tx.gaussians.sqrtm, (MATRIX,)),
    "gaussians.transport_map": Job(
        lambda x, *ends: tx.gaussians.transport_map(*ends)(x), (POINT, *ENDS)
    ),
    "gaussians.unbalanced": Job(
        lambda m0, S0, m1, S1: tx.gaussians.unbalanced(
            1.0, m0, S0, 2.0, m1, S1, rho_a=1.0, rho_b=2.0
        ),
        ENDS,
    ),
    "gaussians.wasserstein2": Job(jax.grad(tx.gaussians.wasserstein2), ENDS),
    "gaussians.wasserstein2_squared": Job(tx.gaussians.wasserstein2_squared, ENDS),
}

_OT = {
    "ot.assignment": Job(tx.ot.assignment, (shape(16, 16),)),
    "ot.birkhoff": Job(
        jax.vmap(jax.grad(lambda m: jnp.sum(jnp.sin(tx.ot.birkhoff(m).matrix())))),
        (shape(4, 8, 8),),
    ),
    "ot.soft_rank": Job(jax.jacobian(tx.ot.soft_rank), (shape(8),)),
    "ot.soft_sort": Job(tx.ot.soft_sort, (shape(8),)),
    "ot.gaussian_potentials": Job(
        lambda x, y: tx.ot.gaussian_potentials(x, y, epsilon=0.1), (X, Y)
    ),
    "ot.sinkhorn_divergence": Job(
        jax.grad(lambda x, y: tx.ot.sinkhorn_divergence(x, y, epsilon=0.1).value), (X, Y)
    ),
    "ot.sliced_wasserstein": Job(
        lambda x, y, key: tx.ot.sliced_wasserstein(x, y, key=key), (X, Y, KEY)
    ),
    "ot.GridDensity": Job(density_potentials, (CELLS, shape(24, 2), KEY)),
    "ot.solve": Job(
        lambda x, y, z: jax.value_and_grad(plan_answers, argnums=(0, 1), has_aux=True)(
            x, y, _weights(z)
        ),
        (X, Y, X),
    ),
    "ot.Newton": Job(
        lambda x, y: (
            tx.ot.solve(
                tx.geometry.PointCloud(x, y, tx.geometry.Euclidean()),
                epsilon=0.1,
                solver=tx.ot.Newton(),
            ).f
        ),
        (X, Y),
    ),
    "ot.Sinkhorn": Job(jax.grad(unbalanced_answers, argnums=(0, 2, 3)), (X, Y, A, T)),
    "ot.solve_symmetric": Job(
        lambda x: tx.ot.solve_symmetric(tx.geometry.PointCloud(x, x), epsilon=0.1).value, (X,)
    ),
    "ot.wasserstein_1d": Job(tx.ot.wasserstein_1d, (shape(20), shape(30))),
}

_PATHS = {
    "couplings.Conditional": Job(
        lambda x0, x1, c, key: tx.couplings.Conditional(tx.couplings.Entropic(0.05), 2.0)(
            x0, x1, c, key=key
        ),
        (BATCH, BATCH, shape(16, 2), KEY),
    ),
    "couplings.SemiDiscrete": Job(
        jax.value_and_grad(semidiscrete_pairs, has_aux=True),
        (shape(24, 2), shape(16, 2), T, KEY),
    ),
    "couplings.take": Job(tx.couplings.take, (BATCH, shape(16, dtype=np.int32))),
    "couplings.diagnose": Job(
        lambda x, y: tx.couplings.diagnose(tx.ot.solve(tx.geometry.PointCloud(x, y), epsilon=0.1)),
        (X, Y),
    ),
    "interpolants.Bernstein": Job(lambda c, t: tx.interpolants.Bernstein(c)(t), (shape(3), T)),
    "interpolants.Power": Job(lambda t: tx.interpolants.Power(2.0)(t), (T,)),
    "interpolants.Sigmoid": Job(lambda t: tx.interpolants.Sigmoid(3.0)(t), (T,)),
    "interpolants.BridgeNoise": Job(lambda t: tx.interpolants.BridgeNoise(0.5)(t), (T,)),
    "interpolants.ConstantNoise": Job(lambda t: tx.interpolants.ConstantNoise(0.5)(t), (T,)),
    "interpolants.noised_target": Job(lambda t: tx.interpolants.noised_target(PATH, t), (T,)),
    "interpolants.time_of_angle": Job(lambda t: tx.interpolants.time_of_angle(PATH, t), (T,)),
    **{
        f"interpolants.{name}": Job(converted(getattr(tx.interpolants, name)), (T, POINT, POINT))
        for name in ("from_denoiser", "from_noise", "from_score", "from_velocity")
    },
}

_FIELDS = {
    "fields.Box": Job(BOX.solve_poisson, (CELLS,)),
    "fields.asymmetry": Job(lambda t, x: tx.fields.asymmetry(velocity, t, x), (T, POINT)),
    "fields.dacorogna_moser": Job(
        lambda p, r: tx.fields.dacorogna_moser(BOX, p, r), (CELLS, CELLS)
    ),
    "fields.diagnose_field": Job(
        lambda p, r: tx.fields.diagnose_field(BOX, p, r, tx.fields.dacorogna_moser(BOX, p, r)),
        (CELLS, CELLS),
    ),
    "fields.divergence": Job(lambda t, x: tx.fields.divergence(velocity, t, x), (T, POINT)),
    "fields.flux_null": Job(lambda p, s: tx.fields.flux_null(BOX, p, s), (CELLS, shape(15, 15))),
    "fields.fourier_features": Job(lambda t: tx.fields.fourier_features(t, 3), (T,)),
    "fields.hutchinson_divergence": Job(
        lambda t, x, key: tx.fields.hutchinson_divergence(velocity, t, x, key=key),
        (T, POINT, KEY),
    ),
    "fields.least_squares": Job(lambda p, r: tx.fields.least_squares(BOX, p, r), (CELLS, CELLS)),
    "fields.project_onto_gradients": Job(
        lambda p, r: tx.fields.project_onto_gradients(BOX, p, tx.fields.dacorogna_moser(BOX, p, r)),
        (CELLS, CELLS),
    ),
    "fields.upwind_step": Job(
        lambda p, r: tx.fields.upwind_step(BOX, p, tx.fields.dacorogna_moser(BOX, p, r), 0.01),
        (CELLS, CELLS),
    ),
}

_LOSSES = {
    **{
        f"losses.{name}": Job(matched(getattr(tx.losses, name)), (BATCH, BATCH, KEY))
        for name in (
            "denoiser_matching",
            "flow_matching",
            "noise_matching",
            "score_matching",
            "sliced_score_matching",
        )
    },
    **{
        f"losses.{name}": Job(mapped(getattr(tx.losses, name)), (BATCH, BATCH, KEY))
        for name in (
            "consistency",
            "improved_mean_flow",
            "mean_flow",
            "mean_flow_parts",
            "shortcut",
        )
    },
    "losses.flow_map_distillation": Job(
        lambda x0, x1, key: [
            mapped(functools.partial(tx.losses.flow_map_distillation, teacher=velocity, form=form))(
                x0, x1, key
            )
            for form in ("eulerian", "lagrangian", "semigroup")
        ],
        (BATCH, BATCH, KEY),
    ),
    "losses.GuidedPathVelocity": Job(
        lambda x0, x1, labels, key: tx.losses.mean_flow(
            averaged, PATH, x0, x1, labels, key=key, velocity=tx.losses.GuidedPathVelocity(2.0, 3)
        ),
        (BATCH, BATCH, shape(16, dtype=np.int32), KEY),
    ),
    "losses.TimePairs": Job(lambda key: tx.losses.TimePairs()(8, jnp.float32, key=key), (KEY,)),
    "losses.latent_noise_matching": Job(
        lambda x0, x1, key: tx.losses.latent_noise_matching(
            velocity, tx.interpolants.BrownianBridge(0.5), x0, x1, key=key
        ),
        (BATCH, BATCH, KEY),
    ),
    "losses.drop_labels": Job(
        lambda labels, key: tx.losses.drop_labels(labels, null_label=10, probability=0.1, key=key),
        (shape(16, dtype=np.int32), KEY),
    ),
    "losses.uniform_times": Job(
        lambda key: tx.losses.uniform_times(8, jnp.float32, key=key), (KEY,)
    ),
    "losses.LogitNormalTimes": Job(
        lambda key: tx.losses.LogitNormalTimes()(8, jnp.float32, key=key), (KEY,)
    ),
    "losses.BetaTimes": Job(
        lambda key: tx.losses.BetaTimes(2.0, 3.0)(8, jnp.float32, key=key), (KEY,)
    ),
    "losses.ImportanceTimes": Job(
        lambda squares, key: tx.losses.ImportanceTimes(squares)(8, jnp.float32, key=key),
        (shape(10), KEY),
    ),
    "training.make_step": Job(stepped, (BATCH, BATCH, KEY)),
}

_SAMPLING = {
    "sampling.flow": Job(
        lambda x: (
            tx.sampling.flow(velocity, x, steps=4),
            tx.sampling.flow(velocity, x, steps=tx.evolution.AdaptiveSteps(1e-3, 1e-3)),
        ),
        (BATCH,),
    ),
    "sampling.diffuse": Job(
        lambda x, key: tx.sampling.diffuse(
            velocity, x, score=velocity, noise=lambda t: 1 - t, key=key, steps=4
        ),
        (BATCH, KEY),
    ),
    "sampling.predictor_corrector": Job(
        lambda x, key: tx.sampling.predictor_corrector(
            velocity, x, score=velocity, key=key, steps=4
        ),
        (BATCH, KEY),
    ),
    "sampling.exponential_flow": Job(
        lambda x: tx.sampling.exponential_flow(velocity, x, path=PATH, steps=4), (BATCH,)
    ),
    "sampling.uniform_grid": Job(
        lambda x: x[0, 0] * tx.sampling.uniform_grid(4, jnp.float32), (BATCH,)
    ),
    "sampling.PowerGrid": Job(lambda p: tx.sampling.PowerGrid(p)(4, jnp.float32), (T,)),
    "sampling.KarrasGrid": Job(
        lambda x: x[0, 0] * tx.sampling.KarrasGrid(PATH)(4, jnp.float32), (BATCH,)
    ),
    "sampling.RK4": Job(
        lambda x: tx.sampling.flow(
            velocity, x, steps=tx.evolution.FixedSteps(4, tx.sampling.RK4())
        ),
        (BATCH,),
    ),
    "sampling.Reflow": Job(
        lambda x, key: tx.sampling.Reflow(velocity, lambda *, key: (x, None), steps=4)(key=key),
        (BATCH, KEY),
    ),
    "sampling.few_step": Job(lambda x: tx.sampling.few_step(averaged, x, grid=4), (BATCH,)),
    "sampling.few_step_log_prob": Job(
        lambda x: tx.sampling.few_step_log_prob(averaged, x, base_log_prob=normal, grid=4), (BATCH,)
    ),
    "sampling.log_prob": Job(
        lambda x: tx.sampling.log_prob(velocity, x, base_log_prob=normal, steps=4), (BATCH,)
    ),
    "sampling.hutchinson_log_prob": Job(
        lambda x, key: tx.sampling.hutchinson_log_prob(
            velocity, x, key=key, base_log_prob=normal, steps=4
        ),
        (BATCH, KEY),
    ),
    "sampling.trajectories": Job(
        lambda x: tx.sampling.trajectories(velocity, x, steps=4), (BATCH,)
    ),
    "sampling.likelihood": Job(
        lambda x: tx.sampling.likelihood(velocity, x, base_log_prob=normal, steps=4), (BATCH,)
    ),
    "sampling.hutchinson_likelihood": Job(
        lambda x, key: tx.sampling.hutchinson_likelihood(
            velocity, x, key=key, base_log_prob=normal, steps=4
        ),
        (BATCH, KEY),
    ),
    "sampling.push_forward": Job(
        lambda x, p: tx.sampling.push_forward(velocity, x, p, steps=4), (BATCH, shape(16))
    ),
    "sampling.bits_per_dimension": Job(
        lambda p: tx.sampling.bits_per_dimension(p, 64, bin_width=1 / 16), (shape(16),)
    ),
}

_METRICS = {
    "metrics.wasserstein2": Job(tx.metrics.wasserstein2, (BATCH, BATCH)),
    "metrics.energy_distance": Job(tx.metrics.energy_distance, (X, Y)),
    "metrics.mmd": Job(lambda x, y: tx.metrics.mmd(x, y, bandwidth=1.0), (X, Y)),
    "metrics.sliced_wasserstein": Job(
        lambda x, y, key: tx.metrics.sliced_wasserstein(x, y, key=key), (X, Y, KEY)
    ),
    "metrics.path_energy": Job(lambda x: tx.metrics.path_energy(velocity, x, steps=4), (BATCH,)),
    "metrics.straightness": Job(lambda x: tx.metrics.straightness(velocity, x, steps=4), (BATCH,)),
    "metrics.normalized_path_energy": Job(
        lambda x, y: tx.metrics.normalized_path_energy(velocity, x, y, steps=4),
        (BATCH, BATCH),
    ),
}
