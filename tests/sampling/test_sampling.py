"""Sampling: trajectories, failures, derivatives, likelihoods."""

from typing import Any

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.linalg
import scipy.stats

import transportx as tx
from tests import tables
from tests.helpers import check_derivatives
from transportx.evolution import AdaptiveSteps, FixedSteps

ENDS = tables._ends(3)
M0, S0, M1, S1 = (np.asarray(x) for x in ENDS)
FIELD = tx.fields.GaussianField(*ENDS)
X0 = jr.normal(jr.key(80), (5, 3))
TIGHT: dict[str, Any] = {"steps": AdaptiveSteps(1e-10, 1e-10)}
EQUAL: dict[str, Any] = {"steps": 8}


def exact_ends(x0):
    """The principal square root of S1 S0^-1, moved to the means, whatever the schedule."""
    matrix = np.asarray(scipy.linalg.sqrtm(S1 @ np.linalg.inv(S0)))
    return M1[None, :] + (np.asarray(x0) - M0[None, :]) @ matrix.T


def error(x1):
    return float(np.max(np.abs(np.asarray(x1) - exact_ends(X0))))


def smooth_network(**options):
    """Without kinks, whose crossings no finite difference can follow."""
    return tables.in_float64(tx.fields.MLP(2, 6, 1, activation=jnp.tanh, key=jr.key(81), **options))


def scaling(t, x, rate):
    """x' = rate x, whose flow is exp(rate t)."""
    return rate * x


def test_default_is_a_hundred_euler_steps():
    x, step = X0, 1 / 100
    velocity = jax.jit(jax.vmap(FIELD, in_axes=(None, 0)))
    for n in range(100):
        x = x + step * velocity(jnp.array(n * step), x)
    assert jnp.allclose(tx.sampling.flow(FIELD, X0), x, atol=1e-12)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-9])
def test_adaptive_steps_meet_their_tolerance(tolerance):
    # Local errors add up over some tens of steps.
    assert (
        error(tx.sampling.flow(FIELD, X0, steps=AdaptiveSteps(tolerance, tolerance)))
        < 30 * tolerance
    )


@pytest.mark.parametrize("options", [EQUAL, TIGHT])
def test_a_batch_is_its_examples_one_by_one(options):
    rates = jnp.linspace(-3.0, 3.0, 5)
    together = tx.sampling.flow(scaling, X0, rates, **options)
    alone = [tx.sampling.flow(scaling, X0[i : i + 1], rates[i : i + 1], **options) for i in (0, 4)]
    assert jnp.allclose(together[jnp.array([0, 4])], jnp.concatenate(alone), atol=1e-13)


def test_args_of_any_structure_follow_their_examples():
    args = {"rate": jnp.arange(5.0), "shift": 2 * X0}

    def field(t, x, args):
        return args["rate"] * args["shift"]

    ends = tx.sampling.flow(field, X0, args, steps=3)
    assert jnp.allclose(ends, X0 + jnp.arange(5.0)[:, None] * 2 * X0, atol=1e-13)


def test_trajectory_on_the_grid_is_made_of_shorter_flows():
    times = jnp.array([0.0, 0.25, 1.0])
    path = tx.sampling.flow(FIELD, X0, steps=8, times=times)
    assert jnp.array_equal(path[0], X0)
    assert jnp.allclose(path[1], tx.sampling.flow(FIELD, X0, steps=2, t1=0.25), atol=1e-13)
    assert jnp.allclose(path[2], tx.sampling.flow(FIELD, X0, steps=8), atol=1e-13)


def test_adaptive_trajectory_passes_through_the_exact_positions():
    rates, times = jnp.linspace(-2.0, 2.0, 5), jnp.array([0.1, 0.35, 0.8])
    path = tx.sampling.flow(scaling, X0, rates, times=times, **TIGHT)
    expected = jnp.exp(rates[None, :] * times[:, None])[:, :, None] * X0[None, :, :]
    # Between steps Tsit5 interpolates at fourth order.
    assert jnp.allclose(path, expected, atol=1e-7)


def test_going_back_undoes_going_forward():
    x1 = tx.sampling.flow(FIELD, X0, **TIGHT)
    assert jnp.allclose(tx.sampling.flow(FIELD, x1, t0=1.0, t1=0.0, **TIGHT), X0, atol=1e-8)
    back = tx.sampling.flow(
        FIELD,
        x1,
        t0=1.0,
        t1=0.0,
        steps=FixedSteps(50, diffrax.Tsit5()),
        times=jnp.array([1.0, 0.0]),
    )
    assert jnp.allclose(back, jnp.stack([x1, X0]), atol=1e-8)


