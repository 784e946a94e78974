"""Exact fields: against closed-form maps, quadrature, scores and the continuity equation."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.linalg
from diffrax import Dopri8

import transportx as tx
from tests import tables
from tests.helpers import check_derivatives

PATHS = tables.INTERPOLANTS
NOISELESS = {name: path for name, path in PATHS.items() if not path.has_noise}
M0, S0, M1, S1 = (np.asarray(x) for x in tables._ends(3))
POINTS = jr.normal(jr.key(20), (6, 3))
TIMES = jnp.array([0.15, 0.5, 0.85])


def sqrtm(matrix):
    return np.asarray(scipy.linalg.sqrtm(matrix))


every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
every_noiseless_path = pytest.mark.parametrize("path", NOISELESS.values(), ids=NOISELESS.keys())


def carried(field, x0, t1):
    """Flow to `t1` with errors far below the tolerances of these tests."""
    return tx.sampling.flow(
        field, x0, t1=t1, steps=tx.evolution.AdaptiveSteps(1e-11, 1e-11, Dopri8())
    )


def everywhere(function):
    """Evaluate `function(t, x)` at all test times and points: (times, points, ...)."""
    return jax.jit(jax.vmap(jax.vmap(function, in_axes=(None, 0)), in_axes=(0, None)))(
        TIMES, POINTS
    )


def test_the_test_covariances_do_not_commute():
    assert np.max(np.abs(S0 @ S1 - S1 @ S0)) > 0.1


@pytest.mark.parametrize("name", [n for n in NOISELESS if n != "variance_exploding"])
def test_gaussian_flow_is_the_closed_form_map(name):
    # The one left out does not begin at the source.
    path = NOISELESS[name]
    field = tx.fields.GaussianField(*tables._ends(3), path)
    # alpha' of the diffusion is infinite at t = 1: stop short of it.
    t1 = 0.9 if isinstance(path, tx.interpolants.VariancePreserving) else 1.0
    alpha, beta, _ = (float(c) for c in path.coefficients(jnp.array(t1)))
    root = sqrtm(S0)
    inverse = np.linalg.inv(root)
    middle = sqrtm(alpha**2 * np.eye(3) + beta**2 * inverse @ S1 @ inverse)
    expected = (alpha * M0 + beta * M1)[None, :] + (POINTS - M0[None, :]) @ (
        root @ middle @ inverse
    ).T
    assert jnp.allclose(carried(field, POINTS, t1), expected, atol=1e-8, rtol=0)


def test_gaussian_flow_ends_at_the_principal_root_and_not_the_optimal_map():
    field = tx.fields.GaussianField(*tables._ends(3))
    ends = carried(field, POINTS, 1.0)
    principal = M1[None, :] + (POINTS - M0[None, :]) @ sqrtm(S1 @ np.linalg.inv(S0)).T
    assert jnp.allclose(ends, principal, atol=1e-8, rtol=0)
    optimal = jax.vmap(tx.gaussians.transport_map(*tables._ends(3)))(POINTS)
    assert jnp.max(jnp.abs(ends - optimal)) > 1e-3


def test_reflow_straightens_paths_and_keeps_the_terminal_map():
    """Pairs of starts and their ends under the flow, coupled again: the field of the rays."""
    principal = sqrtm(S1 @ np.linalg.inv(S0))
    ends = M1[None, :] + (POINTS - M0[None, :]) @ principal.T
    field = tx.fields.GaussianField(
        *tables._ends(3), tx.interpolants.Linear(), jnp.asarray(S0 @ principal.T)
    )
    for t in (0.0, 0.3, 1.0):
        velocities = jax.vmap(field, (None, 0))(jnp.array(t), (1 - t) * POINTS + t * ends)
        assert jnp.allclose(velocities, ends - POINTS, atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    "name", ["variance_preserving", "brownian_bridge", "encoding_decoding", "learnt", "noised"]
)
def test_every_other_schedule_has_the_same_terminal_map(name):
    """Also with noise on the way if the source is white; centred, for diffusion's sake.

    The rate of its alpha is infinite at t = 1, which a mean at the source would meet.
    """
    path = tables.PINNED_INTERPOLANTS[name]
    covariance = jnp.eye(3) if path.has_noise else jnp.asarray(S0)
    field = tx.fields.GaussianField(
        jnp.zeros(3), covariance, jnp.asarray(M1), jnp.asarray(S1), path
    )
    expected = M1[None, :] + POINTS @ sqrtm(S1 @ np.linalg.inv(covariance)).T
    assert jnp.allclose(carried(field, POINTS, 1.0), expected, atol=1e-8, rtol=0)


CROSS = 0.5 * sqrtm(S0) @ np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]]) @ sqrtm(S1)


@pytest.mark.parametrize(
    ("path", "cross"), [(PATHS["brownian_bridge"], None), (PATHS["linear"], jnp.asarray(CROSS))]
)
def test_noisy_and_correlated_gaussian_flows_carry_mean_and_covariance(path, cross):
    field = tx.fields.GaussianField(*tables._ends(3), path, cross)
    t1 = 0.7
    probes = jnp.asarray(np.vstack([M0[None, :], M0 + np.eye(3)]))
    images = carried(field, probes, t1)
    matrix = np.asarray(images[1:] - images[:1]).T
    alpha, beta, gamma = (float(c) for c in path.coefficients(jnp.array(t1)))
    shared = 0 * CROSS if cross is None else CROSS + CROSS.T
    covariance = alpha**2 * S0 + beta**2 * S1 + alpha * beta * shared + gamma**2 * np.eye(3)
    assert jnp.allclose(images[0], alpha * M0 + beta * M1, atol=1e-8)
    assert np.allclose(matrix @ S0 @ matrix.T, covariance, atol=1e-8)


def test_gaussian_field_is_the_regression_of_velocity_on_position():
    """Also its rotation, which no marginal sees: against 400,000 simulated pairs."""
    field = tx.fields.GaussianField(*tables._ends(3), PATHS["linear"], jnp.asarray(CROSS))
    rng, t = np.random.default_rng(0), 0.4
    joint = np.block([[S0, CROSS], [CROSS.T, S1]])
    ends = rng.multivariate_normal(np.concatenate([M0, M1]), joint, 400_000)
    x0, x1 = ends[:, :3], ends[:, 3:]
    position, velocity = (1 - t) * x0 + t * x1, x1 - x0
    design = np.hstack([np.ones((len(ends), 1)), position])
    fitted, residual, _, _ = np.linalg.lstsq(design, velocity)
    deviation = np.sqrt(residual / len(ends))[None, :]
    errors = np.sqrt(np.diag(np.linalg.inv(design.T @ design)))[:, None] * deviation
    offset = field(jnp.array(t), jnp.zeros(3))
    slope = jax.jacfwd(lambda x: field(jnp.array(t), x))(jnp.zeros(3)).T
    # Twelve coefficients, each within four standard errors.
    assert np.all(np.abs(np.vstack([offset, slope]) - fitted) < 4 * errors)


@every_noiseless_path
def test_mixture_field_follows_from_the_score_when_the_source_is_white(path):
    scale = 0.8
    source = tx.gaussians.Mixture(jnp.ones(1), jnp.zeros((1, 3)), scale**2 * jnp.eye(3)[None, :, :])
    field = tx.fields.MixtureField(source, tables.mixture(jr.key(3), [0.2, 0.5, 0.3], 3), path)

    def from_score(t, x):
        (alpha, beta, _), (alpha_rate, beta_rate, _) = path.rates(t)
        score = jax.grad(field.law(t).log_density)(x)
        gain = beta_rate * alpha**2 / beta - alpha_rate * alpha
        return beta_rate / beta * x + gain * scale**2 * score

    assert jnp.allclose(everywhere(field), everywhere(from_score), atol=1e-10, rtol=1e-10)


def test_mixture_field_of_one_component_is_the_gaussian_field():
    ends = [jnp.asarray(x)[None] for x in (M0, S0, M1, S1)]
    source = tx.gaussians.Mixture(jnp.ones(1), ends[0], ends[1])
    target = tx.gaussians.Mixture(jnp.ones(1), ends[2], ends[3])
    for path in (PATHS["trigonometric"], PATHS["brownian_bridge"]):
        mixture = tx.fields.MixtureField(source, target, path)
        gaussian = tx.fields.GaussianField(*tables._ends(3), path)
        assert jnp.allclose(everywhere(mixture), everywhere(gaussian), atol=1e-11)


def two_sided_mixture(path, coupled):
    coupling = jnp.array([[0.2, 0.05, 0.05], [0.0, 0.45, 0.25]]) if coupled else None
    return tx.fields.MixtureField(
        tables.mixture(jr.key(2), [0.3, 0.7], 3),
        tables.mixture(jr.key(3), [0.2, 0.5, 0.3], 3),
        path,
        coupling,
    )


@pytest.mark.slow
@every_path
@pytest.mark.parametrize("coupled", [False, True])
def test_mixture_field_obeys_the_continuity_equation(path, coupled):
    field = two_sided_mixture(path, coupled)

    def imbalance(t, x):
        log_rate = jax.grad(lambda s: field.law(s).log_density(x))(t)
        velocity = field(t, x)
        divergence = jnp.trace(jax.jacfwd(lambda y: field(t, y))(x))
        return log_rate + divergence + velocity @ jax.grad(field.law(t).log_density)(x)

    assert jnp.max(jnp.abs(everywhere(imbalance))) < 1e-9


def test_law_of_a_mixture_field_starts_and_ends_at_its_mixtures():
    field = two_sided_mixture(PATHS["brownian_bridge"], coupled=True)
    for t, end in ((0.0, field.source), (1.0, field.target)):
        law, expected = (
            jax.jit(jax.vmap(field.law(jnp.array(t)).log_density)),
            jax.vmap(end.log_density),
        )
        assert jnp.allclose(law(POINTS), expected(POINTS), atol=1e-11)


@every_noiseless_path
def test_mixture_field_is_the_mean_velocity_by_quadrature(path):
    """E[x_t' | x_t = x] in the plane, integrated over x0 with x1 = (x - alpha x0) / beta."""
    source = tables.mixture(jr.key(4), [0.3, 0.7], 2)
    target = tables.mixture(jr.key(5), [0.6, 0.4], 2)
    field = tx.fields.MixtureField(source, target, path)
    t, x = jnp.array(0.55), jnp.array([0.3, -0.8])
    (alpha, beta, _), (alpha_rate, beta_rate, _) = path.rates(t)
    # Trapezoids converge exponentially for what decays like a Gaussian.
    axis = jnp.linspace(-16.0, 16.0, 161)
    x0 = jnp.stack(jnp.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    x1 = (x[None, :] - alpha * x0) / beta
    log_density = jax.jit(jax.vmap(lambda p, q: source.log_density(p) + target.log_density(q)))
    weights = jnp.exp(log_density(x0, x1))
    mean = weights @ (alpha_rate * x0 + beta_rate * x1) / jnp.sum(weights)
    assert jnp.allclose(field(t, x), mean, atol=1e-9)


def test_components_and_points_of_zero_weight_change_nothing():
    mixture = tables.mixture(jr.key(3), [0.2, 0.5, 0.3], 3)
    padded = eqx.tree_at(lambda m: m.weights, mixture, jnp.array([0.4, 0.6, 0.0]))
    kept = tx.gaussians.Mixture(*(leaf[:2] for leaf in jax.tree.leaves(padded)))
    with_zero, without = (tx.fields.MixtureField(mixture, target) for target in (padded, kept))
    assert jnp.allclose(everywhere(with_zero), everywhere(without), atol=1e-12)
    data, weights = jr.normal(jr.key(8), (5, 3)), jnp.array([0.1, 0.2, 0.3, 0.4, 0.0])
    with_zero = tx.fields.EmpiricalField(data, weights=weights)
    without = tx.fields.EmpiricalField(data[:4], weights=weights[:4])
    assert jnp.allclose(everywhere(with_zero), everywhere(without), atol=1e-12)


def test_zero_weights_leave_derivatives_finite():
    mixture = tables.mixture(jr.key(3), [0.4, 0.6, 0.0], 3)
    fields = (
        tx.fields.MixtureField(mixture, mixture),
        tx.fields.EmpiricalField(mixture.means, weights=mixture.weights),
    )
    for field in fields:
        energy = eqx.filter_grad(lambda f: jnp.sum(f(TIMES[0], POINTS[0]) ** 2))
        gradient = eqx.filter_jit(energy)(field)
        assert all(jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


def test_negative_weights_are_nan_and_not_a_plausible_field():
    field = tx.fields.EmpiricalField(POINTS, weights=jnp.array([0.5, 0.5, 0.5, -0.5, 0.0, 0.0]))
    assert jnp.all(jnp.isnan(field(TIMES[0], POINTS[0])))


@every_path
def test_empirical_field_is_the_mixture_field_of_point_masses(path):
    data, weights = jr.normal(jr.key(8), (5, 3)), jnp.array([0.1, 0.2, 0.3, 0.25, 0.15])
    scale = 0.8
    source = tx.gaussians.Mixture(jnp.ones(1), jnp.zeros((1, 3)), scale**2 * jnp.eye(3)[None, :, :])
    # Balls of variance 1e-13 beside a noise variance above 1e-2: an error of about 1e-11.
    balls = jnp.tile(1e-13 * jnp.eye(3), (5, 1, 1))
    mixture = tx.fields.MixtureField(source, tx.gaussians.Mixture(weights, data, balls), path)
    empirical = tx.fields.EmpiricalField(data, path, scale, weights)
    assert jnp.allclose(everywhere(empirical), everywhere(mixture), atol=1e-9, rtol=1e-9)


def test_empirical_field_stays_exact_far_from_the_origin():
    """Moving the data by c moves the velocity by beta' c; float32 must not notice."""
    data, shift, t = jr.normal(jr.key(8), (5, 3)), 1000.0, 0.95
    field = tx.fields.EmpiricalField(data)
    far = tx.fields.EmpiricalField((data + shift).astype(jnp.float32))
    x = t * data[0] + 0.05 * POINTS[0]
    moved = far(jnp.float32(t), (x + t * shift).astype(jnp.float32)).astype(jnp.float64)
    # Positions near 1000 round by 6e-5 in float32, and (1 - t)^-1 multiplies that by 20.
    assert jnp.allclose(moved - shift, field(jnp.array(t), x), atol=1e-2)


def test_empirical_field_memorises():
    data = jr.normal(jr.key(9), (50, 2))
    ends = tx.sampling.flow(
        tx.fields.EmpiricalField(data),
        jr.normal(jr.key(10), (16, 2)),
        t1=0.999,
        steps=tx.evolution.AdaptiveSteps(1e-6, 1e-6),
    )
    nearest = jnp.min(jnp.linalg.norm(ends[:, None, :] - data[None, :, :], axis=-1), axis=1)
    # x_t = t x_i + (1 - t) z, and |x_i - z| is below 8 here.
    assert jnp.max(nearest) < 0.008


def test_batched_empirical_field_never_holds_all_differences():
    n, dim, batch = 2000, 64, 256
    field = tx.fields.EmpiricalField(jr.normal(jr.key(9), (n, dim)))
    points = jr.normal(jr.key(10), (batch, dim))
    compiled = jax.jit(jax.vmap(field, in_axes=(None, 0))).lower(jnp.array(0.5), points).compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    # (batch, n) twice and the data, not (batch, n, dim).
    assert memory.temp_size_in_bytes < 8 * (4 * batch * n + 4 * n * dim)


def test_exact_fields_differentiate_in_ends_path_and_data():
    fields = [
        tx.fields.GaussianField(*tables._ends(3), PATHS["brownian_bridge"], jnp.asarray(CROSS)),
        two_sided_mixture(PATHS["variance_preserving"], coupled=False),
        tx.fields.EmpiricalField(POINTS, PATHS["brownian_bridge"], 0.8, jnp.full(6, 1 / 6)),
    ]
    for field in fields:
        values = jax.tree.map(jnp.asarray, field)
        check_derivatives(lambda f, t, x: f(t, x), values, TIMES[0], POINTS[0])
