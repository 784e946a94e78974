"""Warps of time and paths that are not pinned: against their definitions."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.interpolate
import scipy.special

import transportx as tx

WARPS = {
    "power": tx.interpolants.Power(2.5),
    "sigmoid": tx.interpolants.Sigmoid(7.0),
    "bernstein": tx.interpolants.Bernstein(jnp.array([1.0, -2.0, 0.3, 0.0])),
}
TIMES = jnp.linspace(0.0, 1.0, 101)


@pytest.mark.parametrize("warp", WARPS.values(), ids=WARPS.keys())
def test_warps_rise_from_zero_to_one(warp):
    values = jax.vmap(warp)(TIMES)
    assert values[0] == 0
    assert np.isclose(float(values[-1]), 1, atol=1e-15)
    assert jnp.all(jnp.diff(values) > 0)


def test_sigmoid_is_the_logistic_curve_mapped_onto_the_unit_interval():
    logistic = scipy.special.expit(7.0 * (np.asarray(TIMES) - 0.5))
    mapped = (logistic - logistic[0]) / (logistic[-1] - logistic[0])
    assert np.allclose(jax.vmap(WARPS["sigmoid"])(TIMES), mapped, atol=1e-14)


def test_bernstein_is_scipys_polynomial_of_the_cumulated_softmax():
    coefficients = np.cumsum(np.concatenate([[0], scipy.special.softmax([1.0, -2.0, 0.3, 0.0])]))
    reference = scipy.interpolate.BPoly(coefficients[:, None], [0, 1])(np.asarray(TIMES))
    assert np.allclose(jax.vmap(WARPS["bernstein"])(TIMES), reference, atol=1e-14)


def test_equal_logits_are_the_identity():
    warp = tx.interpolants.Bernstein(jnp.full(5, 0.7))
    assert jnp.allclose(jax.vmap(warp)(TIMES), TIMES, atol=1e-15)


def test_a_schedule_learns_the_pace_that_a_loss_asks_for():
    """Descent on logits alone brings a cubic warp to t^2, which is a Bernstein polynomial."""
    x0, x1 = jnp.zeros(1), jnp.ones(1)

    def loss(logits):
        path = tx.interpolants.Warped(tx.interpolants.Linear(), tx.interpolants.Bernstein(logits))
        positions = jax.vmap(lambda t: path.position(t, x0, x1, x0))(TIMES)
        return jnp.mean((positions[:, 0] - TIMES**2) ** 2)

    # t^2 at degree three rises by 0, 1/3 and 2/3; a softmax only comes near to zero.
    def step(logits, _):
        return logits - 30.0 * jax.grad(loss)(logits), None

    logits, _ = jax.lax.scan(step, jnp.zeros(3), length=20_000)
    assert loss(logits) < 1e-6 < 1e-3 < loss(jnp.zeros(3))
    assert np.isclose(float(logits[2] - logits[1]), np.log(2), atol=0.05)


def test_warped_paths_go_the_same_way():
    x0, x1, z = jr.normal(jr.key(0), (3, 4))
    path, warp = tx.interpolants.BrownianBridge(0.4), WARPS["power"]
    warped = tx.interpolants.Warped(path, warp)
    t = jnp.array(0.3)
    assert jnp.array_equal(warped.position(t, x0, x1, z), path.position(t**2.5, x0, x1, z))
    speed = 2.5 * t**1.5
    assert jnp.allclose(warped(t, x0, x1, z)[1], speed * path(t**2.5, x0, x1, z)[1], rtol=1e-13)


def test_a_wide_end_leaves_that_share_of_the_source():
    alpha, beta, _ = tx.interpolants.Linear(0.1).coefficients(jnp.array(1.0))
    assert np.isclose(float(alpha), 0.1)
    assert beta == 1


def test_exploding_noise_falls_geometrically():
    path = tx.interpolants.VarianceExploding(0.02, 8.0)
    alpha, beta, _ = jax.vmap(path.coefficients)(TIMES)
    assert np.allclose(alpha, np.geomspace(8.0, 0.02, 101), rtol=1e-13)
    assert jnp.all(beta == 1)


def test_noise_adds_up_in_quadrature():
    t = jnp.array(0.37)
    both = tx.interpolants.Noised(
        tx.interpolants.BrownianBridge(0.3), tx.interpolants.BridgeNoise(0.4)
    )
    single = tx.interpolants.BrownianBridge(0.5)
    assert np.isclose(float(both.coefficients(t)[2]), float(single.coefficients(t)[2]), rtol=1e-13)


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: tx.interpolants.Linear(-0.1), "end_width"),
        (lambda: tx.interpolants.VarianceExploding(sigma_min=0.0), "sigma_min"),
        (lambda: tx.interpolants.VarianceExploding(sigma_max=-1.0), "sigma_max"),
        (lambda: tx.interpolants.Power(0.0), "power"),
        (lambda: tx.interpolants.Sigmoid(-1.0), "sharpness"),
        (lambda: tx.interpolants.BridgeNoise(0.0), "sigma"),
        (lambda: tx.interpolants.ConstantNoise(-1.0), "sigma"),
        (lambda: tx.interpolants.Bernstein(jnp.zeros(0)), "logits"),
    ],
)
def test_bad_parameters_are_named(make, argument):
    with pytest.raises(ValueError, match=f"`{argument}`"):
        make()
