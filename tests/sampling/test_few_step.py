"""A few steps of a flow map: against the flow of its field, and its densities in closed form."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import transportx as tx
from tests import tables
from tests.helpers import check_derivatives

ENDS = tables._ends(2)
EXACT = tx.fields.GaussianFlowMap(*ENDS)
NETWORK = tables.in_float64(tx.fields.MLPFlowMap(2, 8, 1, condition_dim=1, key=jr.key(0)))
X0 = jr.normal(jr.key(1), (5, 2))
ARGS = jr.normal(jr.key(2), (5, 1))
GRID = jnp.array([0.0, 0.3, 1.0])


def base_log_prob(x):
    return tx.gaussians.log_density(x, *ENDS[:2])


@pytest.mark.parametrize("grid", [1, 2, GRID], ids=["one", "two", "uneven"])
def test_every_grid_of_an_exact_map_makes_the_law_of_the_target(grid):
    """Samples on the closed-form map, with the density of the target there."""
    made = tx.sampling.few_step_likelihood(EXACT, X0, base_log_prob=base_log_prob, grid=grid)
    arrived = jax.jit(jax.vmap(lambda x: EXACT.position(jnp.zeros(()), jnp.ones(()), x)))(X0)
    np.testing.assert_allclose(made.x, arrived, atol=1e-11)
    expected = jax.vmap(lambda x: tx.gaussians.log_density(x, *ENDS[2:]))(arrived)
    np.testing.assert_allclose(made.log_prob, expected, atol=1e-10)
    np.testing.assert_allclose(tx.sampling.few_step(EXACT, X0, grid=grid), arrived, atol=1e-11)
    assert jnp.all(made.completed)
    assert jnp.all(made.num_steps == (grid if isinstance(grid, int) else grid.size - 1))


def test_steps_are_those_written_out_and_take_each_condition_along():
    found = tx.sampling.few_step(NETWORK, X0, ARGS, grid=GRID)
    for i in range(2):
        x = X0[i]
        for s, t in zip(GRID[:-1], GRID[1:], strict=True):
            x = x + (t - s) * NETWORK(s, t, x, ARGS[i])
        np.testing.assert_allclose(found[i], x, atol=1e-13)


def test_samples_of_halves_are_computed_in_float32():
    narrow = X0.astype(jnp.bfloat16)

    def u(s, t, x, args):
        return jnp.sin(x) * (s + t)

    found = tx.sampling.few_step(u, narrow, grid=2)
    wide = tx.sampling.few_step(u, narrow.astype(jnp.float32), grid=2)
    assert found.dtype == jnp.bfloat16
    assert jnp.array_equal(found, wide.astype(jnp.bfloat16))


def test_samples_and_densities_differentiate_in_everything():
    arrays, static = eqx.partition(NETWORK, eqx.is_inexact_array)

    def both(arrays, x0, args, grid):
        made = tx.sampling.few_step_likelihood(
            eqx.combine(arrays, static), x0, args, base_log_prob=base_log_prob, grid=grid
        )
        return made.x, made.log_prob

    grid = jnp.array([0.1, 0.4, 0.9])
    check_derivatives(both, arrays, X0[:2], ARGS[:2], grid, step=1e-5)


def test_a_lost_example_is_nan_and_says_so_alone():
    x0 = X0.at[1, 0].set(jnp.nan)
    for made in (
        tx.sampling.few_step_trajectories(EXACT, x0),
        tx.sampling.few_step_likelihood(EXACT, x0, base_log_prob=base_log_prob),
    ):
        assert made.completed.tolist() == [True, False, True, True, True]
        assert (made.status == tx.Status.NON_FINITE).tolist() == [False, True, False, False, False]
        assert np.isnan(made.x).all(1).tolist() == [False, True, False, False, False]


def test_a_sharded_batch_stays_where_it_is():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    x0 = jr.normal(jr.key(3), (8, 2))
    placed = jax.device_put(x0, NamedSharding(mesh, PartitionSpec("data")))
    found = tx.sampling.few_step(EXACT, placed, grid=2)
    assert len(found.sharding.device_set) == 4
    np.testing.assert_allclose(found, tx.sampling.few_step(EXACT, x0, grid=2), atol=1e-12)


def test_traced_times_that_do_not_rise_are_nan():
    sample = jax.jit(lambda grid: tx.sampling.few_step(EXACT, X0, grid=grid))
    assert jnp.all(jnp.isfinite(sample(GRID)))
    for bad in ([0.0, 0.5, 0.5], [0.0, 0.5, 1.5], [-0.1, 0.5, 1.0], [0.0, jnp.nan, 1.0]):
        assert jnp.all(jnp.isnan(sample(jnp.array(bad))))


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"grid": 0}, "`grid` is 0; give an integer of at least 1"),
        ({"grid": jnp.array([0.0])}, r"`grid` has shape \(1,\); give at least two times"),
        ({"grid": jnp.array([0.5, 0.2])}, "`grid` is .*; give times that rise in"),
        ({"grid": jnp.array([0.5, 1.2])}, "`grid` is .*; give times that rise in"),
        ({"x0": X0[:0]}, r"`x0` has shape .*; give at least one example"),
        ({"args": ARGS[:2]}, "`args` has 2 examples but `x0` has 5"),
        ({"u": tx.fields.GaussianField(*ENDS)}, "`u` has the signature .*; give a flow map"),
        ({"u": lambda t, x, args: x}, "`u` has the signature .*; give a flow map"),
        ({"u": lambda s, t, x, args: x[:1]}, r"`u` returns shape \(1,\) at a point of"),
    ],
)
def test_bad_input_is_named_with_a_cure(given, message):
    given = {"u": EXACT, "x0": X0} | given
    with pytest.raises(ValueError, match=message):
        tx.sampling.few_step(**given)
