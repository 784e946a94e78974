"""The flow-matching loss: its minimum, its excess, its randomness and its derivatives."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.stats

import transportx as tx
from tests import tables
from tests.helpers import check_derivatives

DIM, BATCH = 3, 20_000
ENDS = tables._ends(DIM)
M0, S0, M1, S1 = (np.asarray(x) for x in ENDS)
EXACT = tx.fields.GaussianField(*ENDS)
TILT = jr.normal(jr.key(50), (DIM, DIM))
LINEAR = tx.interpolants.Linear()

every_path = pytest.mark.parametrize(
    "path", tables.INTERPOLANTS.values(), ids=tables.INTERPOLANTS.keys()
)


def tilted(t, x, args):
    """The exact field and a known error."""
    return EXACT(t, x) + TILT @ x


def gaussian_pairs(key):
    first, second = jr.split(key)
    x0 = jr.multivariate_normal(first, ENDS[0], ENDS[1], (BATCH,))
    return x0, jr.multivariate_normal(second, ENDS[2], ENDS[3], (BATCH,))


def integrate_over_time(integrand):
    nodes, weights = np.polynomial.legendre.leggauss(40)
    return sum(w / 2 * integrand((n + 1) / 2) for n, w in zip(nodes, weights, strict=True))


@pytest.fixture(scope="module")
def repeated_losses():
    """Losses of the exact and of the tilted field on 30 batches, with common randomness."""

    def one(key):
        batch_key, loss_key = jr.split(key)
        x0, x1 = gaussian_pairs(batch_key)
        return [
            tx.losses.flow_matching(field, LINEAR, x0, x1, key=loss_key)
            for field in (EXACT, tilted)
        ]

    return [np.asarray(x) for x in jax.jit(lambda k: jax.lax.map(one, k))(jr.split(jr.key(51), 30))]


def assert_mean(samples, expected):
    """Within four standard errors of the mean."""
    assert abs(np.mean(samples) - expected) < 4 * np.std(samples, ddof=1) / np.sqrt(len(samples))


def test_exact_field_attains_the_least_loss(repeated_losses):
    """The mean variance of x1 - x0 given x_t, by the Schur complement of their covariance."""

    def conditional_variance(t):
        covariance = (1 - t) ** 2 * S0 + t**2 * S1
        shared = t * S1 - (1 - t) * S0
        return np.trace(S0 + S1 - shared @ np.linalg.solve(covariance, shared.T)) / DIM

    assert_mean(repeated_losses[0], integrate_over_time(conditional_variance))


def test_excess_loss_is_the_squared_distance_to_the_exact_field(repeated_losses):
    tilt = np.asarray(TILT)

    def squared_error(t):
        covariance, mean = (1 - t) ** 2 * S0 + t**2 * S1, (1 - t) * M0 + t * M1
        return (np.trace(tilt @ covariance @ tilt.T) + np.sum((tilt @ mean) ** 2)) / DIM

    assert_mean(repeated_losses[1] - repeated_losses[0], integrate_over_time(squared_error))


def test_loss_is_zero_where_the_velocity_is_known():
    """One target and args that hold the source: nothing is left to average over."""
    x0 = jr.normal(jr.key(52), (16, DIM))
    x1 = jnp.ones((16, DIM))

    def known(t, x, source):
        return 1 - source

    assert tx.losses.flow_matching(known, LINEAR, x0, x1, x0, key=jr.key(0)) < 1e-28
    shuffled = tx.losses.flow_matching(known, LINEAR, x0, x1, x0[::-1], key=jr.key(0))
    assert shuffled > 0.1


def test_args_may_be_any_pytree_and_images_any_shape():
    x0, x1 = jr.normal(jr.key(53), (2, 8, 4, 6, 2))
    args = {"label": jnp.arange(8), "ends": (x0, x1)}

    def known(t, x, args):
        return args["ends"][1] - args["ends"][0] + args["label"].astype(x.dtype)

    # Mean of squares of 0 .. 7.
    loss = tx.losses.flow_matching(known, LINEAR, x0, x1, args, key=jr.key(0))
    assert jnp.isclose(loss, 17.5, rtol=1e-13)


def test_times_follow_the_given_law():
    path, num = tx.interpolants.Trigonometric(), 64
    x0, x1 = jr.normal(jr.key(54), (2, num, DIM))

    def late(num, dtype, *, key):
        return jnp.full((num,), 0.75, dtype)

    loss = tx.losses.flow_matching(
        lambda t, x, args: jnp.zeros_like(x), path, x0, x1, key=jr.key(0), times=late
    )
    # Quarter circles at three quarters of the way.
    sine, cosine = np.sin(0.375 * np.pi), np.cos(0.375 * np.pi)
    velocities = np.pi / 2 * (cosine * np.asarray(x1) - sine * np.asarray(x0))
    assert jnp.isclose(loss, np.mean(velocities**2), rtol=1e-13)


@every_path
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_loss_is_finite_in_the_dtype_of_the_points(path, dtype):
    x0, x1 = jr.normal(jr.key(55), (2, 4096, DIM), dtype)
    loss = tx.losses.flow_matching(lambda t, x, args: -x, path, x0, x1, key=jr.key(1))
    assert loss.dtype == dtype
    assert jnp.isfinite(loss)


def test_latent_noise_enters_noisy_paths_only():
    """At t = 1/2 the bridge's noise stands still at sigma / 2: only positions show it."""
    x0, x1 = jnp.zeros((2, 50_000, 1))

    def half(num, dtype, *, key):
        return jnp.full((num,), 0.5, dtype)

    for sigma in (0.0, 0.8):
        path = tx.interpolants.BrownianBridge(sigma) if sigma else LINEAR
        loss = tx.losses.flow_matching(
            lambda t, x, args: x, path, x0, x1, key=jr.key(2), times=half
        )
        # A mean of 50,000 squares has standard deviation sqrt(2 / 50,000) = 0.6 per cent.
        assert np.isclose(float(loss), sigma**2 / 4, rtol=0.025)


