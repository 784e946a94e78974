"""Residual networks: depth as time, and descent in conditional transport."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.linalg

import transportx as tx
import transportx.mean_field as mf
from tests.helpers import quick

KEYS = jr.split(jr.key(3), 5)
N, M, D = 5, 7, 2
X, Y = jr.normal(KEYS[0], (M, D)), jr.normal(KEYS[1], (M, D))
ONE = mf.random_network(N, dim=D, num_outputs=D, key=KEYS[2], activation=mf.Tanh())
DEEP = mf.random_residual_network(4, N, dim=D, key=KEYS[3], activation=mf.Tanh())


def constant(depth, activation):
    """Layers that are all the same."""
    copies = (jnp.broadcast_to(part, (depth, N, D)) for part in (ONE.inner, ONE.outer))
    layers = jax.vmap(lambda w, u: mf.Network(w, u, activation=activation))(*copies)
    return mf.ResidualNetwork(layers)


def test_linear_layers_approach_the_exponential_at_first_order_in_depth():
    product = np.asarray(ONE.outer).T @ np.asarray(ONE.inner) / N
    exact = np.asarray(X) @ scipy.linalg.expm(product).T
    errors = []
    for depth in (40, 80):
        found = np.asarray(constant(depth, mf.Identity())(X))
        power = np.linalg.matrix_power(np.eye(D) + product / depth, depth)
        np.testing.assert_allclose(found, np.asarray(X) @ power.T, rtol=1e-12)
        errors.append(np.max(np.abs(found - exact)))
    assert 1.9 < errors[0] / errors[1] < 2.1


@quick
def trained(network, t1):
    times = t1 * jnp.linspace(0, 1, 9)
    return mf.train(mf.ResidualRisk(X, Y, network.depth), network, t1=t1, steps=8, times=times)


def risk(network):
    return jnp.mean(jnp.sum((network(X) - Y) ** 2, axis=1)) / 2


def test_descent_is_steepest_in_conditional_transport():
    step = 1e-3
    made = trained(DEEP, 8 * step)
    assert made.completed
    assert jnp.allclose(made.risk[0], risk(DEEP), rtol=1e-13)
    moved = mf.conditional_wasserstein2(DEEP, made.network(1))
    assert jnp.allclose(moved / step, jnp.sqrt(made.dissipation[0]), rtol=1e-10)
    start, after = made.network(0), made.network(1)
    along = jax.tree.map(lambda a, b: b - a, start, after)
    ahead, behind = (
        risk(jax.tree.map(lambda a, v, h=h: a + h * v, start, along)) for h in (0.1, -0.1)
    )
    slope = (ahead - behind) / (0.2 * step)
    assert jnp.allclose(slope, -made.dissipation[0], rtol=1e-6)


def test_depth_drops_out_of_time():
    ends = [float(trained(constant(depth, mf.Tanh()), 2.0).risk[-1]) for depth in (8, 16, 32)]
    assert ends[-1] < 0.8 * float(risk(constant(8, mf.Tanh())))
    # Of first order in 1 / L: each doubling halves what is left.
    assert 1.8 < (ends[0] - ends[1]) / (ends[1] - ends[2]) < 2.2


def test_the_conditional_distance_matches_neurons_within_their_layers():
    shifts = jnp.array([0.1, 0.0, -0.2, 0.3])[:, None, None]
    order = jnp.array([2, 0, 4, 1, 3])
    layers = DEEP.layers
    moved = DEEP.with_neurons(
        mf.Neurons(
            (layers.inner[:, order] + shifts).reshape(-1, D), layers.outer[:, order].reshape(-1, D)
        )
    )
    # Two coordinates of w, each moved by the shift of its layer.
    expected = jnp.sqrt(2 * jnp.mean(shifts**2))
    assert jnp.allclose(mf.conditional_wasserstein2(DEEP, moved), expected, rtol=1e-12)
    swapped = jax.tree.map(lambda leaf: jnp.flip(leaf, 0), DEEP)
    assert mf.conditional_wasserstein2(DEEP, swapped) > 0.5
    assert mf.conditional_wasserstein2(DEEP, DEEP) == 0
    uneven = jnp.linspace(1, 2, 4 * N) / (6 * N)
    heavier = DEEP.with_neurons(DEEP.measure.x, uneven)
    assert jnp.isnan(mf.conditional_wasserstein2(DEEP, heavier))


def test_steps_too_large_end_in_a_status():
    assert trained(DEEP, 400.0).status == tx.Status.ROSE
    broken = jax.tree.map(lambda leaf: leaf.at[0].set(jnp.nan), DEEP)
    assert trained(broken, 0.1).status == tx.Status.NON_FINITE


@pytest.mark.parametrize(
    ("named", "call"),
    [
        ("layers", lambda: mf.ResidualNetwork(ONE)),
        ("depth", lambda: mf.random_residual_network(0, 2, dim=2, key=KEYS[0])),
        ("other", lambda: mf.conditional_wasserstein2(DEEP, constant(3, mf.Tanh()))),
        ("y", lambda: mf.ResidualRisk(X, Y[:3], 4)),
        ("x", lambda: mf.train(mf.ResidualRisk(X, Y, 3), DEEP, t1=1.0)),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_what_does_not_fit_is_refused_by_name(named, call):
    with pytest.raises(ValueError, match=f"^`{named}` "):
        call()
