"""Reflow: between Gaussians a second training is straight, and its map is that of the first."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import pytest

import transportx as tx
from tests.tables import covariance

M0, M1 = jnp.array([0.5, -1.0]), jnp.array([1.0, 2.0])
S0, S1 = (covariance(jr.key(k), 2) for k in (1, 2))
FIELD, EXACT = tx.fields.GaussianField(M0, S0, M1, S1), tx.fields.GaussianFlowMap(M0, S0, M1, S1)
RK4 = tx.evolution.FixedSteps(20, tx.sampling.RK4())


def draw_sources(*, key):
    return M0[None, :] + jr.normal(key, (64, 2)) @ jnp.linalg.cholesky(S0).T, None


class Affine(eqx.Module):
    """A field that is affine in the point at every time, by a polynomial in time."""

    matrices: jnp.ndarray
    shifts: jnp.ndarray

    def __call__(self, t, x, args):
        powers = t ** jnp.arange(self.shifts.shape[0], dtype=t.dtype)
        return jnp.tensordot(powers, self.matrices, 1) @ x + powers @ self.shifts


def test_ends_are_those_of_the_flow_map():
    batch = tx.sampling.Reflow(FIELD, draw_sources, steps=RK4)(key=jr.key(3))
    expected = tx.sampling.few_step(EXACT, batch.x0)
    assert batch.args is None
    assert jnp.allclose(batch.x1, expected, atol=1e-6)


def test_conditions_travel_with_their_sources():
    def field(t, x, label):
        return jnp.where(label == 1, 3.0, 0.0) * jnp.ones_like(x)

    def draw(*, key):
        return jr.normal(key, (4, 2)), jnp.array([0, 1, 1, 0])

    batch = tx.sampling.Reflow(field, draw, steps=2)(key=jr.key(4))
    moved = batch.x1 - batch.x0
    assert jnp.allclose(moved, jnp.array([0.0, 3.0, 3.0, 0.0])[:, None] * jnp.ones((1, 2)))
    assert batch.args.tolist() == [0, 1, 1, 0]


def test_a_failed_trajectory_is_a_loss_that_is_not_a_number():
    batch = tx.sampling.Reflow(lambda t, x, args: 1 / x, lambda *, key: (jnp.zeros((2, 2)), None))(
        key=jr.key(5)
    )
    path = tx.interpolants.Linear()
    loss = tx.losses.flow_matching(FIELD, path, batch.x1, batch.x1, key=jr.key(6))
    assert jnp.isnan(loss)


def test_a_second_training_learns_the_map_of_the_first_in_one_step():
    """Lines between pairs of the Gaussian flow do not cross: one Euler step is exact."""

    def loss(field, batch, *, key):
        return tx.losses.flow_matching(field, tx.interpolants.Linear(), *batch, key=key)

    optimizer = optax.adam(optax.cosine_decay_schedule(0.1, 600))
    state = tx.training.init(Affine(jnp.zeros((6, 2, 2)), jnp.zeros((6, 2))), optimizer)
    step = tx.training.make_step(loss, optimizer, average_decay=0.0)
    reflow = tx.sampling.Reflow(FIELD, draw_sources, steps=RK4)
    # Optax mixes dtypes inside.
    with jax.numpy_dtype_promotion("standard"):
        state, losses = tx.training.fit(state, step, reflow, num_steps=600, key=jr.key(7))
    x0, _ = draw_sources(key=jr.key(8))
    wanted = tx.sampling.few_step(EXACT, x0)
    one = tx.sampling.flow(state.field, x0, steps=1)
    first = tx.sampling.flow(FIELD, x0, steps=1)
    spread = jnp.std(wanted)
    assert jnp.sqrt(jnp.mean((one - wanted) ** 2)) < 0.05 * spread
    assert jnp.sqrt(jnp.mean((first - wanted) ** 2)) > 0.3 * spread
    assert losses[-1] < 0.02 * losses[0]


def test_sources_without_conditions_are_asked_for_as_a_pair():
    def unpaired(*, key) -> Any:
        return jnp.zeros((2, 2))

    reflow = tx.sampling.Reflow(FIELD, unpaired)
    with pytest.raises(ValueError, match=r"`draw_sources` returns .*; return a pair \(x0, args\)"):
        reflow(key=jr.key(9))
