"""Metrics: against POT, scipy, pairs by brute force, and simulated sampling floors."""

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import ot as pot
import pytest
import scipy.stats
from scipy.spatial.distance import cdist

import transportx as tx
from tests import tables
from tests.helpers import check_derivatives

X, Y = jr.normal(jr.key(90), (40, 3)), 1.5 * jr.normal(jr.key(91), (40, 3)) + 1
ENDS = tables._ends(3)
OPTIMAL_MAP = tx.gaussians.transport_map(*ENDS)

CLOUD_METRICS = {
    "wasserstein2": tx.metrics.wasserstein2,
    "energy_distance": tx.metrics.energy_distance,
    "mmd": lambda x, y: tx.metrics.mmd(x, y, bandwidth=1.3),
}
every_metric = pytest.mark.parametrize("metric", CLOUD_METRICS.values(), ids=CLOUD_METRICS.keys())


def energy_by_pairs(x, y):
    x, y = np.asarray(x), np.asarray(y)
    return np.sqrt(2 * cdist(x, y).mean() - cdist(x, x).mean() - cdist(y, y).mean())


def mmd_by_pairs(x, y, bandwidth):
    def kernel(p, q):
        return np.exp(-cdist(p, q, "sqeuclidean") / (2 * bandwidth**2)).mean()

    x, y = np.asarray(x), np.asarray(y)
    return np.sqrt(kernel(x, x) + kernel(y, y) - 2 * kernel(x, y))


def optimal_field(t, y, args):
    """Benamou and Brenier: constant speed T(x) - x along y = (1 - t) x + t T(x)."""
    blend = (1 - t) * jnp.eye(3) + t * OPTIMAL_MAP.matrix
    centre = (1 - t) * OPTIMAL_MAP.centre + t * OPTIMAL_MAP.offset
    x = OPTIMAL_MAP.centre + jnp.linalg.solve(blend, y - centre)
    return OPTIMAL_MAP(x) - x


def sigma_points(mean, covariance):
    """2 d points whose mean and covariance are exact, and so every quadratic average."""
    root = np.sqrt(3) * np.linalg.cholesky(np.asarray(covariance)).T
    return mean[None, :] + jnp.asarray(np.concatenate([root, -root]))


STARTS = sigma_points(ENDS[0], ENDS[1])


def test_wasserstein2_is_the_exact_transport_distance():
    weights = np.full(40, 1 / 40)
    exact = pot.emd2(weights, weights, pot.dist(np.asarray(X), np.asarray(Y)))
    assert np.isclose(float(tx.metrics.wasserstein2(X, Y)) ** 2, exact, rtol=1e-12)


def test_wasserstein2_between_other_sizes_and_weights_is_that_of_pot():
    y, a = Y[:25], jr.uniform(jr.key(95), (40,)).at[3].set(0)
    weights = np.asarray(a / a.sum()), np.full(25, 1 / 25)
    exact = pot.emd2(*weights, pot.dist(np.asarray(X), np.asarray(y)))
    # Where nothing is, no point has a say.
    far = X.at[3].set(1e9)
    found = [tx.metrics.wasserstein2(x, y, mass * a) for x in (X, far) for mass in (1.0, 7.0)]
    np.testing.assert_allclose(np.square(found), exact, rtol=1e-12)
    shares = a / jnp.sum(a)
    np.testing.assert_allclose(
        tx.metrics.wasserstein2(X, X, a, shares), 0, atol=1e-7, err_msg="equal measures"
    )
    assert jnp.isnan(tx.metrics.wasserstein2(X, y, a.at[0].set(-1)))
    check_derivatives(tx.metrics.wasserstein2, X[:9], y[:6], a[4:13], step=1e-6)


def test_energy_distance_has_scipys_convention_on_the_line():
    x, y = X[:, :1], Y[:25, :1]
    expected = scipy.stats.energy_distance(np.asarray(x[:, 0]), np.asarray(y[:, 0]))
    assert np.isclose(float(tx.metrics.energy_distance(x, y)), expected, rtol=1e-11)


def test_energy_distance_averages_over_all_pairs():
    distance = tx.metrics.energy_distance(X, Y[:25])
    assert np.isclose(float(distance), energy_by_pairs(X, Y[:25]), rtol=1e-11)


