"""The semidiscrete coupling: whom it pairs, and what it does with bad points and failed plans."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import transportx as tx

KEY = jr.key(0)
X1 = jr.normal(jr.key(1), (12, 2, 2))
X0 = jr.normal(jr.key(2), (40, 2, 2))


def images(*, key, num):
    return jr.normal(key, (num, 4))


@pytest.fixture(scope="module")
def plan():
    return tx.ot.semidiscrete(images, X1.reshape(12, 4), key=KEY, tol=0.2)


def test_every_source_point_goes_to_the_data_that_win_it(plan):
    i0, i1 = tx.couplings.SemiDiscrete(plan)(X0, X1, key=KEY)
    costs = np.sum((np.asarray(X0)[:, None] - np.asarray(X1)[None]) ** 2, axis=(2, 3))
    np.testing.assert_array_equal(i0, np.arange(40))
    np.testing.assert_array_equal(i1, np.argmin(costs - np.asarray(plan.g), axis=1))


def test_data_come_as_often_as_they_weigh(plan):
    assert plan.converged
    x0 = images(key=jr.key(3), num=20_000)
    pairs = tx.couplings.SemiDiscrete(plan)(x0, X1.reshape(12, 4), key=KEY)
    assert pairs.converged
    shares = np.bincount(pairs[1], minlength=12) / 20_000
    assert np.sum(np.abs(shares - 1 / 12)) < 0.2


def test_it_is_nearer_than_plans_between_batches(plan):
    """E |x - T(x)|^2 of the laws; a batch of as many points pairs no better on average."""
    x0 = images(key=jr.key(4), num=20_000)
    _, i1 = tx.couplings.SemiDiscrete(plan)(x0, X1.reshape(12, 4), key=KEY)
    found = np.mean(np.sum((x0 - X1.reshape(12, 4)[i1]) ** 2, axis=1))
    batches = x0[:3000].reshape(250, 12, 4)

    def cost(x0):
        pairs = tx.couplings.Assignment()(x0, X1.reshape(12, 4), key=KEY)
        x0, x1 = tx.couplings.take(x0, pairs[0]), tx.couplings.take(X1.reshape(12, 4), pairs[1])
        return jnp.mean(jnp.sum((x0 - x1) ** 2, axis=1))

    assert found < np.mean(jax.lax.map(cost, batches))
    np.testing.assert_allclose(found, plan.value, rtol=0.02)


def test_a_failed_plan_poisons_all_pairs(plan):
    failed = tx.ot.semidiscrete(images, X1.reshape(12, 4), jnp.ones(12), key=KEY, tol=0.2)
    pairs = tx.couplings.SemiDiscrete(failed)(X0, X1, key=KEY)
    assert pairs.status == tx.Status.INFEASIBLE
    assert jnp.all(jnp.isnan(tx.couplings.take(X0, pairs[0])))


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_bad_point_stays_visible(plan, bad):
    x0 = X0.at[3, 1, 0].set(bad)
    i0, _ = tx.couplings.SemiDiscrete(plan)(x0, X1, key=KEY)
    assert not jnp.isfinite(x0[i0]).all()


def test_batches_under_vmap_pair_as_alone(plan):
    coupling = tx.couplings.SemiDiscrete(plan)
    x0 = X0.reshape(2, 20, 2, 2)
    _, found = jax.jit(jax.vmap(lambda x0: coupling(x0, X1, key=KEY)))(x0)
    np.testing.assert_array_equal(found[1], coupling(x0[1], X1, key=KEY)[1])


def test_other_data_are_refused(plan):
    coupling = tx.couplings.SemiDiscrete(plan)
    with pytest.raises(ValueError, match="`x1` has 11 examples"):
        coupling(X0, X1[1:], key=KEY)
    with pytest.raises(ValueError, match="`x1` has examples of shape"):
        coupling(X0, X1[:, 0], key=KEY)
    with pytest.raises(ValueError, match="`x1` has examples of shape"):
        coupling(X0[:, 0], X1[:, 0], key=KEY)
