"""Padding, outliers, halves, infinite costs and extreme scales: digits and derivatives survive."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.sharding import AxisType
from scipy.spatial.distance import cdist

import transportx as tx
from transportx.geometry import internal
from transportx.geometry.internal import log_totals

REAL, PADDED = 16, 8
WEIGHTS = np.arange(REAL + PADDED) < REAL


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))


@pytest.fixture(scope="module")
def clouds():
    """Two clouds in so many coordinates that squares are expanded."""
    x, y = jr.normal(jr.key(0), (2, REAL, 12), jnp.float32)
    return x, y + 0.3


def padded(points, at):
    return jnp.concatenate([points, jnp.full((PADDED, points.shape[1]), at, points.dtype)])


def layouts(x, y, mesh):
    yield tx.geometry.PointCloud(x, y)
    yield tx.geometry.PointCloud(x, y, tile=5)
    yield tx.geometry.ShardedCloud(x, y, mesh=mesh, axes=("data", "data"))
    yield tx.geometry.ShardedCloud(x, y, mesh=mesh, axes=("data", "data"), tile=2)


def truth(x, y):
    return cdist(np.asarray(x, np.float64), np.asarray(y, np.float64), "sqeuclidean")


@pytest.mark.parametrize("at", [1e4, 1e8, 1e18, jnp.inf])
def test_padding_without_weight_costs_no_digit(at, clouds, mesh):
    x, y = clouds
    weights = jnp.asarray(WEIGHTS, jnp.float32)
    for geometry in layouts(padded(x, at), padded(y, at), mesh):
        costs = geometry.weighed(weights, weights).matrix()[:REAL, :REAL]
        assert np.allclose(costs, truth(x, y), rtol=1e-5, atol=1e-5)
        if jnp.isfinite(at):
            costs = geometry.mean_cost(weights, weights)
            assert np.allclose(costs, truth(x, y).mean(), rtol=1e-6)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_padding_at_the_origin_costs_no_digit_of_clouds_far_from_it(offset, clouds):
    x, y = (points + jnp.float32(offset) for points in clouds)
    weights = jnp.asarray(WEIGHTS, jnp.float32)
    geometry = tx.geometry.PointCloud(padded(x, 0.0), padded(y, 0.0)).weighed(weights, weights)
    assert np.allclose(geometry.matrix()[:REAL, :REAL], truth(x, y), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("weighed", [False, True])
def test_an_outlier_costs_the_others_no_digit(weighed, clouds):
    x, y = (points.at[3].set(1e6) for points in clouds)
    geometry = tx.geometry.PointCloud(x, y)
    if weighed:
        geometry = geometry.weighed(None, jnp.ones(REAL, jnp.float32))
    others = np.arange(REAL) != 3
    costs = np.asarray(geometry.matrix())[np.ix_(others, others)]
    assert np.allclose(costs, truth(x[others], y[others]), rtol=1e-5, atol=1e-4)


def test_a_solve_ignores_padding_without_weight(clouds):
    x, y = clouds
    solve = jax.jit(
        lambda x, y, w: jax.value_and_grad(
            lambda w: tx.ot.solve(tx.geometry.PointCloud(x, y), w, w, epsilon=5.0).value
        )(w)
    )
    weights = jnp.asarray(WEIGHTS / REAL, jnp.float32)
    value, slope = solve(padded(x, 0.0), padded(y, 0.0), weights)
    for at in (1e4, 1e8):
        far, far_slope = solve(padded(x, at), padded(y, at), weights)
        assert np.isclose(far, value, rtol=1e-5)
        assert np.allclose(far_slope[:REAL], slope[:REAL], rtol=1e-3, atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_halves_are_summed_in_float32_and_returned_as_they_came(dtype):
    x, y = (8 * jr.normal(jr.key(0), (2, 300, 64))).astype(dtype)
    exact = truth(x.astype(jnp.float32), y.astype(jnp.float32))
    for geometry in (tx.geometry.PointCloud(x, y), tx.geometry.PointCloud(x, y, tile=100)):
        mean, matrix = geometry.mean_cost(), geometry.matrix()
        assert mean.dtype == matrix.dtype == dtype
        assert np.isclose(float(mean), exact.mean(), rtol=jnp.finfo(dtype).eps)
        assert np.allclose(matrix.astype(jnp.float32), exact, rtol=jnp.finfo(dtype).eps)
    single = tx.geometry.PointCloud(x.astype(jnp.float32), y.astype(jnp.float32))
    plan, exact_plan = (tx.ot.solve(g, epsilon=500.0) for g in (geometry, single))
    assert plan.f.dtype == jnp.float32
    assert jnp.allclose(plan.value, exact_plan.value, rtol=1e-5)


def test_dtypes_that_differ_are_promoted():
    x, y = jr.normal(jr.key(0), (2, 5, 3))
    single = x.astype(jnp.float32)
    for geometry in (tx.geometry.PointCloud(single, y), tx.geometry.PointCloud(y, single).T):
        assert geometry.matrix().dtype == jnp.float64
        assert np.allclose(geometry.matrix(), truth(single, y), rtol=1e-12)
    assert tx.geometry.Cosine()(single[0], y[0]).dtype == jnp.float64


@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e15, 1e30])
@pytest.mark.parametrize("dim", [2, 12])
def test_distances_and_angles_have_no_scale(scale, dim):
    x, y = jr.normal(jr.key(1), (2, 3, dim), jnp.float32)
    for cost, expected, factor in (
        (tx.geometry.Euclidean(), cdist(x, y, "euclidean"), scale),
        (tx.geometry.Cosine(), cdist(x, y, "cosine"), 1.0),
    ):

        def summed(x, y, cost=cost):
            return jnp.sum(cost.matrix(x, y))

        slope = jax.jit(jax.grad(summed))
        small = slope(x, y)
        assert np.allclose(cost.matrix(scale * x, scale * y) / factor, expected, 1e-5)
        assert np.allclose(slope(scale * x, scale * y) * (scale / factor), small, 1e-4, 1e-5)


@pytest.mark.parametrize(
    "cost",
    [tx.geometry.Euclidean(), tx.geometry.Geodesic(), tx.geometry.Cosine(), tx.geometry.PNorm(3.0)],
)
def test_derivatives_are_finite_at_zero_vectors_and_at_opposite_points(cost):
    x = jnp.array([[1.0, 0.0], [0.0, 0.0]])
    slopes = jax.grad(lambda x, y: jnp.sum(cost.matrix(x, y)), (0, 1))(x, jnp.array([[-1.0, 0.0]]))
    assert all(map(lambda slope: bool(jnp.all(jnp.isfinite(slope))), slopes))


def test_large_exponents_are_powers_and_beyond_the_range_forbid():
    x, y = jnp.array([[0.0], [1.0], [3.0]], jnp.float32), jnp.array([[2.0], [40.0]], jnp.float32)
    costs, slopes = jax.value_and_grad(
        lambda x: jnp.sum(tx.geometry.PNorm(25.0).matrix(x, y)[:, 0])
    )(x)
    assert jnp.allclose(costs, 2.0**25 + 2, rtol=1e-5)
    assert jnp.allclose(slopes[:, 0], jnp.array([-25 * 2.0**24, -25, 25], jnp.float32), rtol=1e-5)
    assert jnp.all(tx.geometry.PNorm(25.0).matrix(x, y)[:, 1] == jnp.inf)
    assert jnp.all(jnp.isnan(tx.geometry.PNorm(jnp.array(jnp.inf)).matrix(x, y)))
    with pytest.raises(ValueError, match="finite exponent"):
        tx.geometry.PNorm(jnp.inf)


MARKS = [jnp.inf, 1e12, 3e38]


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("log", [False, True])
def test_forbidden_pairs_give_zero_and_finite_derivatives(mark, log):
    """Kernels, and totals of their logarithms, beside those of costs that merely are large."""
    costs = jnp.array([[1.0, 9.0, 3.0], [2.0, 1.0, 9.0], [9.0, 2.0, 1.0]], jnp.float32)
    crossed = costs == 9
    weights = jnp.array([0.2, 0.5, 0.3], jnp.float32)

    def totals(costs, f, epsilon):
        geometry = tx.geometry.CostMatrix(costs)
        if log:
            return jnp.sum(log_totals(geometry, weights, f, epsilon))
        return jnp.sum(internal.gibbs_kernel(geometry, f, f, epsilon) @ weights)

    epsilon, f = jnp.array(0.05, jnp.float32), jnp.array([0.1, -0.2, 0.3], jnp.float32)
    run = jax.jit(jax.value_and_grad(totals, (0, 1, 2)))
    value, slopes = run(jnp.where(crossed, mark, costs), f, epsilon)
    # At this epsilon a cost of nine leaves e^-120 of a pair: nothing that float32 could see.
    expected, expected_slopes = run(costs, f, epsilon)
    assert jnp.allclose(value, expected, rtol=1e-6)
    for slope, other in zip(slopes, expected_slopes, strict=True):
        assert jnp.allclose(slope, other, rtol=1e-5, atol=1e-30)
    moves = jnp.ones_like(costs), jnp.ones_like(f), jnp.ones_like(epsilon)
    along = jax.jvp(totals, (jnp.where(crossed, mark, costs), f, epsilon), moves)[1]
    assert jnp.allclose(along, sum(jnp.sum(slope) for slope in expected_slopes), rtol=1e-5)


def test_mean_costs_are_over_pairs_that_may_carry_something():
    costs = jnp.array([[1.0, jnp.inf, 3.0], [jnp.inf, jnp.inf, jnp.inf]])
    geometry = tx.geometry.CostMatrix(costs)
    b = jnp.array([0.5, 0.2, 0.3])
    assert jnp.allclose(geometry.mean_cost(), 2.0)
    assert jnp.allclose(geometry.mean_cost(None, b), (0.5 * 1 + 0.3 * 3) / 0.8)
    large = tx.geometry.CostMatrix(jnp.full((300, 300), 3e37, jnp.float32))
    assert jnp.allclose(large.mean_cost(), 3e37)


@pytest.mark.slow
def test_points_at_infinity_spoil_no_derivative_of_the_others():
    x, y = jr.normal(jr.key(2), (2, 4, 12))
    for dim in (2, 12):
        for cost in (tx.geometry.SquaredEuclidean(), tx.geometry.Euclidean()):

            def total(x, y, cost=cost):
                geometry = tx.geometry.PointCloud(x, y, cost)
                ends = jnp.zeros(x.shape[0]), jnp.zeros(y.shape[0]), jnp.array(2.0)
                kernel = internal.gibbs_kernel(geometry, *ends)
                return jnp.sum(kernel @ jnp.ones(y.shape[0]))

            slopes = jax.grad(total, (0, 1))(x[:, :dim], y[:, :dim])
            far = tuple(padded(points[:, :dim], jnp.inf) for points in (x, y))
            for slope, far_slope in zip(slopes, jax.grad(total, (0, 1))(*far), strict=True):
                assert jnp.allclose(far_slope[:4], slope, rtol=1e-10)
