"""Losses of flow maps: the truth is stationary and found, and brackets are held constant."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import transportx as tx
from tests.losses.flow_map_cases import (
    LINEAR,
    LOSSES,
    MEAN,
    NETWORK,
    PARAMETERS,
    STARTS,
    STATIC,
    STOPS,
    TRUTH,
    VARIANCE,
    X0,
    X1,
    equal_times,
    every_loss,
    every_name,
    family,
    fixed_pairs,
    fixed_times,
    teacher,
    total_rate,
)


def draw(key, num):
    first, second = jr.split(key)
    x1 = MEAN[None] + jnp.sqrt(VARIANCE)[None] * jr.normal(second, (num, 2))
    return jr.normal(first, (num, 2)), x1


@every_loss
def test_the_exact_map_is_stationary_in_the_mean(loss, times):
    """Means of 40,000 gradients within four standard errors of zero, and not beside the truth."""
    num = 40_000
    x0, x1 = draw(jr.key(0), num)

    @jax.jit
    def moments(weights):
        def one(x0, x1, key):
            return jax.grad(
                lambda w: loss(family(w), LINEAR, x0[None], x1[None], key=key, times=times)
            )(weights)

        gradients = jax.vmap(one)(x0, x1, jr.split(jr.key(1), num))
        return jnp.mean(gradients, 0), jnp.std(gradients, 0) / np.sqrt(num)

    mean, error = moments(TRUTH)
    assert jnp.all(jnp.abs(mean) <= 4 * error + 1e-12)
    mean, error = moments(TRUTH + jnp.array([0.0, 0.1, 0.0, 0.0, 0.0]))
    assert jnp.abs(mean[1]) > 6 * error[1]


@every_loss
def test_training_from_elsewhere_finds_the_least_loss(loss, times):
    """To 2 % of the least value, or of the first where the least is zero."""
    optimizer = optax.adam(optax.cosine_decay_schedule(0.1, 400))

    def value(weights, key, num):
        batch_key, loss_key = jr.split(key)
        x0, x1 = draw(batch_key, num)
        return loss(family(weights), LINEAR, x0, x1, key=loss_key, times=times)

    @jax.jit
    def trained(weights):
        def step(state, key):
            weights, inner = state
            with jax.numpy_dtype_promotion("standard"):
                updates, inner = optimizer.update(jax.grad(value)(weights, key, 256), inner)
            return (weights + updates, inner), None

        state = weights, optimizer.init(weights)
        (found, _), _ = jax.lax.scan(step, state, jr.split(jr.key(2), 400))
        return jax.lax.map(
            lambda w: value(w, jr.key(3), 20_000), jnp.stack([weights, found, TRUTH])
        )

    first, last, least = trained(jnp.array([0.3, 0.5, 0.2, -0.3, 0.5]))
    scale = least if least > 1e-20 else first
    assert first - least > 0.1 * scale
    assert last - least < 0.02 * scale


def halves(s, t, x):
    first = NETWORK(s, (s + t) / 2, x)
    return (first + NETWORK((s + t) / 2, t, x + (t - s) / 2 * first)) / 2


def arrival(s, t, x):
    value, rate = NETWORK(s, t, x), jax.jacfwd(NETWORK, 1)(s, t, x)
    return teacher(t, x + (t - s) * value) - (t - s) * rate


# What is held constant at (s, t, x, velocity of the path), and whether that velocity is added.
BRACKETS = {
    "mean_flow": (lambda s, t, x, v: total_rate(s, t, x, v), True),
    "improved": (lambda s, t, x, v: total_rate(s, t, x, NETWORK(s, s, x)), True),
    "consistency": (lambda s, t, x, v: total_rate(s, t, x, v), True),
    "shortcut": (lambda s, t, x, v: halves(s, t, x), False),
    "eulerian": (lambda s, t, x, v: teacher(s, x) + total_rate(s, t, x, teacher(s, x)), False),
    "lagrangian": (lambda s, t, x, v: arrival(s, t, x), False),
    "semigroup": (
        lambda s, t, x, v: jnp.where(s == t, teacher(s, x), halves(s, t, x)),
        False,
    ),
}


@every_name
def test_losses_and_their_derivatives_are_those_of_a_regression_on_held_brackets(name):
    """Parameters and both ends, forward and reverse, against differences of what is written out."""
    loss, times = LOSSES[name]
    alone = times is tx.losses.uniform_times
    bracket, added = BRACKETS[name]
    stops = jnp.ones_like(STARTS) if alone else STOPS

    def velocities(x0, x1):
        return (1 - STARTS[:, None]) * x0 + STARTS[:, None] * x1, x1 - x0

    held = jax.jit(jax.vmap(bracket))(STARTS, stops, *velocities(X0, X1))
    # Pairs of equal times learn from data.
    added = (STARTS == stops if name == "shortcut" else jnp.full(4, added))[:, None]

    def written_out(parameters, x0, x1):
        u = eqx.combine(parameters, STATIC)
        x, velocity = velocities(x0, x1)
        wanted = jnp.where(added, velocity, 0)
        wanted = wanted + jnp.where(added & (name == "shortcut"), 0, held)
        return jnp.mean((jax.vmap(u)(STARTS, stops, x) - wanted) ** 2)

    def library(parameters, x0, x1):
        u, law = eqx.combine(parameters, STATIC), fixed_times if alone else fixed_pairs
        return loss(u, LINEAR, x0, x1, key=jr.key(0), times=law)

    point = PARAMETERS, X0, X1
    keys = iter(jr.split(jr.key(6), 20))
    direction = jax.tree.map(lambda leaf: jr.normal(next(keys), leaf.shape), point)

    @jax.jit
    def compared(point):
        value, along = jax.jvp(library, point, direction)
        slopes = jax.grad(library, (0, 1, 2))(*point)
        across = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, slopes, direction)))
        ends = [
            written_out(*jax.tree.map(lambda p, d, e=e: p + e * d, point, direction))
            for e in (-1e-5, 1e-5)
        ]
        return value, written_out(*point), along, across, (ends[1] - ends[0]) / 2e-5

    value, expected, along, across, difference = compared(point)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose([along, across], [difference] * 2, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["mean_flow", "improved", "shortcut"])
def test_at_equal_times_losses_are_flow_matching_with_all_derivatives(name):
    @eqx.filter_jit
    def of(loss, make, times):
        def value(parameters, x0, x1):
            return loss(make(eqx.combine(parameters, STATIC)), LINEAR, x0, x1, times=times)

        return jax.value_and_grad(value, (0, 1, 2))(PARAMETERS, X0, X1)

    matching = functools.partial(tx.losses.flow_matching, key=jr.key(0))
    loss = functools.partial(LOSSES[name][0], key=jr.key(0))
    found = of(loss, lambda u: u, equal_times)
    expected = of(matching, lambda u: lambda t, x, args: u(t, t, x), fixed_times)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)
