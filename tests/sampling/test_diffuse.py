"""Samplers with noise and exponential steps: marginals, limits, refusals."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.stats

import transportx as tx
from tests import tables

PATH = tx.interpolants.Trigonometric()
MEAN, COVARIANCE = tables._ends(3)[2:]
FIELD = tx.fields.GaussianField(jnp.zeros(3), jnp.eye(3), MEAN, COVARIANCE, PATH)
SCORE = tx.fields.ScoreOf(FIELD, PATH)
X0 = jr.normal(jr.key(90), (5, 3))


def falling(t):
    """Noise that is gone by the end, where the score of a pinned path may be infinite."""
    return 1.5 * (1 - t)


@pytest.mark.parametrize("name", tables.INTERPOLANTS)
@pytest.mark.parametrize("level", [0.3, 2.0])
def test_noise_at_any_level_leaves_the_covariance_of_the_flow(name, level):
    """J S + S J^T + s^2 I of the noisy drift is A S + S A^T of the flow, by autodiff alone."""
    path = tables.INTERPOLANTS[name]
    field = tx.fields.GaussianField(jnp.zeros(3), jnp.eye(3), MEAN, COVARIANCE, path)
    score, t = tx.fields.ScoreOf(field, path), jnp.array(0.7)
    alpha, beta, gamma = path.coefficients(t)
    law = beta**2 * COVARIANCE + (alpha**2 + gamma**2) * jnp.eye(3)

    def growth(drift):
        jacobian = jax.jacfwd(drift)(X0[0])
        return jacobian @ law + law @ jacobian.T

    noisy = growth(lambda x: field(t, x) + level**2 / 2 * score(t, x)) + level**2 * jnp.eye(3)
    assert jnp.allclose(noisy, growth(lambda x: field(t, x)), atol=1e-10, rtol=1e-10)


def test_no_noise_is_the_flow():
    def none(t):
        return jnp.zeros_like(t)

    def stuck(t, x, args):
        return jnp.ones_like(x)

    found = tx.sampling.diffuse(FIELD, X0, score=stuck, noise=none, key=jr.key(91), steps=9)
    assert jnp.allclose(found, tx.sampling.flow(FIELD, X0, steps=9), atol=1e-13)


TARGET = tx.gaussians.Mixture(
    jnp.array([0.3, 0.7]),
    jnp.array([[-1.5, 0.5], [1.0, 0.0]]),
    jnp.array([[[0.3, 0.1], [0.1, 0.2]], [[0.2, 0.0], [0.0, 0.5]]]),
)


@jax.jit
def mixture_samples(level):
    source = tx.gaussians.Mixture(jnp.ones(1), jnp.zeros((1, 2)), jnp.eye(2)[None])
    field = tx.fields.MixtureField(source, TARGET, PATH)
    x_key, noise_key = jr.split(jr.key(92))
    return tx.sampling.diffuse(
        field,
        jr.normal(x_key, (20_000, 2), jnp.float64),
        score=tx.fields.ScoreOf(field, PATH),
        noise=lambda t: level * (1 - t),
        key=noise_key,
        steps=75,
    )


@pytest.mark.slow
@pytest.mark.parametrize("level", [0.5, 1.5, 3.0])
def test_samples_of_a_mixture_have_its_law_at_any_noise(level):
    """20,000 samples against the mixture's own distribution function, in three directions."""
    samples = np.asarray(mixture_samples(level))
    for angle in (0.0, 0.9, 2.0):
        way = np.array([np.cos(angle), np.sin(angle)])
        means = np.asarray(TARGET.means) @ way
        widths = np.sqrt(np.einsum("i,kij,j->k", way, np.asarray(TARGET.covariances), way))
        weights = np.asarray(TARGET.weights)

        def law(q, means=means, widths=widths, weights=weights):
            return scipy.stats.norm.cdf(np.asarray(q)[:, None], means, widths) @ weights

        # 75 Euler steps move a distribution function by about 0.003; this sees 0.014.
        assert scipy.stats.kstest(samples @ way, law).pvalue > 1e-3


def test_over_no_time_nothing_moves_at_any_noise():
    found = tx.sampling.diffuse(
        FIELD, X0, score=SCORE, noise=falling, key=jr.key(103), steps=3, t0=0.5, t1=0.5
    )
    assert jnp.array_equal(found, X0)


def test_the_way_back_ends_in_the_source():
    x1 = jr.multivariate_normal(jr.key(93), MEAN, COVARIANCE, (20_000,))
    x0 = tx.sampling.diffuse(
        FIELD, x1, score=SCORE, noise=falling, key=jr.key(94), steps=100, t0=1.0, t1=0.0
    )
    # Four standard errors, and as much again for a hundred Euler steps.
    assert jnp.allclose(jnp.mean(x0, axis=0), 0, atol=0.06)
    assert jnp.allclose(jnp.cov(x0.T), jnp.eye(3), atol=0.08)


def test_corrections_keep_the_law():
    options = {"score": SCORE, "steps": 50, "signal_to_noise": 0.1}
    x0 = jr.normal(jr.key(97), (20_000, 3))
    x1 = jax.jit(lambda x0, key: tx.sampling.predictor_corrector(FIELD, x0, key=key, **options))(
        x0, jr.key(98)
    )
    assert jnp.allclose(jnp.mean(x1, axis=0), MEAN, atol=0.08)
    assert jnp.allclose(jnp.cov(x1.T), COVARIANCE, atol=0.12)