@pytest.mark.parametrize("bandwidth", [0.3, 2.0])
def test_mmd_averages_the_kernel_over_all_pairs(bandwidth):
    distance = tx.metrics.mmd(X, Y[:25], bandwidth=bandwidth)
    assert np.isclose(float(distance), mmd_by_pairs(X, Y[:25], bandwidth), rtol=1e-11)


def test_large_clouds_are_streamed_to_the_same_number():
    # 2300^2 entries are more than one tile of 2^22.
    x, y = jr.normal(jr.key(92), (2300, 2)), jr.normal(jr.key(93), (2300, 2)) + 0.2
    assert np.isclose(float(tx.metrics.energy_distance(x, y)), energy_by_pairs(x, y), rtol=1e-9)
    distance = tx.metrics.mmd(x, y, bandwidth=0.8)
    assert np.isclose(float(distance), mmd_by_pairs(x, y, 0.8), rtol=1e-9)


def floor_samples(metric):
    """Squared distances between 2000 pairs of fresh samples of one Gaussian of the plane."""

    def one(key):
        first, second = jr.split(key)
        return metric(jr.normal(first, (20, 2)), jr.normal(second, (30, 2))) ** 2

    return np.asarray(jax.jit(jax.vmap(one))(jr.split(jr.key(94), 2000)))


def assert_mean(samples, expected):
    """Within four standard errors of the mean."""
    assert abs(np.mean(samples) - expected) < 4 * np.std(samples, ddof=1) / np.sqrt(len(samples))


def test_sampling_floor_of_the_energy_distance_is_as_documented():
    # |X - X'| is sqrt(2) times a Rayleigh variable, of mean sqrt(pi / 2).
    assert_mean(floor_samples(tx.metrics.energy_distance), (1 / 20 + 1 / 30) * np.sqrt(np.pi))


def test_sampling_floor_of_the_mmd_is_as_documented():
    # X - X' is N(0, 2 I): E exp(-|X - X'|^2 / 2 h^2) = 1 / (1 + 2 / h^2) in the plane.
    expected = (1 / 20 + 1 / 30) * (1 - 1 / (1 + 2 / 1.3**2))
    assert_mean(floor_samples(CLOUD_METRICS["mmd"]), expected)


def test_sampling_floor_of_wasserstein2_falls_like_one_over_the_dimension():
    def floor(n):
        clouds = jr.normal(jr.key(95), (20, 2, n, 8))
        return jnp.mean(jax.jit(jax.vmap(lambda pair: tx.metrics.wasserstein2(*pair)))(clouds))

    # n^(-1/8): the exponent, measured over a factor of eight, still drifts a little.
    assert np.isclose(np.log(floor(64) / floor(512)) / np.log(8), 1 / 8, atol=0.03)


@every_metric
def test_equal_clouds_are_at_distance_zero_with_derivative_zero(metric):
    assert metric(X, X) < 1e-7
    for argument in (0, 1):
        assert jnp.all(jnp.isfinite(jax.grad(metric, argnums=argument)(X, X)))


@every_metric
def test_one_nan_makes_the_distance_nan(metric):
    broken = X.at[3, 1].set(jnp.nan)
    assert jnp.isnan(metric(broken, Y))
    assert jnp.isnan(metric(Y, broken))
    assert jnp.isnan(metric(X.at[0, 0].set(jnp.inf), Y))


@every_metric
def test_metrics_differentiate_in_both_clouds(metric):
    check_derivatives(metric, X, Y)


def test_mmd_differentiates_in_its_bandwidth():
    check_derivatives(lambda h: tx.metrics.mmd(X, Y, bandwidth=h), jnp.array(1.3))


@every_metric
def test_metrics_run_under_jit_and_vmap(metric):
    mapped = jax.jit(jax.vmap(metric))(jnp.stack([X, Y]), jnp.stack([Y, X[::-1]]))
    assert jnp.allclose(mapped, jnp.stack([metric(X, Y), metric(Y, X)]), rtol=1e-12)


