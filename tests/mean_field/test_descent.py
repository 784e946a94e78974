"""Descent in jumps, by birth and death, of many neurons, and how trainings fail."""

import functools

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import transportx as tx
import transportx.gradient_flows as gf
import transportx.mean_field as mf
from tests.helpers import quick
from tests.mean_field.networks import KEYS, RISKS, WEIGHTS, M, N, X, check_lost, network, trained
from transportx.evolution import AdaptiveSteps, FixedSteps


@functools.cache
def euler():
    """A program of twenty Euler steps: of weights and a time."""

    def run(weights, t1):
        return mf.train(RISKS["square"], network(weights=weights), t1=t1, steps=20)

    return quick(run)


@functools.cache
def jumping(num_steps, batch_size):
    """A program of SGD: of weights and a key."""

    def run(weights, key):
        batches = mf.MiniBatches(RISKS["square"], batch_size)
        return mf.train(batches, network(weights=weights), t1=1.0, steps=num_steps, key=key)

    return quick(run)


@pytest.mark.slow
def test_sgd_on_full_batches_is_the_euler_flow_and_small_batches_approach_it():
    flow = euler()(WEIGHTS, 1.0)
    assert flow.completed
    full = jumping(20, M)(WEIGHTS, KEYS[3])
    assert full.completed
    for one, other in zip(jax.tree.leaves(full)[:-2], jax.tree.leaves(flow)[:-2], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-13)

    # The noise of batches is of the order of the root of the step.
    ends = [jumping(320, 2)(WEIGHTS, key).final.outer for key in jr.split(KEYS[4], 8)]
    moved = jnp.linalg.norm(flow.final.outer - network().outer)
    strayed = [jnp.linalg.norm(end - flow.final.outer) for end in ends]
    assert max(strayed) < 0.25 * moved
    assert min(strayed) > 1e-3 * moved


def test_resampling_draws_by_weight_and_is_unbiased():
    weights = WEIGHTS.at[2].set(0.0)
    start = network(weights=weights)
    share = (N * weights / jnp.sum(weights))[None, :]

    @quick
    def drawn(key):
        made = start.with_neurons(*gf.resample(*start.measure, key=key))
        same = jnp.all(made.inner[:, None] == start.inner[None], axis=-1)
        return jnp.sum(jnp.where(same, 1.0, 0.0), axis=0), made(X), made.masses

    counts, outputs, masses = jax.vmap(drawn)(jr.split(KEYS[3], 2000))
    assert jnp.all((counts >= jnp.floor(share)) & (counts <= jnp.ceil(share)))
    assert jnp.allclose(masses, jnp.sum(weights) / N, rtol=1e-14)
    error = jnp.mean(outputs, axis=0) - start(X)
    assert jnp.all(jnp.abs(error) < 4.5 * jnp.std(outputs, axis=0) / np.sqrt(2000))


# Teachers.


@pytest.fixture(scope="module")
def taught():
    """A teacher of three neurons, and sixty students, that also react."""
    angles = 2 * jnp.pi * (jnp.arange(3.0) + 0.25) / 3
    directions = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
    teacher = mf.Network(directions, jnp.array([[2.0], [-2.0], [2.0]]), jnp.ones(3))
    x = jr.normal(KEYS[3], (256, 2))
    start = mf.random_network(60, dim=2, scale=0.1, key=KEYS[4])
    risk = mf.Risk(x, teacher(x))
    plain = trained(risk, start, t1=40.0, steps=FixedSteps(2000, diffrax.Heun()))
    reacting = gf.WassersteinFisherRao(reaction=4.0)
    options = {"t1": 40.0, "dynamics": reacting, "steps": FixedSteps(200, diffrax.Heun())}

    @quick
    def run(threshold):
        made = gf.birth_death(risk, *start.measure, threshold=threshold, key=KEYS[5], **options)
        return mf.as_training(start, made)

    return teacher, plain, run(0.0), run(0.5)


@pytest.mark.slow
def test_students_meet_their_teachers(taught):
    teacher, made, _, _ = taught
    assert made.risk[-1] < 1e-4 * made.risk[0]

    @quick
    def describe(students):
        ones = (mf.Network(teacher.inner[i : i + 1], teacher.outer[i : i + 1]) for i in range(3))
        along = jnp.stack([mf.alignment(students, one) for one in ones])
        unseen = jr.normal(KEYS[0], (2000, 2))
        return along, mf.strengths(students), mf.Risk(unseen, teacher(unseen))(*students.measure)

    along, strengths, risk = describe(made.final)
    assert risk < 1e-4 * made.risk[0]
    assert strengths @ jnp.max(along, axis=0) > 0.99 * jnp.sum(strengths)
    # Each teacher is met, by as much as it is itself.
    assert jnp.allclose(jnp.where(along > 0.95, 1.0, 0.0) @ strengths, 2, rtol=0.01)


@pytest.mark.slow
def test_birth_and_death_speed_the_descent_from_far_and_at_the_end(taught):
    _, plain, reacting, drawn = taught
    # Times 4 and 40.
    for record in (1, -1):
        assert reacting.risk[record] < 0.5 * plain.risk[record]
    assert reacting.completed
    assert drawn.completed
    np.testing.assert_allclose(drawn.risk, reacting.risk, rtol=0.05)


def test_draws_keep_the_mass_and_leave_half_of_the_neurons_or_more(taught):
    _, _, reacting, drawn = taught
    masses = drawn.networks.weights
    assert jnp.allclose(jnp.sum(masses, axis=1), 1, rtol=1e-12)
    assert jnp.all(jnp.sum(masses**2, axis=1) <= 1 / 30)
    assert jnp.sum(reacting.final.masses**2) > 1 / 30


# Endings.


ENDINGS = {
    "rose": (tx.Status.ROSE, 8.0),
    "blew_up": (tx.Status.NON_FINITE, 1e30),
    "nan": (tx.Status.NON_FINITE, jnp.nan),
    "negative": (tx.Status.NON_FINITE, -1.0),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_failures_end_in_a_status_and_in_nothing_that_looks_right(name):
    status, factor = ENDINGS[name]
    made = euler()(factor * WEIGHTS, 20.0)
    assert made.status == status
    assert not made.completed
    if name != "rose":
        check_lost(made)


def test_batches_that_blow_up_are_not_finite():
    made = jumping(20, M)(1e30 * WEIGHTS, KEYS[3])
    assert made.status == tx.Status.NON_FINITE
    check_lost(made)


def test_too_few_steps_are_a_status_that_does_not_spoil_the_rest_of_a_batch():
    options = {"t1": 3.0, "steps": AdaptiveSteps(1e-4, 1e-4, max_steps=60)}

    @quick
    @jax.vmap
    def run(factor):
        return mf.train(RISKS["square"], network(weights=factor * WEIGHTS), **options)

    made = run(jnp.array([1.0, 300.0, 0.5]))
    assert made.completed.tolist() == [True, False, True]
    assert jnp.all(jnp.isfinite(made.risk[::2]))
    stopped = jax.tree.map(lambda leaf: leaf[1], made)
    assert stopped.status == tx.Status.MAX_STEPS
    assert jnp.isfinite(stopped.risk[0])
    check_lost(stopped)
