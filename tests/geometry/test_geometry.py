"""Costs and geometries: against pairs one by one, scipy, finite differences and memory."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.spatial.distance import cdist

import transportx as tx
from tests.helpers import check_derivatives
from tests.tables import COSTS
from transportx.geometry import internal

every_cost = pytest.mark.parametrize("cost", COSTS.values(), ids=COSTS.keys())
CLOUD_SHAPES = [(5, 7, 3), (7, 5, 1), (1, 4, 2)]


def clouds(n, m, d, dtype=jnp.float64):
    """Two clouds on the unit sphere, where `Geodesic` is defined; in 1-D, the points +-1."""
    points = jr.normal(jr.key(n + 10 * m + 100 * d), (n + m, d), dtype)
    points = points / jnp.linalg.norm(points, axis=1, keepdims=True)
    return points[:n], points[n:]


def pairwise(cost, x, y):
    """One call of the cost for each pair, in a Python loop."""
    cost = jax.jit(cost)
    return np.array([[cost(xi, yj) for yj in y] for xi in x])


# Costs


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("squared_euclidean", lambda x, y: cdist(x, y, "sqeuclidean")),
        ("euclidean", lambda x, y: cdist(x, y)),
        ("p_norm", lambda x, y: cdist(x, y, "minkowski", p=1.5) ** 1.5),
        ("dot", lambda x, y: -np.einsum("nd,md->nm", x, y)),
        ("cosine", lambda x, y: cdist(x, y, "cosine")),
        ("geodesic", lambda x, y: np.arccos(np.clip(1 - cdist(x, y, "cosine"), -1, 1))),
    ],
)
def test_costs_are_those_of_scipy(name, reference):
    x, y = clouds(5, 7, 3)
    # arccos loses half the digits near 0 and pi; these points are away from both.
    np.testing.assert_allclose(COSTS[name].matrix(x, y), reference(x, y), atol=1e-12)


@every_cost
@pytest.mark.parametrize("shape", CLOUD_SHAPES)
def test_matrix_holds_the_cost_of_every_pair(cost, shape):
    x, y = clouds(*shape)
    matrix = jax.jit(lambda x, y: tx.geometry.PointCloud(x, y, cost).matrix())(x, y)
    np.testing.assert_allclose(matrix, pairwise(cost, x, y), rtol=1e-12, atol=1e-12)


@every_cost
def test_costs_work_under_jit_and_vmap(cost):
    x, y = clouds(4, 4, 3)
    eager = jnp.stack([cost(xi, yi) for xi, yi in zip(x, y, strict=True)])
    batched = jax.jit(jax.vmap(cost))(x, y)
    np.testing.assert_allclose(batched, eager, rtol=1e-13, atol=1e-13)
    stacked = jax.vmap(lambda x: tx.geometry.PointCloud(x, y, cost).matrix())(
        jnp.stack([x, x[::-1]])
    )
    np.testing.assert_allclose(stacked[1], stacked[0][::-1], rtol=1e-13, atol=1e-13)


@every_cost
@pytest.mark.parametrize("dim", [1, 3])
def test_derivatives_of_the_matrix_are_finite_differences(cost, dim):
    if dim == 1:
        x, y = jnp.array([[0.3], [0.9]]), jnp.array([[1.2], [-0.6], [0.4]])
    else:
        x, y = clouds(2, 3, 3)
    # Third derivatives reach a few hundred: truncation of 1e-6.
    check_derivatives(cost.matrix, x, y, order=2, tol=1e-5)


@every_cost
def test_float32_costs_agree_with_float64(cost):
    x, y = clouds(6, 5, 3)
    single = tx.geometry.PointCloud(x.astype(jnp.float32), y.astype(jnp.float32), cost).matrix()
    assert single.dtype == jnp.float32
    # About 20 roundings of 6e-8 on costs of order ten at most.
    np.testing.assert_allclose(
        single, tx.geometry.PointCloud(x, y, cost).matrix(), rtol=2e-6, atol=2e-6
    )


@every_cost
def test_gradients_are_finite_where_points_coincide(cost):
    # All pairs of these: coinciding, antipodal, and at the origin, where angles have none.
    x = jnp.array([[0.6, 0.8, 0.0], [-0.6, -0.8, 0.0], [0.0, 0.0, 0.0]])
    x = x[:2] if isinstance(cost, tx.geometry.Geodesic) else x
    pairs = jax.vmap(jax.grad(cost, argnums=(0, 1)), (0, None))
    every = jax.vmap(pairs, (None, 0))(x, x)
    cloud = jax.jit(jax.grad(lambda x, y: jnp.sum(cost.matrix(x, y)), argnums=(0, 1)))(x, x)
    tangent = jax.jit(lambda x: jax.jvp(cost.matrix, (x, x), (jnp.ones_like(x), x))[1])(x)
    assert all(jnp.isfinite(part).all() for part in (*every, *cloud, tangent))


@every_cost
def test_a_point_that_is_nan_has_costs_that_are_nan(cost):
    x, y = clouds(3, 4, 3)
    matrix = tx.geometry.PointCloud(x.at[1, 2].set(jnp.nan), y, cost).matrix()
    assert jnp.isnan(matrix[1]).all()
    # Centring spreads it to all rows of a cost that depends on differences alone.
    assert cost.translation_invariant or jnp.isfinite(matrix[jnp.array([0, 2])]).all()


@every_cost
def test_costs_said_to_be_translation_invariant_are(cost):
    x, y = clouds(3, 4, 3)
    shift = jnp.array([[0.3, -2.0, 1.1]])
    unchanged = jnp.allclose(cost.matrix(x + shift, y + shift), cost.matrix(x, y), atol=1e-10)
    assert unchanged == cost.translation_invariant


def test_swapped_exchanges_the_two_points():
    x, y = clouds(3, 4, 2)
    swapped = tx.geometry.Swapped(COSTS["pointwise"])
    np.testing.assert_allclose(swapped.matrix(y, x).T, COSTS["pointwise"].matrix(x, y), rtol=1e-14)
    assert float(swapped(x[0], y[0])) != pytest.approx(float(COSTS["pointwise"](x[0], y[0])))


def test_squared_euclidean_has_curvature_two_where_points_coincide():
    x, _ = clouds(1, 1, 3)

    def total(y):
        return tx.geometry.SquaredEuclidean().matrix(x, y)[0, 0]

    np.testing.assert_allclose(jax.jit(jax.hessian(total))(x)[0, :, 0], 2 * np.eye(3), atol=1e-12)


def test_squared_euclidean_is_never_negative():
    x = 1 + 1e-9 * jr.normal(jr.key(0), (40, 3))
    assert (tx.geometry.SquaredEuclidean().matrix(x, x) >= 0).all()


def test_exponent_of_the_p_norm_differentiates():
    x, y = clouds(3, 4, 2)

    def total(p):
        return jnp.sum(tx.geometry.PNorm(p).matrix(x, jnp.concatenate([y, x])))

    check_derivatives(total, jnp.array(1.7))


def test_geodesic_is_accurate_for_tiny_angles():
    angles = jnp.array([1e-12, 1e-7, 1e-3])
    x = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
    y = jnp.array([[1.0, 0.0]])
    np.testing.assert_allclose(tx.geometry.Geodesic().matrix(x, y)[:, 0], angles, rtol=1e-12)


# Geometries


def soft_rows(geometry, weights):
    """Two things a solver may ask of rows, one of them with a weight for each."""
    return geometry.map_rows(
        lambda costs, w: (w * jax.nn.logsumexp(-costs), jnp.min(costs)), weights
    )


@every_cost
def test_streamed_rows_and_their_derivatives_are_the_dense_ones(cost):
    arguments = *clouds(10, 7, 3), jnp.linspace(1, 2, 10)

    def derivatives(tile):
        def rows(x, y, weights):
            return soft_rows(tx.geometry.PointCloud(x, y, cost, tile=tile), weights)

        (soft, least), pull = jax.vjp(rows, *arguments)
        return soft, least, pull((soft, least)), jax.jvp(rows, arguments, arguments)[1]

    # Tiles of 4 leave 2 of the 10 rows over.
    dense, tiled = (jax.tree.leaves(jax.jit(derivatives, static_argnums=0)(t)) for t in (None, 4))
    for one, other in zip(tiled, dense, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("tile", [1, 5, 9, 10])
def test_every_tile_size_gives_the_same_rows(tile):
    x, y = clouds(10, 7, 3)
    rows = tx.geometry.PointCloud(x, y, tile=tile).matrix()
    np.testing.assert_allclose(rows, cdist(x, y, "sqeuclidean"), atol=1e-13)


@every_cost
@pytest.mark.parametrize("tile", [None, 4])
def test_transpose_holds_the_same_costs(cost, tile):
    x, y = clouds(10, 7, 3)
    geometry = tx.geometry.PointCloud(x, y, cost, tile=tile)
    assert geometry.T.shape == (7, 10)
    expected = pairwise(cost, x, y)
    np.testing.assert_allclose(geometry.T.matrix().T, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(geometry.T.T.matrix(), expected, rtol=1e-12, atol=1e-12)


def test_targets_that_do_not_count_do_not_scale_down_those_that_do():
    merge, exponents = internal.SumExp(), jr.normal(jr.key(3), (2, 3))
    weights = jnp.array([0.2, 0.0, 0.8])
    counted = merge.part(weights, exponents)
    others = merge.part(jnp.zeros(4), 1e4 + jr.normal(jr.key(4), (2, 4)))
    expected = jax.scipy.special.logsumexp(exponents, b=weights[None, :], axis=1)
    for pair in ((counted, others), (others, counted)):
        peaks, sums = merge.join(*pair)
        assert jnp.allclose(peaks + jnp.log(sums), expected)


MERGES = {
    "sum": (internal.Sum(), lambda values: jnp.sum(values, axis=1)),
    "maximum": (internal.Maximum(), lambda values: jnp.max(values, axis=1)),
    "any of": (internal.AnyOf(), lambda values: internal.AnyOf.part(jnp.where(values > 1, 1, 2))),
}


@pytest.mark.parametrize("name", MERGES)
def test_blocks_of_targets_join_to_what_all_of_them_give(name):
    merge, part = MERGES[name]
    values = jr.normal(jr.key(5), (4, 6))
    blocks = part(values[:, :2]), part(values[:, 2:])
    assert jnp.allclose(merge.join(*blocks), part(values))
    empty = merge.empty(jax.eval_shape(lambda: blocks[0]))
    assert jnp.array_equal(merge.join(empty, blocks[0]), blocks[0])


def test_one_device_refuses_a_merge_that_many_could_not_use():
    def two_of_each(columns, costs):
        return costs[:, :2], jnp.zeros((costs.shape[0], 2), jnp.int32)

    cloud = tx.geometry.PointCloud(*clouds(3, 4, 2))
    assert cloud.fold_tiles(internal.Largest(4, 2), two_of_each, jnp.ones(4))[0].shape == (3, 2)
    with pytest.raises(ValueError, match="`merge` joins two parts to something else; give the"):
        cloud.fold_tiles(internal.Largest(4, 1), two_of_each, jnp.ones(4))


def test_cost_matrix_gives_back_its_entries():
    costs = jr.normal(jr.key(0), (3, 5))
    geometry = tx.geometry.CostMatrix(costs)
    assert geometry.shape == (3, 5)
    np.testing.assert_array_equal(geometry.matrix(), costs)
    np.testing.assert_array_equal(geometry.T.matrix(), costs.T)
    np.testing.assert_allclose(
        geometry.map_rows(lambda row, w: w * jnp.sum(row), jnp.arange(3.0)),
        np.arange(3) * np.sum(np.asarray(costs), axis=1),
        rtol=1e-14,
    )


def test_any_callable_is_a_cost():
    x, y = clouds(3, 4, 2)
    geometry = tx.geometry.PointCloud(x, y, lambda x, y: jnp.max(jnp.abs(x - y)))
    np.testing.assert_allclose(geometry.matrix(), cdist(x, y, "chebyshev"), rtol=1e-14)


@pytest.mark.parametrize("cost", [COSTS["squared_euclidean"], COSTS["euclidean"]])
@pytest.mark.parametrize("tile", [None, 16])
def test_float32_stays_accurate_far_from_the_origin(cost, tile):
    x = (1000 + jr.normal(jr.key(0), (40, 3))).astype(jnp.float32)
    y = (1000 + jr.normal(jr.key(1), (30, 3))).astype(jnp.float32)
    single = tx.geometry.PointCloud(x, y, cost, tile=tile).matrix()
    exact = pairwise(cost, x.astype(jnp.float64), y.astype(jnp.float64))
    # The points are given to float32; centring them is exact to 6e-5, the spacing at 1000.
    # Without it the error is that of squares of 3e6: about 0.3.
    np.testing.assert_allclose(single, exact, atol=1e-3)


def value_and_grad_memory(n, tile):
    """Temporary bytes of a compiled value-and-gradient over rows and columns."""

    def value(x, y):
        geometry = tx.geometry.PointCloud(x, y, tile=tile)
        rows = geometry.map_rows(lambda costs: jax.nn.logsumexp(-costs))
        columns = geometry.T.map_rows(lambda costs: jax.nn.logsumexp(-costs))
        return jnp.sum(rows) + jnp.sum(columns)

    cloud = jax.ShapeDtypeStruct((n, 3), jnp.float64)
    compiled = jax.jit(jax.value_and_grad(value, argnums=(0, 1))).lower(cloud, cloud).compile()
    analysis = compiled.memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes


def test_streamed_gradients_need_memory_linear_in_the_points():
    small, large = (value_and_grad_memory(n, tile=8) for n in (4096, 16384))
    assert large < 16384 * 16384 * 8 / 50
    # Four times the points: linear growth is 4, a matrix would be 16.
    assert large < 5 * small


# Refusals


def cloud_of(*shape, dtype=jnp.float64):
    return jnp.ones(shape, dtype)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: tx.geometry.PointCloud(cloud_of(3, 2), cloud_of(4, 3)), "`y`.*one shape"),
        (lambda: tx.geometry.PointCloud(cloud_of(0, 2), cloud_of(4, 2)), "`x`.*at least one"),
        (lambda: tx.geometry.PointCloud(cloud_of(3, 2), cloud_of(0, 2)), "`y`.*at least one"),
        (lambda: tx.geometry.PointCloud(cloud_of(3, 0), cloud_of(3, 0)), "`x`.*at least one"),
        (lambda: tx.geometry.PointCloud(cloud_of(3), cloud_of(3)), r"`x`.*shape \(n, d\)"),
        (
            lambda: tx.geometry.PointCloud(cloud_of(3, 2, dtype=jnp.int32), cloud_of(3, 2)),
            "`x` has dtype int32.*convert",
        ),
        (
            lambda: tx.geometry.PointCloud(cloud_of(3, 2), cloud_of(3, 2), tile=0),
            "`tile` is 0.*at least 1",
        ),
        (
            lambda: tx.geometry.PointCloud(cloud_of(3, 2), cloud_of(3, 2), tile=2.5),  # pyright: ignore[reportArgumentType]
            "`tile` is 2.5.*integer",
        ),
        (lambda: tx.geometry.Layout(tile=0), "`tile` is 0.*at least 1"),
        (lambda: tx.geometry.CostMatrix(cloud_of(3)), r"`costs`.*shape \(n, m\)"),
        (
            lambda: tx.geometry.CostMatrix(cloud_of(3, 0)),
            r"`costs` has shape .*; give a matrix, shape \(n, m\)",
        ),
        (lambda: tx.geometry.CostMatrix(cloud_of(3, 2, dtype=jnp.int32)), "`costs`.*convert"),
        (lambda: tx.geometry.PNorm(0.5), "`p` is 0.5.*at least 1"),
        (
            lambda: tx.geometry.PNorm(float("nan")),
            "`p` is nan; give a number",
        ),
    ],
)
def test_bad_input_is_refused_with_its_cure(build, message):
    with pytest.raises(ValueError, match=message):
        build()
