"""Kernels between points far nearer to each other than to the rest, in float32."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import transportx as tx


def clusters(dim, n):
    """Two clouds that both lie in two clusters of width .02 at +-30, and particles that meet."""
    centres = jnp.where(jnp.arange(n)[:, None] % 2 == 0, 30.0, -30.0).astype(jnp.float32)
    x, y = (centres + 0.02 * jr.normal(key, (n, dim), jnp.float32) for key in jr.split(jr.key(0)))
    return x.at[2].set(x[0]), y


def outlier(dim, n):
    x, y = (jr.normal(key, (n, dim), jnp.float32) for key in jr.split(jr.key(1)))
    return x.at[0].set(1e4), y.at[1].set(1e4)


def mean_directions(x, y):
    gaps = np.asarray(x, np.float64)[:, None, :] - np.asarray(y, np.float64)[None, :, :]
    lengths = np.linalg.norm(gaps, axis=2, keepdims=True)
    return np.mean(gaps / np.where(lengths > 0, lengths, 1), axis=1)


@pytest.mark.parametrize("dim", [1, 12])
@pytest.mark.parametrize("cloud", [clusters, outlier])
def test_slopes_of_the_energy_distance_are_those_of_differences(cloud, dim):
    n = 20
    x, y = cloud(dim, n)
    weights = jnp.full(n, 1 / n, jnp.float32)
    slopes = n * jax.jit(jax.grad(tx.gradient_flows.energy_distance_squared(y).value))(x, weights)
    expected = 2 * mean_directions(x, y) - 2 * mean_directions(x, x)
    # In many coordinates slopes are differences of moments, which round like 30 / .02.
    assert np.allclose(slopes, expected, atol=1e-6 if dim == 1 else 5e-4)


@pytest.mark.slow
@pytest.mark.parametrize("dim", [2, 12])
def test_narrow_kernels_see_what_is_inside_a_cluster(dim):
    x, y = clusters(dim, 20)
    width = 0.1

    def mean(p, q):
        gaps = np.asarray(p, np.float64)[:, None, :] - np.asarray(q, np.float64)[None, :, :]
        return np.mean(np.exp(-np.sum(gaps**2, axis=2) / (2 * width**2)))

    expected = mean(x, x) + mean(y, y) - 2 * mean(x, y)
    weights = jnp.full(20, 1 / 20, jnp.float32)
    energy = tx.gradient_flows.MMD(y, tx.gradient_flows.Gaussian(width)).value(x, weights)
    assert np.isclose(energy, expected, rtol=1e-3)
    assert np.isclose(tx.metrics.mmd(x, y, bandwidth=width) ** 2, expected, rtol=1e-3)
    assert tx.attention.num_clusters(x, radius=jnp.array(0.5, jnp.float32)) == 2


@pytest.mark.slow
def test_padding_without_weight_does_not_change_slopes():
    x, y = (jr.normal(key, (12, 10), jnp.float32) for key in jr.split(jr.key(2)))
    weights = jnp.where(jnp.arange(16) < 12, 1 / 12, 0).astype(jnp.float32)

    def slopes(at):
        padded = (jnp.concatenate([z, jnp.full((4, 10), at, jnp.float32)]) for z in (x, y))
        x_padded, y_padded = padded
        energy = tx.gradient_flows.energy_distance_squared(y_padded, weights)
        return jax.grad(energy.value)(x_padded, weights)[:12]

    for at in (1e4, 1e8):
        assert jnp.allclose(slopes(at), slopes(0.0), atol=1e-6)