def test_randomness_comes_from_the_key_alone():
    x0, path = jnp.zeros((64, 1)), tx.interpolants.BrownianBridge(1.0)
    losses = [
        tx.losses.flow_matching(lambda t, x, args: t * x, path, x0, x0, key=jr.key(seed))
        for seed in (3, 3, 4)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_times_and_noise_are_independent_draws():
    """E[x^2 g(t)] must factor: a shared key would couple the noise to its time."""
    x0, path = jnp.zeros((100_000, 1)), tx.interpolants.BrownianBridge(1.0)

    def whitened(t, x, args):
        """Returns the velocity plus (t - 1/2) z, so that the loss is the mean of its square."""
        z = x / jnp.sqrt(t * (1 - t))
        velocity = (1 - 2 * t) / (2 * jnp.sqrt(t * (1 - t))) * z
        return velocity + (t - 0.5) * z

    loss = tx.losses.flow_matching(whitened, path, x0, x0, key=jr.key(5))
    # E (t - 1/2)^2 z^2 = 1/12; the summands have standard deviation 0.175.
    assert abs(float(loss) - 1 / 12) < 4 * 0.175 / np.sqrt(1e5)


@every_path
def test_loss_differentiates_in_field_path_points_and_args(path):
    field = tables.in_float64(tx.fields.MLP(2, 8, 1, condition_dim=1, key=jr.key(56)))
    x0, x1 = jr.normal(jr.key(57), (2, 8, 2))
    args = jr.normal(jr.key(58), (8, 1))

    def loss(field, path, x0, x1, args):
        # Away from the ends, where the noise of the bridge has large derivatives.
        def inner(num, dtype, *, key):
            return jr.uniform(key, (num,), dtype, 0.2, 0.8)

        return tx.losses.flow_matching(field, path, x0, x1, args, key=jr.key(0), times=inner)

    check_derivatives(loss, field, jax.tree.map(jnp.asarray, path), x0, x1, args, step=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_uniform_times_are_uniform_and_never_at_the_ends(dtype):
    times = tx.losses.uniform_times(2**22, dtype, key=jr.key(59))
    assert times.dtype == dtype
    # float32 has 2^23 uniform values: four million draws come near both ends.
    assert jnp.min(times) > 0
    assert jnp.max(times) < 1
    sample = np.asarray(times[:100_000], np.float64)
    assert scipy.stats.kstest(sample, "uniform").pvalue > 0.01


def test_labels_are_dropped_at_the_given_rate():
    labels = jr.randint(jr.key(60), (100_000,), 0, 10)
    dropped = tx.losses.drop_labels(labels, null_label=10, probability=0.3, key=jr.key(61))
    gone = dropped == 10
    assert jnp.array_equal(jnp.where(gone, labels, dropped), labels)
    assert dropped.dtype == labels.dtype
    # Four standard errors of a proportion.
    assert abs(float(jnp.mean(gone)) - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 1e5)
    for label in range(10):
        share = float(jnp.mean(gone[labels == label]))
        assert abs(share - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 9500)


@pytest.mark.parametrize(("probability", "expected"), [(0.0, [0, 1, 2]), (1.0, [7, 7, 7])])
def test_labels_stay_or_go_together_at_the_ends(probability, expected):
    labels = tx.losses.drop_labels(
        jnp.arange(3), null_label=7, probability=probability, key=jr.key(0)
    )
    assert labels.tolist() == expected


def loss_of(x0, x1, args=None, field=lambda t, x, args: x):
    return tx.losses.flow_matching(field, LINEAR, x0, x1, args, key=jr.key(0))


POINTS = jnp.ones((4, 2))


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: loss_of(POINTS[:0], POINTS[:0]),
            r"`x0` has shape .*; give at least one example, shape \(b, \.\.\.\)",
        ),
        (
            lambda: loss_of(jnp.ones(()), jnp.ones(())),
            r"`x0` has shape .*; give at least one example, shape \(b, \.\.\.\)",
        ),
        (lambda: loss_of(POINTS, POINTS.astype(int)), "`x1` has dtype int64; convert it"),
        (
            lambda: loss_of(POINTS[:3], POINTS),
            r"`x1` has shape .*; give shape \(b, \.\.\.\)",
        ),
        (
            lambda: loss_of(POINTS, POINTS, jnp.arange(3)),
            "`args` has 3 examples but `x1` has 4; give as many of each",
        ),
        (
            lambda: loss_of(POINTS, POINTS, jnp.array(1)),
            "`args` holds .*; give arrays with one row",
        ),
        (
            lambda: loss_of(POINTS, POINTS, field=lambda t, x, args: x[:1]),
            r"`field` returns shape \(1,\) at a point of shape \(2,\); return dx/dt",
        ),
        (
            lambda: tx.losses.drop_labels(
                jnp.arange(3), null_label=7, probability=2.0, key=jr.key(0)
            ),
            r"`probability` is 2.0; give a number in \[0, 1\]",
        ),
    ],
)
def test_bad_input_is_named_with_a_cure(call, message):
    with pytest.raises(ValueError, match=message):
        call()