def test_a_flow_over_no_time_stays_where_it_is():
    assert jnp.array_equal(tx.sampling.flow(FIELD, X0, t0=0.3, t1=0.3), X0)
    path = tx.sampling.flow(FIELD, X0, t0=0.3, t1=0.3, times=jnp.array([0.3, 0.3]))
    assert jnp.array_equal(path, jnp.stack([X0, X0]))


def explode(t, x, args):
    """x' = x^2 ends at x / (1 - x): beyond 1 it is infinite before t = 1."""
    return x**2


BLOW_UP = jnp.array([[0.5], [2.0], [-1.0]])


def test_an_example_that_fails_is_nan_and_leaves_the_others_alone():
    options: dict[str, Any] = {"steps": AdaptiveSteps(1e-8, 1e-8, max_steps=256)}
    ends = tx.sampling.flow(explode, BLOW_UP, **options)
    assert jnp.allclose(ends[jnp.array([0, 2]), 0], jnp.array([1.0, -0.5]), atol=1e-6)
    assert jnp.isnan(ends[1, 0])
    path = tx.sampling.flow(explode, BLOW_UP, times=jnp.array([0.1, 1.0]), **options)
    # At 0.1 it was still at 2 / (1 - 0.2); from where it failed it is NaN.
    assert jnp.allclose(path[0, :, 0], jnp.array([0.5, 2.0, -1.0]) / jnp.array([0.95, 0.8, 1.1]))
    assert jnp.array_equal(jnp.isnan(path[1, :, 0]), jnp.array([False, True, False]))


def test_each_example_says_how_it_ended():
    steps = AdaptiveSteps(1e-8, 1e-8, max_steps=256)
    start = jnp.concatenate([BLOW_UP, jnp.array([[jnp.nan]])])
    made = tx.sampling.trajectories(explode, start, steps=steps)
    ends = [tx.Status.COMPLETED, tx.Status.MAX_STEPS, tx.Status.COMPLETED, tx.Status.NON_FINITE]
    for i, status in enumerate(ends):
        assert (made.status == status)[i]
    assert jnp.array_equal(made.completed, jnp.array([True, False, True, False]))
    assert made.num_steps[1] == 256
    fixed = tx.sampling.trajectories(explode, start, steps=3)
    assert jnp.array_equal(fixed.completed, jnp.array([True, True, True, False]))
    assert jnp.array_equal(fixed.num_steps, jnp.full(4, 3))
    dense = tx.sampling.likelihood(
        explode, jnp.array([[0.5], [-2.0]]), base_log_prob=standard_log_prob, steps=steps
    )
    # x' = x^2 backwards: -2 came from infinity; 0.5 from 1/3, over a volume growth of (3/2)^2.
    assert jnp.array_equal(dense.completed, jnp.array([True, False]))
    assert jnp.allclose(dense.x[0, 0], 1 / 3, atol=1e-7)
    assert jnp.allclose(dense.log_prob[0], -1 / 18 - 2 * jnp.log(1.5), atol=1e-6)
    assert jnp.isnan(dense.log_prob[1])


def test_shared_steps_meet_the_tolerance_on_the_way_and_at_the_end():
    shared = AdaptiveSteps(1e-10, 1e-10, shared=True)
    path = tx.sampling.flow(FIELD, X0, times=jnp.array([0.5, 1.0]), steps=shared)
    alone = tx.sampling.flow(FIELD, X0, times=jnp.array([0.5, 1.0]), **TIGHT)
    assert jnp.allclose(path, alone, atol=1e-8)
    assert error(path[-1]) < 1e-8
    log_prob = tx.sampling.log_prob(FIELD, X1, base_log_prob=base_log_prob, steps=shared)
    assert np.allclose(log_prob, target_log_density(X1), atol=1e-8)


def test_an_example_that_fails_takes_along_those_that_share_its_steps():
    made = tx.sampling.trajectories(
        explode, BLOW_UP, steps=AdaptiveSteps(1e-8, 1e-8, max_steps=256, shared=True)
    )
    assert jnp.all(jnp.isnan(made.x))
    assert jnp.all(made.status == tx.Status.MAX_STEPS)


