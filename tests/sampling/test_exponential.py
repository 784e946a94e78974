"""Grids and exponential steps where noise or target is all there is, and in halves."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import transportx as tx
from tests import tables

MEAN, COVARIANCE = tables._ends(2)[2:]
X0 = jr.normal(jr.key(160), (6, 2))
LINEAR = tx.interpolants.Linear()
PATHS = {
    "linear": LINEAR,
    "from_rest": tx.interpolants.Warped(LINEAR, tx.interpolants.Power(2.0)),
    "encoding_decoding": tx.interpolants.EncodingDecoding(),
}


def field_of(path, dtype=jnp.float64):
    source = jnp.zeros(2, dtype), jnp.eye(2, dtype=dtype)
    return tx.fields.GaussianField(*source, MEAN.astype(dtype), COVARIANCE.astype(dtype), path)


def image(x0):
    """Where every path from N(0, I) to a Gaussian ends: the symmetric root of its covariance."""
    values, vectors = np.linalg.eigh(np.asarray(COVARIANCE))
    root = vectors * np.sqrt(values) @ vectors.T
    return np.asarray(MEAN) + np.asarray(x0, np.float64) @ root


@pytest.mark.parametrize("name", PATHS)
def test_the_second_order_is_reached_from_noise_alone(name):
    errors = []
    for num_steps in (40, 80):
        x1 = tx.sampling.exponential_flow(
            field_of(PATHS[name]), X0, path=PATHS[name], steps=num_steps
        )
        errors.append(np.abs(np.asarray(x1) - image(X0)).max())
    assert errors[1] < 0.02
    assert errors[0] / errors[1] > 3


def test_a_constant_target_is_exact_in_one_step_from_rest():
    """Of one data point D the flow is x1 = D, whatever the schedule."""
    path, target = PATHS["from_rest"], jnp.array([1.0, -2.0])
    for num_steps, order in ((1, 1), (4, 2)):
        x1 = tx.sampling.exponential_flow(
            tx.fields.EmpiricalField(target[None], path),
            X0,
            path=path,
            steps=num_steps,
            order=order,
        )
        np.testing.assert_allclose(x1, np.broadcast_to(target, x1.shape), atol=1e-12)


@pytest.mark.parametrize("power", [3.0, 6.0])
def test_nodes_that_round_onto_the_end_are_no_step_too_many(power):
    """In float32 the last of a hundred steps is 1e-6 long, and of the sixth power nothing."""
    x0 = X0.astype(jnp.float32)
    x1 = tx.sampling.exponential_flow(
        field_of(LINEAR, jnp.float32),
        x0,
        path=LINEAR,
        steps=tx.evolution.FixedSteps(100, grid=tx.sampling.PowerGrid(power)),
    )
    np.testing.assert_allclose(x1, image(x0), atol=5e-3)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_halves_flow_in_float32(dtype):
    x0 = X0.astype(dtype)
    flow = functools.partial(tx.sampling.exponential_flow, path=LINEAR, steps=60)
    x1 = flow(field_of(LINEAR, jnp.float32), x0)
    assert x1.dtype == dtype
    wide = flow(field_of(LINEAR), x0.astype(jnp.float64))
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(x1.astype(jnp.float64), wide, rtol=eps, atol=1e-5)


GRIDS = {
    "uniform": tx.evolution.uniform_grid,
    "steep": tx.sampling.PowerGrid(60.0),
    "flat": tx.sampling.PowerGrid(1e-9),
    "exploding": tx.sampling.KarrasGrid(tx.interpolants.VarianceExploding()),
    "wide_end": tx.sampling.KarrasGrid(tx.interpolants.Linear(0.1)),
    "blurred": tx.sampling.KarrasGrid(tables.INTERPOLANTS["blurred"]),
    "noise_first": tx.sampling.KarrasGrid(tx.interpolants.EncodingDecoding()),
    "beyond_rounding": tx.sampling.KarrasGrid(LINEAR, ratio_min=1e-12, ratio_max=1e12),
}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_every_grid_rises_strictly_from_zero_to_one(dtype):
    for name, grid in GRIDS.items():
        times = np.asarray(grid(100, dtype))
        assert times.dtype == dtype
        assert times[0] == 0, name
        assert times[-1] == 1, name
        assert np.all(np.diff(times) > 0), name


@pytest.mark.parametrize(
    ("name", "first", "last"), [("exploding", 50.0, 0.01), ("wide_end", 80.0, 0.1)]
)
def test_karras_steps_are_even_between_the_ends_that_a_path_has(name, first, last):
    """The seventh roots of the ratios, at all nodes whose ratio lies between."""
    grid = GRIDS[name]
    times = grid(12, jnp.float64)
    target = jax.vmap(lambda t: tx.interpolants.noised_target(grid.path, t))(times)
    roots = np.asarray(target.sigma / target.beta) ** (1 / 7)
    inside = roots[0 if name == "exploding" else 1 :]
    assert np.isclose(inside[0], first ** (1 / 7), rtol=1e-8)
    assert np.isclose(inside[-1], last ** (1 / 7), rtol=1e-8)
    np.testing.assert_allclose(np.diff(inside), np.diff(inside)[0], rtol=1e-6)


def test_exploding_noise_flows_to_the_spread_of_its_target():
    """A path that starts at a ratio of 50, where the grid would start at 80."""
    path = tx.interpolants.VarianceExploding(0.01, 50.0)
    field = tx.fields.GaussianField(jnp.zeros(1), jnp.eye(1), jnp.ones(1), 0.29 * jnp.eye(1), path)
    x0 = 1 / 50 + jnp.array([[-1.0], [1.0]]) * jnp.sqrt(1 + 0.29 / 50**2)
    steps = tx.evolution.FixedSteps(80, grid=tx.sampling.KarrasGrid(path))
    x1 = tx.sampling.exponential_flow(field, 50 * x0, path=path, steps=steps)
    assert np.isclose(float(x1[1, 0] - x1[0, 0]) / 2, np.sqrt(0.29 + 1e-4), rtol=5e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tx.sampling.PowerGrid(2.0)(4, jnp.bfloat16), "`dtype` is bfloat16; give float32"),
        (lambda: tx.sampling.PowerGrid(np.inf), "`power` is inf; give a positive number"),
        (lambda: tx.sampling.KarrasGrid(LINEAR, ratio_min=90.0), "`ratio_min` is 90.0; give a"),
        (lambda: tx.sampling.KarrasGrid(LINEAR, source_scale=-1.0), "`source_scale` is -1.0"),
        (
            lambda: tx.sampling.exponential_flow(
                field_of(LINEAR), X0, path=LINEAR, source_scale=0.0
            ),
            "`source_scale` is 0.0",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_traced_nonsense_makes_no_grid():
    bad = jnp.array([-1.0, 0.0, np.nan, np.inf])
    found = jax.vmap(lambda p: tx.sampling.PowerGrid(p)(4, jnp.float64))(bad)
    assert np.isnan(found).any(axis=1).all()
    found = jax.vmap(lambda r: tx.sampling.KarrasGrid(LINEAR, rho=r)(4, jnp.float64))(bad)
    assert np.isnan(found).any(axis=1).all()


def test_a_field_of_another_dtype_flows_in_the_dtype_of_its_points():
    """A network in float64, points in float32: rates of both samplers are rounded to float32."""
    wide, x0 = field_of(LINEAR), X0.astype(jnp.float32)

    def field(t, x, args):
        return wide(t.astype(jnp.float64), x.astype(jnp.float64))

    for found in (
        tx.sampling.exponential_flow(field, x0, path=LINEAR, steps=60),
        tx.sampling.flow(field, x0, steps=400),
    ):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, image(x0), atol=1e-2)


def test_a_base_density_of_each_coordinate_is_no_density():
    with pytest.raises(ValueError, match=r"`base_log_prob` returns shape \(2,\); return one"):
        tx.sampling.log_prob(field_of(LINEAR), X0, base_log_prob=lambda x: -(x**2) / 2, steps=2)
