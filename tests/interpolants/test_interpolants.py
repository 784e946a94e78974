"""Interpolants: pinned ends, velocities that integrate, and schedules against their definitions."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.integrate import quad

import transportx as tx
from tests import tables
from tests.helpers import check_derivatives

EPS = float(jnp.finfo(jnp.float64).eps)

every_path = pytest.mark.parametrize(
    "path", tables.INTERPOLANTS.values(), ids=tables.INTERPOLANTS.keys()
)


@pytest.fixture(scope="module")
def ends():
    return tuple(jr.normal(jr.key(0), (3, 5)))


def alpha_squared_rate(path, t):
    """alpha alpha', twice: exact fields need the product, whose factors may be infinite."""
    (alpha, _, _), (rate, _, _) = path.rates(jnp.asarray(t))
    return 2 * alpha * rate


def gamma_squared_rate(path, t):
    (_, _, gamma), (_, _, rate) = path.rates(jnp.asarray(t))
    return 2 * gamma * rate


@pytest.mark.parametrize("path", tables.PINNED_INTERPOLANTS.values(), ids=str)
def test_ends_are_pinned(path, ends):
    x0, x1, _ = ends
    # The noise level is raised by one rounding unit in quadrature, and cos(pi/2) rounds.
    assert jnp.allclose(path.position(jnp.array(0.0), *ends), x0, atol=8 * EPS, rtol=0)
    assert jnp.allclose(path.position(jnp.array(1.0), *ends), x1, atol=8 * EPS, rtol=0)


@every_path
def test_velocity_integrates_to_displacement(path, ends):
    nodes, weights = np.polynomial.legendre.leggauss(40)
    # Encoding and decoding meet at one half, where a velocity may have a kink.
    for low, high in ((0.1, 0.5), (0.5, 0.9)):
        times = low + (high - low) / 2 * (jnp.asarray(nodes) + 1)
        _, velocities = jax.vmap(lambda t: path(t, *ends))(times)
        travelled = (high - low) / 2 * (weights @ velocities)
        start, end = (path.position(jnp.array(t), *ends) for t in (low, high))
        assert jnp.allclose(travelled, end - start, atol=1e-10)


@every_path
def test_rates_are_the_slopes_of_the_coefficients(path):
    times, step = jnp.linspace(0.1, 0.9, 8), 1e-5
    coefficients = jax.vmap(lambda t: jnp.stack(path.coefficients(t)))
    slopes = (coefficients(times + step) - coefficients(times - step)) / (2 * step)
    rates = jax.vmap(lambda t: jnp.stack(path.rates(t)[1]))(times)
    # Central differences err by step^2 f''' / 6 and by rounding / step, both near 1e-10 of f.
    assert jnp.allclose(rates, slopes, atol=1e-8, rtol=1e-8)


@every_path
def test_position_is_affine_in_the_points(path, ends):
    t = jnp.array(0.3)
    moved = path.position(t, *(2 * x + 1 for x in ends))
    origin = path.position(t, *(jnp.ones(5) for _ in ends))
    assert jnp.allclose(moved, 2 * path.position(t, *ends) + origin, atol=1e-14)


@every_path
def test_jit_and_vmap_change_nothing(path, ends):
    times = jnp.linspace(0.0, 1.0, 5)
    batched = jax.jit(jax.vmap(lambda t: path(t, *ends)))(times)
    for i, t in enumerate(times):
        alone = path(t, *ends)
        assert jnp.allclose(batched[0][i], alone[0], atol=1e-14)
        # Rates at noisy ends are about 1 / eps: relative rounding.
        assert jnp.allclose(batched[1][i], alone[1], atol=1e-13, rtol=1e-12)


@every_path
def test_velocity_differentiates_in_time_points_and_parameters(path, ends):
    values = jax.tree.map(jnp.asarray, path)
    check_derivatives(lambda path, *inputs: path(*inputs), values, jnp.array(0.4), *ends)


@every_path
def test_float32_gives_the_float64_answer(path, ends):
    for t in (0.0, 0.3, 1.0):
        single = path.position(jnp.float32(t), *(x.astype(jnp.float32) for x in ends))
        assert single.dtype == jnp.float32
        double = path.position(jnp.array(t), *ends)
        # At the ends the noise level is one float32 rounding unit.
        assert jnp.allclose(single.astype(jnp.float64), double, atol=2e-6)
    position, velocity = path(jnp.float32(0.3), *(x.astype(jnp.float32) for x in ends))
    assert position.dtype == velocity.dtype == jnp.float32
    reference = path(jnp.array(0.3), *ends)[1]
    assert jnp.allclose(velocity.astype(jnp.float64), reference, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["trigonometric", "variance_preserving"])
