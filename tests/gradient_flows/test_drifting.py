"""Drifting: against NumPy pair by pair, the scores of smoothed laws, and far from everything."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import transportx.gradient_flows as gf
from tests.helpers import quick
from transportx.geometry import _layout

X, TARGET = jr.normal(jr.key(1), (6, 2)), 0.7 * jr.normal(jr.key(2), (5, 2)) + 0.5
WEIGHTS = jnp.array([0.11, 0.29, 0.153, 0.197, 0.052, 0.198])
MASSES = jnp.array([0.1, 0.3, 0.2, 0.25, 0.15])
WIDTH = 0.8
KERNELS = {
    "laplace": (gf.Laplace(WIDTH), lambda r: np.exp(-r / WIDTH)),
    "gaussian": (gf.Gaussian(WIDTH), lambda r: np.exp(-(r**2) / (2 * WIDTH**2))),
    "multiquadric": (gf.InverseMultiquadric(WIDTH), lambda r: (1 + r**2 / WIDTH**2) ** -0.5),
}


def derivatives(drifting, *measure):
    return quick(lambda *measure: drifting.derivatives(*measure))(*measure)


every_kernel = pytest.mark.parametrize("name", KERNELS)


@every_kernel
def test_drift_is_the_difference_of_mean_shifts(name):
    kernel, by_distance = KERNELS[name]

    def shift(x, y, b):
        pairs = b * by_distance(np.linalg.norm(x[:, None] - y[None], axis=2))
        return pairs @ y / pairs.sum(1)[:, None] - x, np.log(pairs.sum(1))

    x, y, a, b = map(np.asarray, (X, TARGET, WEIGHTS, MASSES))
    (theirs, of_target), (own, of_own) = shift(x, y, b), shift(x, x, a)
    found = derivatives(gf.Drifting(TARGET, kernel, MASSES), X, WEIGHTS)
    np.testing.assert_allclose(found.gradient, own - theirs, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(found.variation, of_own - of_target, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(found.value, a @ (of_own - of_target), rtol=1e-11)


def test_a_gaussian_kernel_drifts_along_the_difference_of_scores():
    def log_density(x, y, b):
        squares = jnp.sum((x[None] - y) ** 2, axis=1)
        return jax.scipy.special.logsumexp(-squares / (2 * WIDTH**2), b=b)

    def score(y, b):
        return jax.vmap(jax.grad(log_density), (0, None, None))(X, y, b)

    expected = WIDTH**2 * (score(X, WEIGHTS) - score(TARGET, MASSES))
    found = derivatives(gf.Drifting(TARGET, gf.Gaussian(WIDTH), MASSES), X, WEIGHTS)
    assert jnp.allclose(found.gradient, expected, rtol=1e-11, atol=1e-13)


@every_kernel
def test_equal_measures_do_not_drift(name):
    order = jnp.array([2, 0, 1, 4, 3])
    drifting = gf.Drifting(TARGET, KERNELS[name][0], MASSES)
    found = derivatives(drifting, TARGET[order], MASSES[order])
    assert jnp.allclose(found.gradient, 0, atol=1e-14)
    assert abs(found.value) < 1e-14


def test_points_of_weight_zero_are_probes_on_which_nothing_depends():
    far = jnp.array([[40.0, -90.0], [1e3, 1e3]])
    y = jnp.concatenate([TARGET, far])
    x, weights = jnp.concatenate([X, far]), jnp.append(WEIGHTS, jnp.zeros(2))

    kernel, masses = gf.Laplace(WIDTH), jnp.append(MASSES, jnp.zeros(2))
    found = derivatives(gf.Drifting(y, kernel, masses), x, weights)
    plain = derivatives(gf.Drifting(TARGET, kernel, MASSES), X, WEIGHTS)
    assert jnp.allclose(found.value, plain.value, rtol=1e-10)
    assert jnp.allclose(found.gradient[:6], plain.gradient, rtol=1e-9, atol=1e-11)
    assert jnp.all(jnp.isfinite(found.gradient))


@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e10])
def test_far_points_find_their_nearest_at_every_scale(scale):
    """Where every kernel underflows the drift is to the nearest point, not NaN."""
    x, y = scale * jnp.array([[0.0], [1000.0]]), scale * jnp.array([[400.0], [2000.0]])
    drifting = gf.Drifting(y, gf.Gaussian(scale))
    found = derivatives(drifting, x)
    assert jnp.allclose(found.gradient, -scale * jnp.array([[400.0], [-600.0]]), rtol=1e-9)
    assert jnp.isfinite(found.value)
    halved = gf.Drifting(y.astype(jnp.float32), gf.Gaussian(scale))
    narrow = derivatives(halved, x.astype(jnp.float32))
    assert narrow.gradient.dtype == jnp.float32
    np.testing.assert_allclose(narrow.gradient, found.gradient, rtol=1e-5)


def test_tiles_change_nothing(monkeypatch):
    drifting = gf.Drifting(TARGET, gf.Laplace(WIDTH))
    dense = quick(lambda: drifting.derivatives(X, WEIGHTS))()
    monkeypatch.setattr(_layout, "_HELD_ENTRIES", 8)
    monkeypatch.setattr(_layout, "_TILE_ENTRIES", 12)
    streamed = quick(lambda: drifting.derivatives(X, WEIGHTS))()
    for one, other in zip(dense, streamed, strict=True):
        assert jnp.allclose(one, other, rtol=1e-12, atol=1e-13)


def test_what_rises_along_a_drift_is_no_failure_of_its_steps():
    """It is no gradient of its value, alone and in sums: the record says completed."""
    drifting = gf.Drifting(jnp.array([[0.0]]), gf.Gaussian(1.0))
    for functional in (drifting, drifting + gf.MMD(TARGET[:, :1], gf.Gaussian(1.0)), 2 * drifting):
        assert not functional.conservative
    record = quick(lambda x: gf.flow(drifting, x, t1=4.0, steps=4))(jnp.array([[-1.0], [1.0]]))
    assert jnp.max(jnp.diff(record.energy)) > 1e-3
    assert bool(record.completed)


def test_negative_kernels_are_refused():
    with pytest.raises(ValueError, match="`kernel` is negative; give a positive kernel"):
        gf.Drifting(TARGET, gf.NegativeDistance())