@every_metric
def test_float32_far_from_the_origin_agrees_with_float64(metric):
    # Positions near 100 round by 4e-6 in float32.
    x, y = ((cloud + 100).astype(jnp.float32) for cloud in (X, Y))
    distance = metric(x, y)
    assert distance.dtype == jnp.float32
    assert np.isclose(float(distance), float(metric(X, Y)), rtol=1e-4)


def test_optimal_flow_has_the_least_energy():
    energy = tx.metrics.path_energy(optimal_field, STARTS, steps=10)
    m0, S0, m1, S1 = (np.asarray(x) for x in ENDS)
    distance = np.asarray(pot.gaussian.bures_wasserstein_distance(m0, m1, S0, S1))
    assert np.isclose(float(energy), distance**2, rtol=1e-10)


def test_optimal_flow_is_straight():
    assert abs(tx.metrics.straightness(optimal_field, STARTS, steps=10)) < 1e-12


def test_flow_of_matched_gaussians_costs_more_and_bends():
    field = tx.fields.GaussianField(*ENDS)
    options = {"steps": tx.evolution.FixedSteps(30, diffrax.Tsit5())}
    least = tx.gaussians.wasserstein2_squared(*ENDS)
    assert tx.metrics.path_energy(field, STARTS, **options) > least + 1e-3
    assert tx.metrics.straightness(field, STARTS, **options) > 1e-3


def turn(t, x, args):
    """Quarter turns: speed pi / 2 times the radius."""
    return jnp.pi / 2 * jnp.array([[0.0, -1.0], [1.0, 0.0]]) @ x


def test_energy_and_straightness_of_a_quarter_turn():
    x0 = X[:, :2]
    radius_squared = float(jnp.mean(jnp.sum(x0**2, axis=1)))
    options = {"steps": tx.evolution.FixedSteps(40, diffrax.Tsit5())}
    energy = tx.metrics.path_energy(turn, x0, **options)
    assert np.isclose(float(energy), np.pi**2 / 4 * radius_squared, rtol=1e-8)
    # A quarter turn moves by sqrt(2) radii.
    bend = tx.metrics.straightness(turn, x0, **options)
    assert np.isclose(float(bend), (np.pi**2 / 4 - 2) * radius_squared, rtol=1e-7)


def test_path_metrics_take_images_and_conditions():
    images, speeds = jr.normal(jr.key(96), (4, 2, 3, 1)), jnp.arange(4.0)

    def drift(t, x, speed):
        return jnp.full_like(x, speed)

    # Six pixels at speeds 0, 1, 2, 3.
    energy = tx.metrics.path_energy(drift, images, speeds, steps=4)
    assert np.isclose(float(energy), 6 * 14 / 4, rtol=1e-13)
    assert abs(tx.metrics.straightness(drift, images, speeds, steps=4)) < 1e-12


def test_normalized_path_energy_is_the_relative_excess():
    # An optimal map matches its own images, so the clouds' W2 is the flow's.
    ends = jax.vmap(OPTIMAL_MAP)(STARTS)
    optimal = tx.metrics.normalized_path_energy(optimal_field, STARTS, ends, steps=10)
    assert optimal < 1e-10
    doubled = tx.metrics.normalized_path_energy(
        lambda t, x, args: jnp.sqrt(2.0) * (x - x) + 3.0, STARTS, STARTS + 1, steps=2
    )
    # Energy 9 a coordinate where 1 would do.
    assert np.isclose(float(doubled), 8.0, rtol=1e-12)


def test_path_metrics_differentiate_in_field_and_start():
    field = tables.in_float64(tx.fields.MLP(3, 6, 1, key=jr.key(97)))

    def bend(field, x0):
        return tx.metrics.straightness(field, x0, steps=5)

    # A small step: few of selu's kinks are crossed.
    check_derivatives(bend, field, X, step=1e-5, forward=False)