def test_a_failing_example_leaves_the_derivatives_of_others_alone():
    def total(x0):
        ends = tx.sampling.flow(explode, x0, steps=AdaptiveSteps(1e-8, 1e-8, max_steps=256))
        return jnp.sum(ends[jnp.array([0, 2])])

    gradient = jax.grad(total)(BLOW_UP)
    # (1 - x)^-2.
    assert jnp.allclose(gradient[jnp.array([0, 2]), 0], jnp.array([4.0, 0.25]), atol=1e-5)


def partly_undefined(t, x, args):
    """A field with no value for points beyond 2."""
    return jnp.where(jnp.sum(x) > 2, jnp.nan, -x)


def standard_log_prob(x):
    return -jnp.sum(x**2) / 2


PATH = tx.interpolants.Trigonometric()
SAMPLERS = {
    "equal steps": lambda x: tx.sampling.flow(partly_undefined, x, **EQUAL),
    "adaptive steps": lambda x: tx.sampling.flow(
        partly_undefined, x, steps=AdaptiveSteps(1e-6, 1e-6, max_steps=64)
    ),
    "diffusion": lambda x: tx.sampling.diffuse(
        partly_undefined, x, score=partly_undefined, noise=jnp.ones_like, key=jr.key(87), **EQUAL
    ),
    "exponential": lambda x: tx.sampling.exponential_flow(partly_undefined, x, path=PATH, steps=8),
    "log-density": lambda x: tx.sampling.log_prob(
        partly_undefined, x, base_log_prob=standard_log_prob, **EQUAL
    ),
    "pushed forward": lambda x: (
        tx.sampling.push_forward(partly_undefined, x, jnp.zeros(3), **EQUAL).log_prob
    ),
}


@pytest.mark.parametrize("sample", SAMPLERS.values(), ids=SAMPLERS.keys())
def test_where_a_field_is_nan_the_answer_is_and_only_there(sample):
    found = sample(jnp.array([[-5.0], [5.0], [-6.0]])).reshape(3)
    assert jnp.array_equal(jnp.isnan(found), jnp.array([False, True, False]))


@pytest.mark.parametrize("options", [EQUAL, TIGHT])
def test_flow_differentiates_in_start_args_and_field(options):
    field = smooth_network(condition_dim=1)
    x0, args = jr.normal(jr.key(82), (3, 2)), jr.normal(jr.key(83), (3, 1))

    def ends(field, x0, args):
        return tx.sampling.flow(field, x0, args, **options)

    check_derivatives(ends, field, x0, args, forward=options is EQUAL)


def test_flow_runs_under_jit_and_vmap():
    stacked = jnp.stack([X0, 2 * X0])
    mapped = jax.jit(jax.vmap(lambda x: tx.sampling.flow(FIELD, x, **TIGHT)))(stacked)
    for i in range(2):
        assert np.allclose(mapped[i], exact_ends(stacked[i]), atol=1e-8)


def base_log_prob(x):
    return jnp.asarray(jax.scipy.stats.multivariate_normal.logpdf(x, *ENDS[:2]))


X1 = jr.normal(jr.key(84), (6, 3))


def target_log_density(x):
    covariance: Any = S1
    return scipy.stats.multivariate_normal.logpdf(np.asarray(x), mean=M1, cov=covariance)


def test_log_prob_is_the_gaussian_density():
    log_prob = tx.sampling.log_prob(
        FIELD, X1, base_log_prob=base_log_prob, steps=AdaptiveSteps(1e-9, 1e-9)
    )
    assert np.allclose(log_prob, target_log_density(X1), atol=1e-6)


def test_log_prob_at_equal_steps_follows_conditions_and_shapes():
    """x' = c x on images: log p1(x) = log p0(e^-c x) - c d, with one c an example."""
    images, rates = jr.normal(jr.key(85), (4, 2, 3, 1)), jnp.linspace(-1.0, 1.0, 4)

    def standard(x):
        return jnp.sum(jax.scipy.stats.norm.logpdf(x))

    log_prob = tx.sampling.log_prob(scaling, images, rates, base_log_prob=standard, steps=20)
    scales = np.exp(np.asarray(rates))
    expected = [
        np.sum(scipy.stats.norm.logpdf(image, scale=s))
        for s, image in zip(scales, images, strict=True)
    ]
    # Tsit5 with 20 steps of 0.05: local errors of order 1e-9.
    assert np.allclose(log_prob, expected, atol=1e-8)


