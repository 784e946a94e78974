"""Losses of flow maps: parts, weights, guidance, laws of pairs, halves, and bad input."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.stats

import transportx as tx
from tests.losses.flow_map_cases import (
    LINEAR,
    LOSSES,
    NETWORK,
    STARTS,
    STOPS,
    TRUTH,
    X0,
    X1,
    equal_times,
    every_loss,
    every_name,
    family,
    fixed_pairs,
    teacher,
    total_rate,
)

NO_FORM: Any = "newton"


def mean_flow(times=fixed_pairs, **options):
    return tx.losses.mean_flow(NETWORK, LINEAR, X0, X1, key=jr.key(0), times=times, **options)


def squared_errors():
    x, v = (1 - STARTS[:, None]) * X0 + STARTS[:, None] * X1, X1 - X0
    rates = jax.vmap(total_rate)(STARTS, STOPS, x, v)
    errors = jax.vmap(NETWORK)(STARTS, STOPS, x) - v - rates
    return (np.mean(np.asarray(array) ** 2, 1) for array in (errors, rates, v))


def test_parts_add_up_and_show_the_size_of_the_derivative():
    errors, rates, velocities = squared_errors()
    parts = tx.losses.mean_flow_parts(NETWORK, LINEAR, X0, X1, key=jr.key(0), times=fixed_pairs)
    expected = {
        "loss": np.mean(errors),
        "equal": errors[3] / 4,
        "apart": np.sum(errors[:3]) / 4,
        "equal_fraction": 0.25,
        "derivative_fraction": np.sum(rates[:3]) / np.sum((rates + velocities)[:3]),
        "derivative_size": np.sqrt(np.mean(rates[:3])),
        "largest_derivative": np.sqrt(np.max(rates)),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(parts, name), value, rtol=1e-12, err_msg=name)
    np.testing.assert_allclose(mean_flow(), parts.loss, rtol=1e-14)


def test_adaptive_and_given_weights_multiply_each_example():
    errors, _, _ = squared_errors()
    expected = np.mean(errors / (errors + 1e-3) ** 0.7)
    np.testing.assert_allclose(mean_flow(adaptive=0.7), expected, rtol=1e-12)
    weighted = np.mean(errors * np.asarray(STOPS + 2 * STARTS))
    found = mean_flow(weight=lambda s, t: t + 2 * s)
    np.testing.assert_allclose(found, weighted, rtol=1e-12)
    assert jnp.isnan(jax.jit(lambda p: mean_flow(adaptive=p))(-1.0))


def test_guidance_pushes_the_velocity_to_the_label_and_leaves_null_labels():
    def u(s, t, x, label):
        return jnp.where(label == 3, 0.2, 0.5) * x

    labels = jnp.array([0, 3, 1, 3])
    guided = tx.losses.GuidedPathVelocity(2.5, 3)
    found = tx.losses.mean_flow(
        u, LINEAR, X0, X1, labels, key=jr.key(0), times=equal_times, velocity=guided
    )
    x, v = (1 - STARTS[:, None]) * X0 + STARTS[:, None] * X1, X1 - X0
    pushed = 0.2 * x + 2.5 * (v - 0.2 * x)
    null = np.asarray(labels == 3)[:, None]
    expected = np.mean((np.where(null, 0.2, 0.5) * x - np.where(null, v, pushed)) ** 2)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_pairs_of_times_are_ordered_draws_of_one_law():
    law = tx.losses.TimePairs(tx.losses.BetaTimes(2.0, 1.0), 0.4)
    s, t = (np.asarray(time) for time in law(20_000, jnp.float64, key=jr.key(7)))
    assert np.all(s <= t)
    equal = s == t
    # Four standard errors of a proportion.
    assert abs(np.mean(equal) - 0.4) < 4 * np.sqrt(0.24 / 20_000)
    for times in (s[equal], np.concatenate([s[~equal], t[~equal]])):
        assert scipy.stats.kstest(times, "beta", (2, 1)).pvalue > 0.01
    traced = jax.jit(lambda p: tx.losses.TimePairs(equal_fraction=p)(3, jnp.float64, key=jr.key(0)))
    assert jnp.all(jnp.isnan(jnp.stack(traced(1.5))))


@pytest.mark.parametrize("name", ["mean_flow", "consistency", "lagrangian", "semigroup"])
def test_losses_of_halves_and_of_mixed_dtypes(name):
    """Halves: those of float32, rounded once. A wider network or end promotes."""
    loss, times = LOSSES[name]
    u = family(TRUTH.astype(jnp.float32) + 0.1)

    @jax.jit
    def of(x0, x1):
        with jax.numpy_dtype_promotion("standard"):
            return loss(u, LINEAR, x0, x1, key=jr.key(0), times=times)

    narrow = X0.astype(jnp.bfloat16), X1.astype(jnp.bfloat16)
    found, wide = of(*narrow), of(*(x.astype(jnp.float32) for x in narrow))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), wide, rtol=0.01)
    assert of(X0.astype(jnp.float32), X1).dtype == jnp.float64


@every_loss
def test_bad_values_are_nan_and_never_a_plausible_loss(loss, times):
    alone = times is tx.losses.uniform_times
    nan_image = X1.at[0, 0].set(jnp.nan)
    u = family(TRUTH)
    assert jnp.isnan(loss(u, LINEAR, X0, nan_image, key=jr.key(0), times=times))

    def of(s):
        def law(num, dtype, *, key):
            first = jnp.full(num, s, dtype)
            return first if alone else (first, jnp.full(num, 0.6, dtype))

        return loss(u, LINEAR, X0, X1, key=jr.key(0), times=law)

    bad = (1.5, -0.1, jnp.nan) if alone else (0.7, -0.1, jnp.nan)
    traced = jax.jit(of)
    assert jnp.isfinite(traced(0.5))
    assert all(jnp.isnan(traced(s)) for s in bad)


def one_time(t, x, args=None):
    return x


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"u": one_time}, "`u` has the signature .*; give a flow map `u"),
        ({"u": lambda s, t, x, args: x[:1]}, r"`u` returns shape \(1,\) at a point of shape"),
        ({"x0": X0[:3]}, r"`x1` has shape .*; give shape \(b, \.\.\.\)"),
        ({"x0": X0[:0], "x1": X1[:0]}, "`x0` has shape .*; give at least one example"),
        ({"args": jnp.arange(3)}, "`args` has 3 examples but `x1` has 4"),
    ],
)
@every_name
def test_bad_input_is_named_with_a_cure(name, given, message):
    loss, times = LOSSES[name]
    given = {"u": NETWORK, "path": LINEAR, "x0": X0, "x1": X1, "times": times} | given
    with pytest.raises(ValueError, match=message):
        loss(**given, key=jr.key(0))


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_flow(tx.losses.uniform_times), "`times` returns shape .*; give a law of pai"),
        (
            lambda: mean_flow(lambda num, dtype, *, key: (STARTS[:2], STOPS[:2])),
            r"`times` returns times of shape \(2,\); return one pair for each of 4",
        ),
        (
            lambda: mean_flow(lambda num, dtype, *, key: (STOPS, STARTS)),
            "`s` is .*; give times with 0 <= s <= t <= 1",
        ),
        (lambda: mean_flow(adaptive=-1.0), "`adaptive` is -1.0; give zero or a positive"),
        (lambda: mean_flow(weight=lambda s, t: jnp.ones(2)), "`weight` returns shape"),
        (lambda: mean_flow(velocity=lambda *given: jnp.ones(1)), "`velocity` returns shape"),
        (lambda: tx.losses.TimePairs(equal_fraction=2.0), "`equal_fraction` is 2.0; give a number"),
        (lambda: tx.losses.GuidedPathVelocity(np.inf, 3), "`strength` is inf; give a finite"),
        (
            lambda: tx.losses.flow_map_distillation(
                NETWORK, LINEAR, X0, X1, key=jr.key(0), teacher=lambda t, x, args: x[:1]
            ),
            "`teacher` returns shape",
        ),
        (
            lambda: tx.losses.flow_map_distillation(
                NETWORK, LINEAR, X0, X1, key=jr.key(0), teacher=teacher, form=NO_FORM
            ),
            "`form` is 'newton'; give one of",
        ),
    ],
)
def test_bad_options_are_named_with_a_cure(call, message):
    with pytest.raises(ValueError, match=message):
        call()