def metric_of(name, *arrays, **options):
    return lambda: getattr(tx.metrics, name)(*arrays, **options)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (metric_of("wasserstein2", X, Y, jnp.ones(3)), r"`a` has shape \(3,\); give shape \(n,\)"),
        (metric_of("wasserstein2", X, Y[:, :2]), r"`y` has shape .*; give shape \(m, d\)"),
        (metric_of("wasserstein2", X[:0], Y[:0]), r"`x` has shape \(0, 3\); give at least one"),
        (metric_of("energy_distance", X[0], Y), r"`x` has shape .*; give shape \(n, d\)"),
        (metric_of("energy_distance", X, Y.astype(int)), "`y` has dtype int64; convert it"),
        (metric_of("mmd", X, Y, bandwidth=0.0), "`bandwidth` is 0.0; give a positive number"),
        (metric_of("path_energy", turn, X[:0, :2]), r"`x0` has shape \(0, 2\); give at least one"),
        (
            metric_of("path_energy", turn, X[:, :2], steps=0),
            "`steps` is 0; give an integer",
        ),
        (
            metric_of("straightness", lambda t, x, args: x[:1], X),
            r"`field` returns shape \(1,\) at a point of shape \(3,\); return dx/dt",
        ),
        (
            metric_of("normalized_path_energy", turn, X[:, :2], Y[:39, :2]),
            r"`x1` has shape .*; give shape \(n, d\)",
        ),
    ],
)
def test_bad_input_is_named_with_a_cure(call, message):
    with pytest.raises(ValueError, match=message):
        call()


OUTLIER = np.full((1, 3), 1e6, np.float32)
X32, Y32 = X.astype(jnp.float32)[:20], Y.astype(jnp.float32)[:20]
HARD_CLOUDS = {
    "outlier_of_both": (np.concatenate([X32, OUTLIER]), np.concatenate([Y32, OUTLIER])),
    "outliers_nearby": (np.concatenate([X32, OUTLIER]), np.concatenate([Y32, OUTLIER + 1])),
    "offset": (X32 + 1e4, Y32 + 1e4),
    "duplicates": (np.repeat(X32[:7], 3, 0), np.repeat(Y32[:7], 3, 0)),
}


def wasserstein2_by_pot(x, y):
    costs = cdist(np.asarray(x, float), np.asarray(y, float), "sqeuclidean")
    return np.sqrt(pot.emd2([], [], costs))


def test_metrics_of_hard_clouds_in_single_are_those_in_double():
    distances = jax.jit(lambda x, y: [metric(x, y) for metric in CLOUD_METRICS.values()])
    for name, clouds in HARD_CLOUDS.items():
        found = distances(*map(jnp.asarray, clouds))
        x, y = (np.asarray(cloud, float) for cloud in clouds)
        exact = wasserstein2_by_pot(x, y), energy_by_pairs(x, y), mmd_by_pairs(x, y, 1.3)
        # The energy distance of what an outlier of 1e6 leaves: 1e6 eps of 1, over 2 D.
        np.testing.assert_allclose(found, exact, rtol=2e-3, err_msg=name)


@pytest.mark.parametrize("size", [1e19, 1e-25])
def test_distances_are_in_proportion_where_squares_overflow_or_vanish(size):
    x, y = (jnp.asarray(size * np.asarray(cloud), jnp.float32) for cloud in (X32, Y32))
    # One program for all sizes; sizes are rounded once.
    exact = wasserstein2_by_pot(X32, Y32), energy_by_pairs(X32, Y32)
    found = tx.metrics.wasserstein2(x, y) / size, tx.metrics.energy_distance(x, y) / size**0.5
    np.testing.assert_allclose(found, exact, rtol=1e-5)


@every_metric
def test_a_point_at_infinity_has_no_distance(metric):
    far = X.at[2, 1].set(jnp.inf)
    assert jnp.isnan(metric(far, Y))
    assert jnp.isnan(metric(far, far))


def test_a_bandwidth_that_does_not_fit_is_refused_and_nan_where_traced():
    for bandwidth in (0.0, -1.0, np.inf):
        with pytest.raises(ValueError, match="`bandwidth`"):
            tx.metrics.mmd(X, Y, bandwidth=bandwidth)
        assert jnp.isnan(tx.metrics.mmd(X, Y, bandwidth=jnp.array(bandwidth)))


@every_metric
def test_halves_are_computed_in_single(metric):
    x, y = X.astype(jnp.bfloat16), Y.astype(jnp.bfloat16)
    found = metric(x, y)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        found, metric(x.astype(jnp.float32), y.astype(jnp.float32)), rtol=2.0**-8
    )
