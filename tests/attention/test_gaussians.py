"""Gaussian closures of attention: quadrature, closed solutions, blow-up, many particles."""

import re

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.special import lambertw

import transportx as tx
from transportx import attention as att
from transportx import ot

RNG = np.random.default_rng(3)
Q, K, V = (jnp.asarray(0.5 * RNG.normal(size=(2, 2, 2))) for _ in range(3))
I2 = jnp.eye(2)
MEAN = jnp.array([0.4, -0.3])
COVARIANCE = jnp.array([[0.5, 0.2], [0.2, 0.3]])
# Symmetric, indefinite, and not commuting with the covariance.
M = jnp.array([[0.9, -0.4], [-0.4, -0.5]])
PRECISE = tx.evolution.AdaptiveSteps(1e-11, 1e-12, diffrax.Dopri8())
CLOSED = {
    "softmax": att.Softmax(1.7),
    "l2": att.L2(1.3),
    "linear": att.LinearAttention(0.8),
    "sinkhorn": att.SinkhornAttention(0.9, solver=ot.Sinkhorn(tol=1e-11, max_steps=2000)),
}


# Called with arrays, so that each attention is compiled once.
@eqx.filter_jit
def blow_up(attention, mean, covariance, *, horizon, decay):
    """The depth alone; NaN would fail every comparison."""
    return att.blow_up_depth(attention, mean, covariance, horizon=horizon, decay=decay).depth


@eqx.filter_jit
def recorded(attention, mean, covariance, depth, decay):
    """Moments at depth 0 and at `depth`."""
    options = {"depth": depth, "decay": decay, "depths": jnp.stack([0 * depth, depth])}
    made = att.evolve_gaussian(attention, mean, covariance, steps=PRECISE, **options)
    return made.mean, made.covariance


def flow(*arguments):
    """Moments at `depth`."""
    means, covariances = recorded(*arguments)
    return means[1], covariances[1]


NONE = jnp.float64(0.0)


def test_the_test_matrices_do_not_commute():
    assert jnp.max(jnp.abs(M @ COVARIANCE - COVARIANCE @ M)) > 0.05


def nodes(count):
    """The Gaussian as weighted tokens, by Gauss-Hermite quadrature."""
    points, weights = np.polynomial.hermite_e.hermegauss(count)
    grid = np.stack(np.meshgrid(points, points), axis=-1).reshape(-1, 2)
    masses = np.outer(weights, weights).reshape(-1) / (2 * np.pi)
    root = np.linalg.cholesky(COVARIANCE)
    return jnp.asarray(np.asarray(MEAN)[None, :] + grid @ root.T), jnp.asarray(masses)


@pytest.mark.parametrize("name", CLOSED)
def test_field_of_a_gaussian_is_that_of_its_quadrature(name):
    attention = att.Attention(Q, K, V, CLOSED[name])
    x = jnp.asarray(np.random.default_rng(4).normal(size=(5, 2)))
    # L2's integrand is the least smooth: these many nodes leave it 1e-10.
    found = eqx.filter_jit(attention)(x, *nodes(12 if name == "sinkhorn" else 20))
    expected = jax.vmap(att.gaussian_field(attention, MEAN, COVARIANCE))(x)
    assert jnp.allclose(found, expected, atol=1e-8)