def test_unit_variance_is_kept(name):
    path = tables.INTERPOLANTS[name]
    alpha, beta, _ = jax.vmap(path.coefficients)(jnp.linspace(0, 1, 101))
    assert jnp.allclose(alpha**2 + beta**2, 1, atol=4 * EPS, rtol=0)


def test_variance_preserving_is_the_shifted_linear_diffusion():
    path = tx.interpolants.VariancePreserving(0.2, 12.0)

    def survival(s):
        """What the diffusion dX = -b X / 2 ds + sqrt(b) dW leaves of the data at time s."""
        return np.exp(-quad(lambda u: 0.2 + (12.0 - 0.2) * u, 0, s)[0] / 2)

    for t in (0.0, 0.2, 0.5, 0.9, 1.0):
        shifted = (survival(1 - t) - survival(1)) / (1 - survival(1))
        beta = path.coefficients(jnp.array(t))[1]
        assert np.isclose(float(beta), shifted, atol=1e-14)


def test_brownian_bridge_has_the_law_of_conditioned_brownian_motion():
    sigma, t = 0.7, 0.3
    x0, x1 = jnp.array([0.4]), jnp.array([-1.3])
    # Cov of (W_t, W_1); condition on W_1 by the Schur complement.
    joint = sigma**2 * np.array([[t, t], [t, 1.0]])
    gain = joint[0, 1] / joint[1, 1]
    z = jr.normal(jr.key(1), (100_000, 1))
    path = tx.interpolants.BrownianBridge(sigma)
    points = jax.vmap(path.position, in_axes=(None, None, None, 0))(jnp.array(t), x0, x1, z)
    variance = joint[0, 0] - gain * joint[0, 1]
    mean = float(x0[0] + gain * (x1 - x0)[0])
    # Four standard errors of a mean and of a variance of 100,000 normals.
    assert abs(float(jnp.mean(points)) - mean) < 4 * np.sqrt(variance / 1e5)
    assert abs(float(jnp.var(points)) / variance - 1) < 4 * np.sqrt(2 / 1e5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_squared_noise_of_the_bridge_has_the_right_rate_up_to_the_ends(dtype):
    path = tx.interpolants.BrownianBridge(0.7)
    for t in (0.0, 1e-9, 0.25, 1.0):
        rate = gamma_squared_rate(path, jnp.asarray(t, dtype))
        assert rate.dtype == dtype
        assert np.isclose(float(rate), 0.49 * (1 - 2 * t), rtol=8 * float(jnp.finfo(dtype).eps))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_squared_noise_of_the_diffusion_has_the_right_rate_at_the_data(dtype):
    path = tx.interpolants.VariancePreserving(0.1, 20.0)
    at_data = alpha_squared_rate(path, jnp.asarray(1.0, dtype))
    # alpha^2 = 1 - beta^2 and beta(1) = 1, so its rate is -2 beta'(1); beta is smooth there.
    beta = jax.grad(lambda t: path.coefficients(t)[1])(jnp.array(1.0))
    assert np.isclose(float(at_data), -2 * float(beta), rtol=8 * float(jnp.finfo(dtype).eps))
    step = 1e-6
    slope = (1 - float(path.coefficients(jnp.array(1 - step))[1])) / step
    assert np.isclose(float(at_data), -2 * slope, rtol=1e-4)


@every_path
def test_rates_are_finite_up_to_the_ends(path):
    for dtype in (jnp.float32, jnp.float64):
        for t in (0.0, 1.0):
            assert all(jnp.isfinite(rate) for rate in path.rates(jnp.asarray(t, dtype))[1])


def test_every_parameter_of_a_path_has_a_derivative(ends):
    def energy(path):
        position, velocity = path(jnp.array(0.4), *ends)
        return jnp.sum(position**2) + jnp.sum(velocity**2)

    for path in (tx.interpolants.BrownianBridge(0.7), tx.interpolants.VariancePreserving(0.2, 9.0)):
        gradients = jax.tree.leaves(jax.grad(energy)(jax.tree.map(jnp.asarray, path)))
        assert len(gradients) == len(jax.tree.leaves(path))
        assert all(gradient != 0 for gradient in gradients)


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: tx.interpolants.BrownianBridge(-1.0), "sigma"),
        (lambda: tx.interpolants.BrownianBridge(float("nan")), "sigma"),
        (lambda: tx.interpolants.VariancePreserving(rate_min=0.0), "rate_min"),
        (lambda: tx.interpolants.VariancePreserving(rate_max=-2.0), "rate_max"),
    ],
)
def test_bad_parameters_are_named_with_a_cure(make, argument):
    with pytest.raises(ValueError, match=rf"`{argument}` is .*; give a (positive )?number"):
        make()