def test_hutchinson_log_prob_averages_to_log_prob():
    options: dict[str, Any] = {"base_log_prob": base_log_prob, "steps": 8}

    @jax.jit
    def estimates(keys):
        return jax.vmap(
            lambda key: tx.sampling.hutchinson_log_prob(FIELD, X1, key=key, num_probes=2, **options)
        )(keys)

    samples = np.asarray(estimates(jr.split(jr.key(86), 1000)))
    exact = tx.sampling.log_prob(FIELD, X1, **options)
    deviation = np.std(samples, axis=0, ddof=1)
    assert np.all(deviation > 1e-3)
    assert np.all(np.abs(np.mean(samples, axis=0) - exact) < 4 * deviation / np.sqrt(1000))
    # Every example has probes of its own.
    correlations = np.corrcoef(samples.T) - np.eye(6)
    assert np.max(np.abs(correlations)) < 4.5 / np.sqrt(1000)


def test_log_prob_differentiates_in_points_and_field():
    field = smooth_network()
    x1 = jr.normal(jr.key(82), (3, 2))

    def log_prob(field, x1):
        return tx.sampling.log_prob(field, x1, base_log_prob=lambda x: -jnp.sum(x**2) / 2, steps=6)

    check_derivatives(log_prob, field, x1)


def test_float32_stays_float32_and_agrees_with_float64():
    field, x0 = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), (FIELD, X0))

    def base(x):
        return tx.gaussians.log_density(x, field.m0, field.S0)

    ends = tx.sampling.flow(field, x0, steps=AdaptiveSteps(1e-5, 1e-5))
    log_prob = tx.sampling.log_prob(field, x0, base_log_prob=base, steps=20)
    assert ends.dtype == log_prob.dtype == jnp.float32
    assert error(ends) < 1e-4
    assert np.allclose(log_prob, target_log_density(X0), atol=1e-4)


def flow(x0=X0, args=None, field=scaling, **options):
    return tx.sampling.flow(field, x0, args, **options)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: AdaptiveSteps(0.0, 1e-3), "`rtol` is 0.0; give a positive number"),
        (lambda: flow(steps=0), "`steps` is 0; give an integer of at least 1"),
        (lambda: flow(steps=2.5), "`steps` is .*; give an integer"),
        (lambda: AdaptiveSteps(1e-3, 1e-3, max_steps=0), "`max_steps` is 0; give an integer"),
        (lambda: flow(t0=-0.1), r"`t0` is -0.1; give a time in \[0, 1\]"),
        (lambda: flow(t1=1.5), r"`t1` is 1.5; give a time in \[0, 1\]"),
        (lambda: flow(times=jnp.array([0.5, 1.2])), "`times` is .*; give times between 0.0 and 1"),
        (lambda: flow(times=jnp.array([0.5, 0.2])), "`times` is .*; .* in that order"),
        (
            lambda: flow(times=jnp.zeros(0)),
            r"`times` has shape .*; give at least one example, shape \(k,\)",
        ),
        (lambda: flow(X0.astype(int)), "`x0` has dtype int64; convert it"),
        (lambda: flow(X0[:0]), r"`x0` has shape \(0, 3\); give at least one example"),
        (lambda: flow(X0, jnp.ones(4)), "`args` has 4 examples but `x0` has 5; give as many"),
        (lambda: flow(X0, jnp.array(1.0)), "`args` holds .*; give arrays with one row per example"),
        (
            lambda: flow(field=lambda t, x, args: x[:1]),
            r"`field` returns shape \(1,\) at a point of shape \(3,\); return dx/dt",
        ),
        (
            lambda: tx.sampling.log_prob(FIELD, X1[:0], base_log_prob=base_log_prob),
            r"`x1` has shape \(0, 3\); give at least one example",
        ),
        (
            lambda: tx.sampling.hutchinson_log_prob(
                FIELD, X1, key=jr.key(0), num_probes=0, base_log_prob=base_log_prob
            ),
            "`num_probes` is 0; give an integer of at least 1",
        ),
    ],
)
def test_bad_input_is_named_with_a_cure(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.usefixtures("without_type_checks")
def test_counts_may_be_numpy_integers():
    assert jnp.array_equal(
        flow(args=jnp.ones(5), steps=np.int64(4)), flow(args=jnp.ones(5), steps=4)
    )