def test_corrections_mend_a_wrong_field():
    """The field leaves all particles where they are; Langevin steps alone carry them."""
    path = tx.interpolants.Linear(0.3)
    field = tx.fields.GaussianField(jnp.zeros(3), jnp.eye(3), MEAN, COVARIANCE, path)
    score = tx.fields.ScoreOf(field, path)
    x0 = jr.normal(jr.key(99), (4000, 3))

    def still(t, x, args):
        return jnp.zeros_like(x)

    x1 = tx.sampling.predictor_corrector(
        still, x0, score=score, key=jr.key(100), steps=60, num_corrections=20
    )
    assert jnp.allclose(jnp.mean(x1, axis=0), MEAN, atol=0.15)


@pytest.mark.parametrize("name", ["linear", "trigonometric", "variance_preserving", "sigmoid"])
def test_one_exponential_step_reaches_a_single_target(name):
    path = tables.INTERPOLANTS[name]
    field = tx.fields.EmpiricalField(jnp.array([[0.4, -1.0, 2.0]]), path)
    found = tx.sampling.exponential_flow(field, X0, path=path, steps=1)
    assert jnp.allclose(found, field.data, atol=1e-12)


def test_few_exponential_steps_beat_as_many_euler_steps():
    reference = tx.sampling.flow(FIELD, X0, steps=tx.evolution.AdaptiveSteps(1e-10, 1e-10))
    exponential = tx.sampling.exponential_flow(FIELD, X0, path=PATH, steps=8)
    euler = tx.sampling.flow(FIELD, X0, steps=8)
    errors = [float(jnp.max(jnp.abs(x - reference))) for x in (exponential, euler)]
    assert errors[0] < errors[1] / 2


GRIDS = {
    "uniform": tx.sampling.uniform_grid,
    "power": tx.sampling.PowerGrid(2.0),
    "karras": tx.sampling.KarrasGrid(PATH),
}


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
def test_grids_rise_from_start_to_end(grid):
    ts = grid(12, jnp.float64)
    assert ts.shape == (13,)
    assert ts[0] == 0
    assert ts[-1] == 1
    assert jnp.all(jnp.diff(ts) > 0)


def test_karras_steps_are_even_in_a_root_of_the_noise_ratio():
    grid = tx.sampling.KarrasGrid(PATH, ratio_min=0.01, ratio_max=20.0, rho=5.0)
    alpha, beta, _ = jax.vmap(PATH.coefficients)(grid(9, jnp.float64)[1:-1])
    roots = np.asarray(alpha / beta) ** (1 / 5)
    assert np.allclose(np.diff(roots), (0.01**0.2 - 20.0**0.2) / 7, rtol=1e-6)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
def test_the_flow_steps_where_its_grid_says(grid):
    x, ts = X0, 0.2 + 0.7 * grid(6, jnp.float64)
    for now, then in zip(ts[:-1], ts[1:], strict=True):
        x = x + (then - now) * jax.vmap(FIELD, (None, 0))(now, x)
    found = tx.sampling.flow(FIELD, X0, steps=tx.evolution.FixedSteps(6, grid=grid), t0=0.2, t1=0.9)
    assert jnp.allclose(found, x, atol=1e-12)


def test_samples_differentiate_in_points_and_parameters():
    @jax.jit
    def total(mean, x0):
        field = tx.fields.GaussianField(jnp.zeros(3), jnp.eye(3), mean, COVARIANCE, PATH)
        score = tx.fields.ScoreOf(field, PATH)
        options = {"noise": falling, "key": jr.key(101), "steps": 6}
        noisy = tx.sampling.diffuse(field, x0, score=score, **options)
        return jnp.sum(noisy**2) + jnp.sum(
            tx.sampling.exponential_flow(field, x0, path=PATH, steps=4) ** 2
        )

    gradients = jax.jit(jax.grad(total, argnums=(0, 1)))(MEAN, X0)
    step = 1e-6
    for which, gradient in enumerate(gradients):
        way = jr.normal(jr.key(102), gradient.shape)
        ends = []
        for sign in (1, -1):
            moved = [MEAN, X0]
            moved[which] = moved[which] + sign * step * way
            ends.append(float(total(*moved)))
        assert np.isclose(
            float(jnp.sum(gradient * way)), (ends[0] - ends[1]) / (2 * step), rtol=1e-6
        )


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: _diffuse(X0, t1=1.5), "t1"),
        (lambda: _diffuse(X0, steps=0), "steps"),
        (lambda: _diffuse(X0, steps=tx.evolution.AdaptiveSteps(1e-3, 1e-3)), "steps"),
        (lambda: _diffuse(X0[:0]), "x0"),
        (lambda: tx.sampling.exponential_flow(FIELD, X0, path=PATH, order=3), "order"),
        (lambda: tx.sampling.exponential_flow(FIELD, X0, path=PATH, t0=1.0, t1=0.0), "t1"),
        (lambda: tx.sampling.KarrasGrid(PATH, rho=0.0), "rho"),
        (lambda: tx.sampling.KarrasGrid(PATH)(2, jnp.float64), "num_steps"),
        (lambda: tx.sampling.PowerGrid(-1.0), "power"),
        (
            lambda: tx.sampling.predictor_corrector(
                FIELD, X0, score=SCORE, key=jr.key(0), signal_to_noise=0.0
            ),
            "signal_to_noise",
        ),
    ],
)
def test_bad_arguments_are_named(call, argument):
    with pytest.raises(ValueError, match=f"`{argument}`"):
        call()


def _diffuse(x0, **options):
    return tx.sampling.diffuse(FIELD, x0, score=SCORE, noise=falling, key=jr.key(0), **options)
