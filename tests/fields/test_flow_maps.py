"""Exact flow maps: the equations that define them, numerical flows, derivatives, refusals."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from diffrax import Dopri8

import transportx as tx
from tests import tables
from tests.helpers import check_derivatives

ENDS = tables._ends(2)
PATHS = tables.INTERPOLANTS
CROSS = 0.3 * jr.normal(jr.key(1), (2, 2))
POINTS = 2 * jr.normal(jr.key(2), (3, 2))
# Both halves of [0, 1], a short span over its middle, spans of no length, and the whole.
STARTS = jnp.array([0.1, 0.3, 0.49, 0.4, 0.0, 0.0])
ENDS_OF_SPANS = jnp.array([0.7, 0.301, 0.505, 0.4, 0.0, 1.0])


def gaussian(path, cross=None):
    flow_map = tx.fields.GaussianFlowMap(*ENDS, path, cross)
    return flow_map, tx.fields.GaussianField(*ENDS, path, cross), POINTS


def on_line(path):
    source, target = (
        tables.mixture(jr.key(key), weights, 1)
        for key, weights in ((2, [0.3, 0.7]), (3, [0.2, 0.5, 0.3]))
    )
    field = tx.fields.MixtureField(source, target, path)
    return tx.fields.LineFlowMap(field), field, jnp.array([[-5.0], [0.3], [12.0]])


CASES = {
    "independent": gaussian(PATHS["linear"]),
    "noisy_and_correlated": gaussian(PATHS["brownian_bridge"], CROSS),
    "line": on_line(PATHS["trigonometric"]),
}
every_map = pytest.mark.parametrize(("u", "field", "points"), CASES.values(), ids=CASES.keys())


@eqx.filter_jit
def arrivals(u, points, s, t):
    return jax.vmap(lambda x: u.position(s, t, x))(points)


def with_rate(function, primals, tangents):
    return jax.jvp(function, primals, tangents)


def defects(u, field, s, t, x):
    """How far a map is from each of the equations that define it, at one point."""
    one, v = jnp.ones_like(s), field(s, x)
    average, rate = with_rate(lambda s, x: u(s, t, x), (s, x), (one, v))
    eulerian = average - v - (t - s) * rate
    _, rate = with_rate(lambda t: u(s, t, x), (t,), (one,))
    arrived = u.position(s, t, x)
    lagrangian = average + (t - s) * rate - field(t, arrived)
    r = (s + t) / 2
    semigroup = u.position(r, t, u.position(s, r, x)) - arrived
    by_average = x + (t - s) * average - arrived
    return eulerian, lagrangian, semigroup, u(s, s, x) - v, by_average


@every_map
def test_maps_obey_the_equations_that_define_them(u, field, points):
    """Eulerian, Lagrangian, semigroup, the field on the diagonal: to 1e-10."""

    @jax.jit
    def found(points):
        over_points = jax.vmap(lambda s, t, x: defects(u, field, s, t, x), (None, None, 0))
        return jax.vmap(over_points, (0, 0, None))(STARTS, ENDS_OF_SPANS, points)

    names = "eulerian lagrangian semigroup diagonal position".split()
    for name, defect in zip(names, found(points), strict=True):
        assert jnp.max(jnp.abs(defect)) < 1e-10, name


@pytest.mark.parametrize("name", ["independent", "noisy_and_correlated", "bent", "line"])
def test_maps_are_the_flow_of_their_field(name):
    bent = gaussian(PATHS["encoding_decoding"])
    u, field, points = CASES.get(name, bent)
    steps = tx.evolution.AdaptiveSteps(1e-10, 1e-10, Dopri8())
    for s, t in ((0.0, 1.0), (0.2, 0.7)):
        carried = tx.sampling.flow(field, points, t0=s, t1=t, steps=steps)
        arrived = arrivals(u, points, jnp.array(s), jnp.array(t))
        np.testing.assert_allclose(arrived, carried, rtol=1e-8, atol=1e-8)


def test_a_correlated_map_of_optimal_ends_is_the_optimal_map():
    m0, S0, m1, S1 = ENDS
    push = tx.gaussians.transport_map(*ENDS)
    u = tx.fields.GaussianFlowMap(*ENDS, cross=S0 @ push.matrix.T)
    arrived = arrivals(u, POINTS, jnp.zeros(()), jnp.ones(()))
    np.testing.assert_allclose(arrived, jax.vmap(push)(POINTS), atol=1e-10)


def test_one_euler_step_lands_on_the_mean_or_on_the_optimal_map():
    """From t = 0: independent ends on E x1, optimally coupled ones on T(x)."""
    m0, S0, m1, S1 = ENDS
    independent = tx.fields.GaussianField(*ENDS)
    landed = tx.sampling.flow(independent, POINTS, steps=1)
    np.testing.assert_allclose(landed, jnp.broadcast_to(m1, POINTS.shape), atol=1e-12)
    push = tx.gaussians.transport_map(*ENDS)
    coupled = tx.fields.GaussianField(*ENDS, cross=S0 @ push.matrix.T)
    landed = tx.sampling.flow(coupled, POINTS, steps=1)
    np.testing.assert_allclose(landed, jax.vmap(push)(POINTS), atol=1e-10)


every_table_map = pytest.mark.parametrize(
    ("u", "shape"), tables.FLOW_MAPS.values(), ids=tables.FLOW_MAPS.keys()
)


@every_table_map
def test_maps_differentiate_in_times_point_and_parameters(u, shape):
    arrays, static = eqx.partition(u, eqx.is_inexact_array_like)
    arrays = jax.tree.map(jnp.asarray, arrays)

    def average(arrays, s, t, x):
        return eqx.combine(arrays, static)(s, t, x)

    x = jr.normal(jr.key(3), shape)
    check_derivatives(average, arrays, jnp.array(0.2), jnp.array(0.7), x, step=1e-5)


@every_table_map
def test_maps_agree_in_float32_under_vmap(u, shape):
    s, t = jnp.array([0.1, 0.5, 0.6]), jnp.array([0.9, 0.501, 0.6])
    x = jr.normal(jr.key(4), (3, *shape))
    double = jax.jit(jax.vmap(lambda s, t, x: u(s, t, x)))(s, t, x)
    narrow = jax.tree.map(
        lambda leaf: leaf.astype(jnp.float32) if eqx.is_inexact_array(leaf) else leaf, (u, s, t, x)
    )
    single = eqx.filter_jit(lambda u, s, t, x: jax.vmap(lambda s, t, x: u(s, t, x))(s, t, x))
    found = single(*narrow)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, double, rtol=1e-4, atol=1e-4)


@every_table_map
def test_maps_of_halves_are_computed_in_float32(u, shape):
    dtype = jnp.bfloat16

    def cast(tree, to):
        return jax.tree.map(
            lambda leaf: leaf.astype(to) if eqx.is_inexact_array(leaf) else leaf, tree
        )

    narrow = cast((u, jnp.array(0.25), jnp.array(0.75), jr.normal(jr.key(5), shape)), dtype)
    call = eqx.filter_jit(lambda u, *given: u(*given))
    found, expected = call(*narrow), call(*cast(narrow, jnp.float32))
    assert found.dtype == dtype
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(found.astype(jnp.float32), expected, rtol=eps, atol=eps)


@every_table_map
def test_times_out_of_order_or_range_are_refused_or_nan(u, shape):
    x = jnp.zeros(shape)
    traced = jax.jit(lambda s, t: u(s, t, x))
    for s, t in ((0.7, 0.2), (-0.1, 0.5), (0.5, 1.1), (jnp.nan, 0.5)):
        s, t = jnp.array(s), jnp.array(t)
        assert jnp.all(jnp.isnan(traced(s, t)))
        with pytest.raises(ValueError, match="`s` is .*; give times with 0 <= s <= t <= 1"):
            u(s, t, x)
    assert jnp.all(jnp.isfinite(traced(jnp.array(0.2), jnp.array(0.7))))


@pytest.mark.usefixtures("without_type_checks")
def test_bad_input_is_named_with_a_cure():
    zero, field = jnp.zeros(()), tx.fields.MixtureField
    in_plane = tables.mixture(jr.key(2), [1.0], 2)
    with pytest.raises(ValueError, match="`field` is of points of shape .*; give mixtures on the"):
        tx.fields.LineFlowMap(field(in_plane, in_plane))
    with pytest.raises(ValueError, match=r"`x` has shape \(3,\) but `m0` has shape \(2,\)"):
        CASES["independent"][0](zero, zero, jnp.zeros(3))
    with pytest.raises(ValueError, match="`cross` has shape"):
        tx.fields.GaussianFlowMap(*ENDS, cross=jnp.eye(3))
    indefinite = jnp.diag(jnp.array([1.0, -1.0]))
    for u in (
        tx.fields.GaussianFlowMap(ENDS[0], ENDS[1], ENDS[2], indefinite),
        tx.fields.GaussianFlowMap(ENDS[0], indefinite, ENDS[2], ENDS[3]),
    ):
        assert jnp.all(jnp.isnan(u(zero, zero + 0.1, POINTS[0])))