def test_moments_follow_the_equations_of_softmax_attention():
    """Two heads of general Q, K, V, against scipy on m' and S' as the papers write them."""
    tau, depth = 1.7, 0.3
    heads = [[np.asarray(m) for m in head] for head in zip(Q, K, V, strict=True)]

    def rates(t, state):
        m, S = state[:2], state[2:].reshape(2, 2)
        m_rate, S_rate = np.zeros(2), np.zeros((2, 2))
        for q, k, v in heads:
            m_rate += (v + v @ S @ k.T @ q / tau) @ m
            S_rate += (v @ S @ k.T @ q @ S + S @ q.T @ k @ S @ v.T) / tau
        return np.concatenate([m_rate, S_rate.reshape(-1)])

    start = np.concatenate([MEAN, COVARIANCE.reshape(-1)])
    expected = solve_ivp(rates, (0, depth), start, method="DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
    attention = att.Attention(Q, K, V, CLOSED["softmax"])
    means, covariances = recorded(attention, MEAN, COVARIANCE, jnp.float64(depth), NONE)
    assert jnp.array_equal(covariances[0], COVARIANCE)
    assert np.allclose(means[1], expected[:2], atol=1e-8)
    assert np.allclose(covariances[1].reshape(-1), expected[2:], atol=1e-8)


def identity_attention(mixing, matrix=I2):
    """V = I and K^T Q = `matrix`; a second head is silent, so that all share their programs."""
    matrix, one = jnp.stack([matrix, I2]), jnp.stack([I2, I2])
    return att.Attention(matrix, one, jnp.stack([I2, 0 * I2]), mixing)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_softmax_with_identity_values_has_the_closed_solution(share):
    """Also close to blow-up; (S^-1 - 2 t M)^-1 is written out here in numpy."""
    tau = 1.7
    attention = identity_attention(att.Softmax(tau), M)
    depth = share * att.softmax_blow_up(COVARIANCE, M, temperature=tau)
    found = flow(attention, MEAN, COVARIANCE, jnp.float64(depth), NONE)
    move = att.softmax_gaussian_map(depth, MEAN, COVARIANCE, M, temperature=tau)
    covariance = np.linalg.inv(np.linalg.inv(COVARIANCE) - 2 * depth * np.asarray(M) / tau)
    assert np.allclose(found[1], covariance, rtol=1e-8, atol=1e-8)
    assert np.allclose(move.matrix @ COVARIANCE @ move.matrix.T, covariance, rtol=1e-10)
    assert np.allclose(found[0], move(MEAN), rtol=1e-8, atol=1e-8)


def test_every_token_moves_by_the_closed_map():
    attention = identity_attention(att.Softmax(), M)
    x, t = jnp.array([1.2, 0.7]), jnp.float64(0.4)

    @jax.jit
    def moved(t):
        def place(t):
            return att.softmax_gaussian_map(t, MEAN, COVARIANCE, M)(x)

        move = att.softmax_gaussian_map(t, MEAN, COVARIANCE, M)
        moments = move(MEAN), move.matrix @ COVARIANCE @ move.matrix.T
        return *jax.jvp(place, (t,), (jnp.ones_like(t),)), att.gaussian_field(attention, *moments)

    now, velocity, field = moved(t)
    assert jnp.allclose(velocity, field(now), atol=1e-11)
    assert jnp.allclose(moved(0 * t)[0], x, atol=1e-13)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_blow_up_is_detected_and_timed(scale):
    covariance, attention = scale * COVARIANCE, identity_attention(att.Softmax())
    expected = 1 / (2 * np.linalg.eigvalsh(covariance)[-1])
    for factor in (1.01, 50.0):
        horizon = jnp.float64(factor * expected)
        found = blow_up(attention, 0 * MEAN, covariance, horizon=horizon, decay=NONE)
        assert np.isclose(found, expected, rtol=1e-6)
    horizon = jnp.float64(0.99 * expected)
    assert blow_up(attention, 0 * MEAN, covariance, horizon=horizon, decay=NONE) == jnp.inf
    assert np.isclose(att.softmax_blow_up(covariance), expected, rtol=1e-12)


def test_decay_delays_blow_up_and_stops_it_below_a_threshold():
    """s' = 2 s^2 - 2 c s is Bernoulli's: blow-up at -log(1 - c / s) / 2c, if s > c."""
    attention, c, s = identity_attention(att.Softmax()), jnp.float64(0.5), 0.8
    depth = blow_up(attention, MEAN, s * I2, horizon=jnp.float64(5.0), decay=c)
    assert np.isclose(depth, -np.log(1 - c / s) / (2 * c), atol=1e-6)
    assert blow_up(attention, MEAN, 0.4 * I2, horizon=jnp.float64(20.0), decay=c) == jnp.inf


def test_what_cannot_blow_up_does_not():
    repulsive = identity_attention(att.Softmax(), -I2)
    assert blow_up(repulsive, MEAN, I2, horizon=jnp.float64(50.0), decay=NONE) == jnp.inf
    assert att.softmax_blow_up(COVARIANCE, -I2) == jnp.inf


def test_beyond_blow_up_everything_is_nan():
    tau = 1.7
    depth = 1.05 * att.softmax_blow_up(COVARIANCE, M, temperature=tau)
    moments = flow(identity_attention(att.Softmax(tau), M), MEAN, COVARIANCE, depth, NONE)
    assert all(jnp.all(jnp.isnan(part)) for part in moments)
    move = att.softmax_gaussian_map(depth, MEAN, COVARIANCE, M, temperature=tau)
    assert jnp.all(jnp.isnan(move(MEAN)))


def test_an_asymmetric_matrix_has_no_closed_solution():
    move = att.softmax_gaussian_map(0.1, MEAN, COVARIANCE, Q[0])
    assert jnp.all(jnp.isnan(move.matrix))
    assert jnp.isnan(att.softmax_blow_up(COVARIANCE, Q[0]))


def test_mean_shift_and_l2_attention_follow_lamberts_function():
    """u = 2 s / tau, s an eigenvalue: u' = -2 u / (1 + u) with decay, else 2 u^2 / (1 + u)."""
    tau, depth = 1.3, 0.9
    attention = identity_attention(att.L2(tau))
    values, vectors = np.linalg.eigh(COVARIANCE)
    u = 2 * values / tau
    shifted = np.real(lambertw(u * np.exp(u - 2 * depth)))
    spread = 1 / np.real(lambertw(np.exp(1 / u - 2 * depth) / u))
    for decay, expected in ((1.0, shifted), (0.0, spread)):
        mean, covariance = flow(attention, MEAN, COVARIANCE, jnp.float64(depth), jnp.float64(decay))
        matrix = vectors @ np.diag(tau / 2 * expected) @ vectors.T
        assert np.allclose(covariance, matrix, atol=1e-8)
        # Every token is drawn towards the mean, which itself is drawn nowhere.
        assert np.allclose(mean, MEAN * np.exp((1 - decay) * depth), atol=1e-8)


def test_linear_attention_closes_for_any_tokens():
    """Not Gaussian, weighted, two heads: moments move as the closure says."""
    attention = att.Attention(Q, K, V, att.LinearAttention(0.8))
    tokens = jnp.asarray(np.random.default_rng(5).exponential(size=(9, 2)) * [1.0, 0.4])
    weights = jnp.linspace(0.1, 1.0, 9) / 4.95

    def moments(x):
        mean = weights @ x
        gaps = x - mean[None, :]
        return mean, gaps.T @ (weights[:, None] * gaps)

    velocity = attention(tokens, tokens, weights)
    start, rates = jax.jvp(moments, (tokens,), (velocity,))
    for one, other in zip(rates, att.gaussian_rates(attention, *start), strict=True):
        assert jnp.allclose(one, other, atol=1e-12)


def test_particles_converge_to_the_closure_at_the_rate_of_monte_carlo():
    attention = att.Attention(M, I2, I2, att.Softmax(1.7))
    root, depth = jnp.linalg.cholesky(COVARIANCE), 0.4
    limit = identity_attention(att.Softmax(1.7), M)
    mean, covariance = flow(limit, MEAN, COVARIANCE, jnp.float64(depth), NONE)
    sizes, repeats = (40, 120, 360), 40

    @jax.jit
    def error(noise, n):
        """With the first n of the tokens."""
        weights = jnp.where(jnp.arange(1.0 * sizes[-1]) < n, 1 / n, 0)
        tokens = MEAN[None, :] + noise @ root.T
        steps = tx.evolution.FixedSteps(3, diffrax.Heun())
        moved = att.evolve(attention, tokens, weights, depth=depth, steps=steps)
        gap = weights @ moved - mean
        centred = moved - (weights @ moved)[None, :]
        spread = centred.T @ (weights[:, None] * centred) - covariance
        return jnp.sum(gap**2) + jnp.sum(spread**2)

    noise = np.random.default_rng(6).normal(size=(repeats, sizes[-1], 2))
    errors = [np.sqrt(np.mean([error(z, jnp.float64(n)) for z in noise])) for n in sizes]
    slope, _ = np.polyfit(np.log(sizes), np.log(errors), 1)
    # 40 repeats of 5 moments leave a tenth of each error, over a factor of 9 in size.
    assert abs(slope + 0.5) < 0.1


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda a: att.gaussian_field(a, MEAN[:1], COVARIANCE), "mean"),
        (lambda a: att.gaussian_field(a, MEAN.astype(int), COVARIANCE), "mean"),
        (lambda a: att.gaussian_field(a, MEAN, COVARIANCE[:1]), "covariance"),
        (
            lambda a: att.gaussian_field(att.Attention(Q, K, V[:, :1]), MEAN, COVARIANCE),
            "attention",
        ),
        (
            lambda a: att.gaussian_field(
                att.Attention(Q, K, V, att.Unnormalised()), MEAN, COVARIANCE
            ),
            "attention.mixing",
        ),
        (lambda a: att.evolve_gaussian(a, MEAN, COVARIANCE, depth=-1.0), "depth"),
        (lambda a: att.blow_up_depth(a, MEAN, COVARIANCE, horizon=0.0), "horizon"),
        (lambda a: att.softmax_blow_up(COVARIANCE, jnp.eye(3)), "matrix"),
    ],
)
def test_bad_input_is_refused_by_name(call, argument):
    with pytest.raises(ValueError, match=re.escape(f"`{argument}`")):
        call(att.Attention(Q, K, V))
