"""Value functions: the linear program against exact transport, Gaussians against their map."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import ot
import pytest

import transportx as tx
from tests.control.systems import control
from tests.tables import covariance

STEPS = 3


def ends(seed):
    """Two weighted clouds of unequal sizes."""
    draw = np.random.default_rng(seed)
    x, y = draw.normal(size=(5, 2)), draw.normal(size=(4, 2)) + 1
    a, b = draw.uniform(0.2, 1, 5), draw.uniform(0.2, 1, 4)
    return x, y, 3 * a / a.sum(), 3 * b / b.sum()


def steps_of(x, y, sets):
    """Costs between neighbouring sets."""
    clouds = (x, *sets, y)
    pairs = zip(clouds, clouds[1:], strict=False)
    return [(len(clouds) - 1) * ((p[:, None] - q[None]) ** 2).sum(-1) for p, q in pairs]


def transport(x, y, between, a, b):
    return control.value_transport([*map(jnp.asarray, (x, *between, y))], *map(jnp.asarray, (a, b)))


def on_the_way(x, y):
    """All points at which a straight way can be after each step."""
    ways = (x[:, None], y[None])
    fractions = np.arange(1, STEPS) / STEPS
    return [((1 - t) * ways[0] + t * ways[1]).reshape(-1, 2) for t in fractions]


def test_with_all_straight_ways_it_is_exact_transport():
    x, y, a, b = ends(0)
    made = transport(x, y, on_the_way(x, y), a, b)
    exact = ot.emd2(a, b, ((x[:, None] - y[None]) ** 2).sum(-1))
    assert made.converged
    np.testing.assert_allclose(made.value, exact, rtol=1e-9)
    assert float(made.gap) < 1e-9


def test_values_are_feasible_and_tight_where_mass_goes():
    x, y, a, b = ends(1)
    sets = on_the_way(x, y)
    made = transport(x, y, sets, a, b)
    for h, cost in enumerate(steps_of(x, y, sets)):
        slack = cost + made.values[h + 1][None] - made.values[h][:, None]
        assert float(jnp.min(slack)) > -1e-12
        np.testing.assert_allclose(slack * made.plans[h], 0, atol=1e-9)
    np.testing.assert_allclose(made.plans[0].sum(1), a, atol=1e-12)
    np.testing.assert_allclose(made.plans[-1].sum(0), b, atol=1e-12)
    np.testing.assert_allclose(made.plans[0].sum(0), made.plans[1].sum(1), atol=1e-12)


def test_few_points_between_make_a_detour_of_least_cost():
    x, y, a, b = ends(2)
    sets = [np.random.default_rng(3).normal(size=(6, 2)) for _ in range(STEPS - 1)]
    shortest = None
    for cost in steps_of(x, y, sets):
        shortest = cost if shortest is None else (shortest[:, :, None] + cost[None]).min(1)
    made = transport(x, y, sets, a, b)
    np.testing.assert_allclose(made.value, ot.emd2(a, b, shortest), rtol=1e-9)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"a": jnp.array([2.0, -1.0])}, "INFEASIBLE"),
        ({"a": jnp.zeros(2), "b": jnp.zeros(2)}, "INFEASIBLE"),
        ({"b": jnp.array([1.0, 0.1])}, "INFEASIBLE"),
        ({"b": jnp.array([jnp.nan, 0.5])}, "NON_FINITE"),
        ({"points": (jnp.eye(2), jnp.full((2, 2), jnp.inf))}, "NON_FINITE"),
    ],
)
def test_weights_and_points_without_an_answer_say_why(change, word):
    given = {"points": (jnp.eye(2), jnp.ones((2, 2)))}
    given |= dict.fromkeys(("a", "b"), jnp.array([0.5, 0.5])) | change
    made = control.value_transport(**given)
    assert bool(made.status == getattr(tx.Status, word))
    assert all(jnp.isnan(leaf).all() for leaf in jax.tree.leaves((made.values, made.plans)))
    assert jnp.isnan(made.value)


def test_arguments_that_do_not_fit_are_refused():
    half = jnp.array([0.5, 0.5])
    with pytest.raises(ValueError, match="^`points` holds 1 sets"):
        control.value_transport((jnp.eye(2),), half, half)
    with pytest.raises(ValueError, match="^`b`"):
        control.value_transport((jnp.eye(2), jnp.ones((3, 2))), half, half)
    with pytest.raises(ValueError, match="call it outside of jit"):
        jax.eval_shape(lambda a: control.value_transport((jnp.eye(2),) * 2, a, half), half)


M0, M1 = jnp.array([0.3, -1.0, 0.5]), jnp.array([1.0, 2.0, -0.4])
S0, S1 = covariance(jr.key(0), 3), covariance(jr.key(1), 3)


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_one_pass_of_descent_between_gaussians_is_the_optimal_map(steps):
    values = control.gaussian_values(M0, S0, M1, S1, steps=steps)
    x0 = jr.normal(jr.key(2), (5, 3))
    path = control.descend(values, x0, steps=steps)
    push = tx.gaussians.transport_map(M0, S0, M1, S1)
    np.testing.assert_allclose(path[-1], jax.vmap(push)(x0), atol=1e-12)
    # Every step pays what the value falls by.
    for h in range(steps):
        before, after = (jax.vmap(values, (None, 0))(jnp.array(h + k), path[h + k]) for k in (0, 1))
        paid = steps * jnp.sum((path[h + 1] - path[h]) ** 2, axis=1)
        np.testing.assert_allclose(before - after, paid, atol=1e-11)


def test_gaussian_values_are_those_of_the_transport():
    values = control.gaussian_values(M0, S0, M1, S1, steps=4)

    def mean(step, m, S):
        curvature = jax.hessian(values, argnums=1)(jnp.array(step), m)
        return values(jnp.array(step), m) + jnp.sum(curvature * S) / 2

    apart = mean(0, M0, S0) - mean(4, M1, S1)
    np.testing.assert_allclose(apart, tx.gaussians.wasserstein2_squared(M0, S0, M1, S1), rtol=1e-12)
    # The condition that makes them feasible: V_h is the least of what a step may lead to.
    x = jnp.array([0.4, 0.1, -2.0])
    step = x - jax.grad(values, argnums=1)(jnp.array(1), x) / 8
    slope = 8 * (step - x) + jax.grad(values, argnums=1)(jnp.array(2), step)
    np.testing.assert_allclose(slope, 0, atol=1e-12)
    for outside in (-1, 5):
        assert jnp.isnan(values(jnp.array(outside), x))
    with pytest.raises(ValueError, match="^`steps`"):
        control.gaussian_values(M0, S0, M1, S1, steps=0)
    with pytest.raises(ValueError, match="^`value`"):
        control.descend(lambda h, x: x, x[None], steps=2)
