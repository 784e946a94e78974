"""Semidiscrete transport: against the line's closed form, fresh points, and entropic plans."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.stats

import transportx as tx
from tests.helpers import check_derivatives
from transportx.ot import _power_cells

KEY = jr.key(0)
MASSES = jnp.array([0.5, 2.0, 0.0, 1.0, 3.0, 0.2, 0.8])
LINE = tx.ot.GridDensity(MASSES, jnp.array([-1.0]), jnp.array([2.5]))
Y = jnp.array([[0.9], [-0.4], [3.0], [0.1], [1.7]])
B = jnp.array([0.1, 0.3, 0.15, 0.25, 0.2])
# With potentials to start from no entropic plan is solved: programs are compiled sooner.
ROUGH: dict[str, Any] = {
    "key": KEY,
    "init": jnp.zeros(5),
    "num_steps": 20,
    "batch": 256,
    "num_audit": 1000,
}


def rough(**changed: Any) -> dict[str, Any]:
    """The options, some of them others."""
    return {**ROUGH, **changed}


SQUARE = tx.ot.GridDensity(jnp.ones((8, 8)), jnp.zeros(2), jnp.ones(2))


def normal(*, key, num):
    return jr.normal(key, (num, 1))


def plane(*, key, num):
    return jr.normal(key, (num, 2))


def steps_on_the_line(y, b, quantile):
    """Order of the data, and g_{j+1} - g_j by the closed form."""
    order = np.argsort(y)
    y, levels = y[order], np.cumsum(b[order])[:-1]
    return order, np.diff(y**2) - 2 * quantile(levels) * np.diff(y)


def quantile_of_the_grid(levels):
    edges = np.linspace(-1.0, 2.5, 8)
    running = np.concatenate([[0.0], np.cumsum(MASSES)]) / np.sum(MASSES)
    return np.interp(levels, running, edges)


# On the line


def test_a_density_on_the_line_has_the_potentials_of_the_closed_form():
    plan = tx.ot.semidiscrete(LINE, Y, B, key=KEY, tol=1e-9)
    order, expected = steps_on_the_line(np.asarray(Y[:, 0]), np.asarray(B), quantile_of_the_grid)
    np.testing.assert_allclose(np.diff(np.asarray(plan.g)[order]), expected, atol=1e-12)
    np.testing.assert_allclose(B @ plan.g, 0, atol=1e-13)
    assert plan.converged
    assert plan.mass_error < 1e-12
    np.testing.assert_allclose(plan.masses, B, atol=1e-12)


def test_the_value_on_the_line_is_the_integral_of_squared_distances():
    plan = tx.ot.semidiscrete(LINE, Y, B, key=KEY)
    levels = (np.arange(200_000) + 0.5) / 200_000
    order = np.argsort(Y[:, 0])
    targets = np.asarray(Y[:, 0])[order][np.searchsorted(np.cumsum(B[order]), levels)]
    expected = np.mean((quantile_of_the_grid(levels) - targets) ** 2)
    np.testing.assert_allclose(plan.value, expected, rtol=1e-5)


def test_draws_from_the_line_approach_the_closed_form():
    plan = tx.ot.semidiscrete(normal, Y, B, key=KEY, tol=0.02)
    order, expected = steps_on_the_line(np.asarray(Y[:, 0]), np.asarray(B), scipy.stats.norm.ppf)
    np.testing.assert_allclose(np.diff(np.asarray(plan.g)[order]), expected, atol=0.03)
    assert plan.converged


@pytest.mark.long
def test_many_draws_from_the_line_meet_the_closed_form():
    y, uniform = (Y + 0.5) / 3, scipy.stats.uniform.ppf
    plan = tx.ot.semidiscrete(
        lambda *, key, num: jr.uniform(key, (num, 1)), y, B, key=KEY, num_audit=2**22, tol=0.003
    )
    order, expected = steps_on_the_line(np.asarray(y[:, 0]), np.asarray(B), uniform)
    np.testing.assert_allclose(np.diff(np.asarray(plan.g)[order]), expected, atol=1e-3)
    assert plan.converged


# In the plane


def masses_by_search(plan, x):
    costs = np.sum((x[:, None] - np.asarray(plan.y)[None]) ** 2, axis=2) - np.asarray(plan.g)
    return np.bincount(np.argmin(costs, axis=1), minlength=plan.y.shape[0]) / len(x)


def test_two_points_share_a_square_along_a_straight_border():
    y = jnp.array([[0.0, 0.5], [1.0, 0.5]])
    plan = tx.ot.semidiscrete(SQUARE, y, jnp.array([0.3, 0.7]), key=KEY, tol=1e-4)
    np.testing.assert_allclose(plan.g[1] - plan.g[0], 1 - 2 * 0.3, atol=1e-4)
    assert plan.converged
    # The integrals of (x - T)^2 along the border's normal, and of (y - 1/2)^2 across.
    np.testing.assert_allclose(plan.value, (0.3**3 + 0.7**3) / 3 + 1 / 12, atol=1e-4)
    np.testing.assert_allclose(plan.centroids, [[0.15, 0.5], [0.65, 0.5]], atol=1e-3)


@pytest.mark.long
def test_a_lattice_shares_a_square_into_equal_ones():
    side = (jnp.arange(4.0) + 0.5) / 4
    y = jnp.stack(jnp.meshgrid(side, side), axis=-1).reshape(-1, 2)
    plan = tx.ot.semidiscrete(SQUARE, y, key=KEY, tol=1e-3)
    assert plan.converged
    np.testing.assert_allclose(plan.g, 0, atol=1e-4)


def test_cells_of_the_plane_hold_their_weights_on_fresh_points():
    masses = 0.2 + jr.uniform(jr.key(3), (6, 9))
    density = tx.ot.GridDensity(masses, jnp.array([-1.0, 0.0]), jnp.array([2.0, 1.0]))
    b = jr.dirichlet(jr.key(4), 3 * jnp.ones(12))
    y = jr.normal(jr.key(5), (12, 2))
    plan = tx.ot.semidiscrete(density, y, b, key=KEY, tol=1e-3)
    assert plan.converged
    x = np.asarray(density.sample(key=jr.key(6), num=200_000))
    floor = np.sum(np.sqrt(2 / np.pi * b * (1 - b) / len(x)))
    assert np.sum(np.abs(masses_by_search(plan, x) - b)) < 2 * floor


@pytest.mark.long
def test_draws_of_the_plane_hold_their_weights_on_fresh_points():
    y = jr.uniform(jr.key(5), (20, 2))
    plan = tx.ot.semidiscrete(plane, y, key=KEY)
    assert plan.converged
    x = np.random.default_rng(0).normal(size=(100_000, 2))
    assert np.sum(np.abs(masses_by_search(plan, x) - 1 / 20)) < 0.05


# Regularised


@pytest.mark.long
def test_regularised_potentials_are_those_of_an_entropic_plan_from_a_fine_grid():
    nodes = scipy.stats.norm.ppf((np.arange(2000) + 0.5) / 2000)
    epsilon = 0.5
    fine = tx.ot.solve(tx.geometry.PointCloud(jnp.asarray(nodes)[:, None], Y), b=B, epsilon=epsilon)
    # The audit says what the value is to within 2.5 / sqrt(num_audit).
    plan = tx.ot.semidiscrete(normal, Y, B, epsilon=epsilon, key=KEY, tol=0.02, num_audit=2**18)
    assert plan.converged
    expected = fine.g - B @ fine.g
    np.testing.assert_allclose(plan.g, expected, atol=0.05)
    np.testing.assert_allclose(plan.value, fine.value, atol=0.02)


# Answers


def test_assigned_points_are_those_of_a_search(monkeypatch):
    monkeypatch.setattr(_power_cells, "_BLOCK", 4)
    y = 5 + jr.normal(jr.key(1), (11, 3))
    b = jnp.full(11, 0.1).at[3].set(0)
    x = 5 + jr.normal(jr.key(2), (30, 3))
    plan = tx.ot.semidiscrete(
        lambda *, key, num: 5 + jr.normal(key, (num, 3)),
        y,
        b,
        **rough(init=jr.normal(jr.key(3), (11,))),
    )
    costs = np.sum((np.asarray(x)[:, None] - np.asarray(y)[None]) ** 2, axis=2) - np.asarray(plan.g)
    costs[:, 3] = np.inf
    np.testing.assert_array_equal(plan.assign(x, key=KEY), np.argmin(costs, axis=1))


def test_regularised_assignment_draws_in_proportion(monkeypatch):
    monkeypatch.setattr(_power_cells, "_BLOCK", 3)
    plan = tx.ot.semidiscrete(normal, Y, B, epsilon=0.7, **ROUGH)
    x = jnp.full((20_000, 1), 0.4)
    found = np.bincount(plan.assign(x, key=jr.key(3)), minlength=5) / 20_000
    expected = B * jnp.exp((plan.g - (0.4 - Y[:, 0]) ** 2) / 0.7)
    expected = expected / jnp.sum(expected)
    assert np.all(np.abs(found - expected) < 5 * np.sqrt(expected / 20_000))


def test_the_value_differentiates_by_the_envelope():
    def value(y, log_b):
        return tx.ot.semidiscrete(LINE, y, jax.nn.softmax(log_b), key=KEY).value

    check_derivatives(value, Y, jnp.log(B), tol=1e-5)


def test_one_point_takes_everything():
    for source in (normal, LINE):
        plan = tx.ot.semidiscrete(source, jnp.array([[2.0]]), **rough(init=jnp.ones(1)))
        assert plan.converged
        assert plan.g == 0
        assert plan.mass_error < 1e-12


def test_points_of_weight_zero_have_no_cell_wherever_they_are():
    far = jnp.concatenate([Y, jnp.array([[1e6], [jnp.inf], [0.2]])])
    b = jnp.concatenate([B, jnp.zeros(3)])
    for source in (normal, LINE):
        plan = tx.ot.semidiscrete(source, far, b, **rough(init=jnp.zeros(8)))
        alone = tx.ot.semidiscrete(source, Y, B, **ROUGH)
        np.testing.assert_allclose(plan.masses[:5], alone.masses, atol=0.1)
        np.testing.assert_array_equal(plan.masses[5:], 0)
        assert jnp.isfinite(plan.value)
        assert jnp.all(plan.assign(Y, key=KEY) < 5)


@pytest.mark.long
@pytest.mark.parametrize("scale", [1e-10, 1e10])
def test_units_do_not_matter(scale):
    density = tx.ot.GridDensity(MASSES, scale * LINE.low, scale * LINE.high)
    for source in (density, lambda *, key, num: scale * jr.normal(key, (num, 1))):
        plan = tx.ot.semidiscrete(source, scale * Y, B, key=KEY, num_steps=20, batch=256, tol=0.3)
        assert plan.converged


def test_float32_and_halves_are_computed_in_float32():
    for dtype in (jnp.float32, jnp.bfloat16):
        plan = tx.ot.semidiscrete(
            lambda *, key, num: jr.normal(key, (num, 1), jnp.float32),
            Y.astype(dtype),
            **rough(init=jnp.zeros(5, jnp.float32), tol=0.3),
        )
        assert plan.g.dtype == jnp.float32
        assert plan.converged


# Failures


@pytest.mark.parametrize(
    ("source", "y", "b", "status"),
    [
        (normal, Y.at[0].set(jnp.nan), B, "NON_FINITE"),
        (normal, Y.at[0].set(jnp.inf), B, "NON_FINITE"),
        (normal, Y, B.at[0].set(jnp.nan), "NON_FINITE"),
        (normal, Y, 2 * B, "INFEASIBLE"),
        (normal, Y, 0 * B, "INFEASIBLE"),
        (normal, Y, B.at[0].set(-0.1).at[1].set(0.5), "INFEASIBLE"),
        (lambda *, key, num: jnp.full((num, 1), jnp.nan), Y, B, "NON_FINITE"),
        (tx.ot.GridDensity(0 * MASSES, LINE.low, LINE.high), Y, B, "INFEASIBLE"),
        (tx.ot.GridDensity(-MASSES, LINE.low, LINE.high), Y, B, "INFEASIBLE"),
        (tx.ot.GridDensity(MASSES, LINE.high, LINE.low), Y, B, "INFEASIBLE"),
        (tx.ot.GridDensity(MASSES.at[1].set(jnp.nan), LINE.low, LINE.high), Y, B, "NON_FINITE"),
    ],
)
def test_what_has_no_answer_says_so(source, y, b, status):
    plan = tx.ot.semidiscrete(source, y, b, **ROUGH)
    assert plan.status == getattr(tx.Status, status)
    assert jnp.all(jnp.isnan(plan.g))
    assert jnp.isnan(plan.value)
    np.testing.assert_array_equal(plan.assign(Y, key=KEY), 5)


def test_too_few_points_never_say_converged():
    y = jr.normal(jr.key(1), (300, 2))
    plan = tx.ot.semidiscrete(plane, y, **rough(init=jnp.zeros(300), num_steps=1))
    assert plan.status == tx.Status.MAX_STEPS
    assert plan.mass_error > plan.error_floor > 0.2


def test_one_bad_problem_of_a_batch_spoils_no_other():
    b = jnp.stack([B, 2 * B])
    plans = jax.vmap(lambda b: tx.ot.semidiscrete(LINE, Y, b, key=KEY))(b)
    alone = tx.ot.semidiscrete(LINE, Y, B, key=KEY)
    np.testing.assert_allclose(plans.g[0], alone.g, atol=1e-12)
    assert jnp.all(jnp.isnan(plans.g[1]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epsilon": -1.0}, "`epsilon` is -1.0"),
        ({"tol": 0.0}, "`tol` is 0.0"),
        ({"num_steps": 0}, "`num_steps` is 0"),
        ({"batch": 0}, "`batch` is 0"),
        ({"b": jnp.ones(3)}, "`b` has shape"),
        ({"sampler": lambda *, key, num: jr.normal(key, (num, 2))}, "`sampler` draws"),
        ({"sampler": lambda *, key, num: jr.bits(key, (num, 1))}, "`sampler` draws dtype"),
        ({"sampler": LINE, "epsilon": 0.1}, "`epsilon` is not zero"),
        ({"sampler": SQUARE}, "`y` has points of 1"),
    ],
)
def test_nonsense_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        tx.ot.semidiscrete(**({"sampler": normal, "y": Y, "key": KEY} | change))


def test_a_grid_is_drawn_from_in_proportion():
    x = LINE.sample(key=KEY, num=20_000)
    counts = np.histogram(x, bins=7, range=(-1.0, 2.5))[0] / 20_000
    np.testing.assert_allclose(counts, MASSES / MASSES.sum(), atol=0.02)
