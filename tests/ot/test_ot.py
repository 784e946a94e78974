"""Transport between weighted sets: against scipy, POT, brute force and differences."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import ot
import pytest

import transportx as tx
from tests.helpers import check_derivatives

Status = tx.Status


def as_numpy(*arrays) -> Any:
    return tuple(np.asarray(array) for array in arrays)


# The line


def distance_of_pot(x, y, a=None, b=None, p=2):
    """W_p by a linear program on the cost matrix."""
    x, y = as_numpy(x, y)
    a = np.full(len(x), 1 / len(x)) if a is None else np.asarray(a) / np.sum(np.asarray(a))
    b = np.full(len(y), 1 / len(y)) if b is None else np.asarray(b) / np.sum(np.asarray(b))
    value: Any = ot.emd2(a, b, np.abs(x[:, None] - y[None, :]) ** p)
    return value ** (1 / p)


def line(n=6, m=9, seed=0):
    keys = jr.split(jr.key(seed), 4)
    return (
        jr.normal(keys[0], (n,)),
        1 + jr.normal(keys[1], (m,)),
        jr.uniform(keys[2], (n,)),
        jr.uniform(keys[3], (m,)),
    )


@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("sizes", [(6, 9), (6, 6), (1, 5)])
def test_wasserstein_of_the_line_is_the_linear_program(p, weighted, sizes):
    arguments = line(*sizes)[: 4 if weighted else 2]
    np.testing.assert_allclose(
        tx.ot.wasserstein_1d(*arguments, p=p), distance_of_pot(*arguments, p=p), rtol=1e-10
    )


@pytest.mark.parametrize("where", [0, 4, 8])
def test_points_of_weight_zero_change_nothing_however_far(where):
    x, y, a, b = line()
    y = jnp.sort(y)
    with_zero = tx.ot.wasserstein_1d(x, y.at[where].set(1e12), a, b.at[where].set(0))
    rest = np.delete(np.arange(9), where)
    np.testing.assert_allclose(with_zero, distance_of_pot(x, y[rest], a, b[rest]), rtol=1e-10)


def test_rounding_gives_no_mass_to_a_last_point_of_weight_zero():
    # Sums of these weights miss one by rounding in many of the draws.
    weights = jr.uniform(jr.key(0), (200, 5)).at[:, -1].set(0)
    x = jnp.array([0.0, 1.0, 2.0, 3.0, 1e12])
    distances = jax.jit(jax.vmap(lambda w: tx.ot.wasserstein_1d(x, x[:4], w, w[:4])))(weights)
    # The two sums may differ by one rounding, 1e-16, of points a distance 1 apart.
    assert jnp.max(distances) < 1e-7


@pytest.mark.parametrize("p", [1, 2, 3.0])
def test_wasserstein_of_the_line_differentiates_in_points_and_weights(p):
    # Weights move in any direction: totals vary, and are normalised.
    arguments = line()
    check_derivatives(lambda *args: tx.ot.wasserstein_1d(*args, p=p), *arguments, step=1e-6)


def test_derivative_in_a_weight_of_zero_is_that_of_growing_it():
    x, y, a, b = line()
    a = a.at[2].set(0)
    grown = jnp.zeros(6).at[2].set(1e-7)
    difference = tx.ot.wasserstein_1d(x, y, a + grown, b) - tx.ot.wasserstein_1d(x, y, a, b)
    gradient = jax.grad(tx.ot.wasserstein_1d, argnums=2)(x, y, a, b)
    # A one-sided difference errs by its step; rounding over the step is 1e-9.
    np.testing.assert_allclose(gradient[2], difference / 1e-7, rtol=1e-5)


def test_gradient_of_wasserstein_of_the_line_is_zero_at_distance_zero():
    x, _, a, _ = line()
    for weights in ((), (a, a)):
        gradient = jax.grad(tx.ot.wasserstein_1d)(x, x, *weights)
        np.testing.assert_array_equal(gradient, 0)


def test_wasserstein_of_the_line_batches_and_keeps_float32():
    x, y, a, b = (jnp.stack(parts) for parts in zip(line(), line(seed=1), strict=True))
    loop = [tx.ot.wasserstein_1d(*case) for case in zip(x, y, a, b, strict=True)]
    batch = jax.jit(jax.vmap(tx.ot.wasserstein_1d))
    np.testing.assert_allclose(batch(x, y, a, b), jnp.stack(loop), rtol=1e-13)
    single = batch(*(part.astype(jnp.float32) for part in (x, y, a, b)))
    assert single.dtype == jnp.float32
    # Ten roundings of 6e-8 in the cumulative weights.
    np.testing.assert_allclose(single, jnp.stack(loop), rtol=1e-5)


def test_weights_that_are_no_measure_give_nan():
    x, y, a, b = line()
    for bad in (a.at[2].set(-0.1), jnp.zeros_like(a), a.at[0].set(jnp.nan)):
        assert jnp.isnan(tx.ot.wasserstein_1d(x, y, bad, b))
        assert jnp.isnan(tx.ot.wasserstein_1d(y, x, b, bad))
    assert jnp.isnan(tx.ot.wasserstein_1d(x.at[1].set(jnp.nan), y))


def singles(*numbers):
    return jnp.array(numbers, jnp.float32)


@pytest.mark.parametrize("p", [1, 2, 25, 1e4, np.inf])
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 6e36])
def test_no_power_of_a_distance_overflows_or_vanishes(p, scale):
    # A quarter of the mass moves by 50, the rest stays.
    x, y = scale * singles(0, 1, 2, 54), scale * singles(0, 1, 2, 4)
    distance, slopes = jax.value_and_grad(tx.ot.wasserstein_1d)(x, y, p=p)
    np.testing.assert_allclose(distance, 50 * scale * 0.25 ** (1 / p), rtol=1e-6)
    np.testing.assert_allclose(slopes, [0, 0, 0, 0.25 ** (1 / p)], rtol=1e-6)
    clouds = (scale * jnp.eye(3, dtype=jnp.float32), scale * jnp.ones((5, 3), jnp.float32))
    sliced = tx.ot.sliced_wasserstein(*clouds, key=KEY, num_projections=3, p=p)
    # Directions differ with the dtype: no line sees more than the points are apart.
    assert 0.1 * scale < sliced < 2.1 * scale


def test_infinity_of_weight_zero_changes_nothing_and_with_mass_is_infinitely_far():
    x, y, weights = singles(0, 1, jnp.inf), singles(0, 2), singles(1, 1, 0)
    for p in (2, np.inf):
        # Half of the mass moves by one.
        expected = 0.5 ** (1 / p)
        for far in (jnp.inf, jnp.nan):
            distance = tx.ot.wasserstein_1d(x.at[2].set(far), y, weights, p=p)
            np.testing.assert_allclose(distance, expected, rtol=1e-6)
        assert tx.ot.wasserstein_1d(x, y, p=p) == jnp.inf
        for bad in (singles(1, -1, 0), singles(jnp.nan, 1, 0), singles(jnp.inf, 1, 0)):
            assert jnp.isnan(tx.ot.wasserstein_1d(x, y, bad, p=p))
    slopes = jax.grad(tx.ot.wasserstein_1d, argnums=(0, 2))(x, y, weights)
    for slope in slopes:
        assert jnp.isfinite(slope).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_masses_over_twenty_decades_count_at_either_end(sign):
    x, y = sign * singles(1, 0, 1e9), sign * singles(0, 2, 1)
    a, b = 1e-20 * singles(2, 1, 1e-15), 1e20 * singles(1, 1e-15, 2)
    # 1e-15 of the mass moves by a billion, to where as much is asked.
    expected = np.sqrt(1e-15 / 3) * (1e9 - 2)
    np.testing.assert_allclose(tx.ot.wasserstein_1d(x, y, a, b), expected, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "size"), [(jnp.bfloat16, 3000), (jnp.float16, 70_000)])
def test_levels_of_halves_are_counted_in_float32(dtype, size):
    x, y = jr.normal(jr.key(0), (size,)), 1 + 1.3 * jr.normal(jr.key(1), (size + 7,))
    x, y = x.astype(dtype), y.astype(dtype)
    distance = tx.ot.wasserstein_1d(x, y)
    assert distance.dtype == dtype
    # The quantile functions, on a grid much finer than their steps.
    levels = (np.arange(1_000_000) + 0.5) / 1_000_000
    quantiles = (np.sort(np.asarray(z, np.float64))[(levels * z.size).astype(int)] for z in (x, y))
    expected = np.sqrt(np.mean(np.subtract(*quantiles) ** 2))
    # A unit in the last place of the answer, and the grid's steps.
    rtol = float(jnp.finfo(dtype).eps) + 1e-3
    np.testing.assert_allclose(distance.astype(jnp.float64), expected, rtol=rtol)


@pytest.mark.parametrize("p", [1, 2])
def test_sliced_wasserstein_of_the_line_is_that_of_the_line(p):
    x, y, *_ = line()
    sliced = tx.ot.sliced_wasserstein(x[:, None], y[:, None], key=jr.key(0), num_projections=4, p=p)
    np.testing.assert_allclose(sliced, distance_of_pot(x, y, p=p), rtol=1e-10)


def test_sliced_wasserstein_of_a_translation_is_its_length_over_the_root_of_the_dimension():
    x = jr.normal(jr.key(0), (30, 3))
    shift = jnp.array([[1.0, -2.0, 2.0]])
    sliced = tx.ot.sliced_wasserstein(x, x + shift, key=jr.key(1), num_projections=4000)
    # <theta, shift>^2 has mean 9/3 and deviation 9 sqrt(4/45): five standard errors.
    np.testing.assert_allclose(sliced**2, 3, atol=5 * 9 * np.sqrt(4 / 45 / 4000))


def test_sliced_wasserstein_agrees_with_pot_up_to_projections():
    x, y = jr.normal(jr.key(0), (40, 3)), 2 * jr.normal(jr.key(1), (25, 3)) + 0.5
    ours = tx.ot.sliced_wasserstein(x, y, key=jr.key(2), num_projections=2000)
    theirs: Any = ot.sliced_wasserstein_distance(*as_numpy(x, y), n_projections=2000, seed=0)
    # Each average of squares has a relative error of about 1/sqrt(2000), 2%.
    np.testing.assert_allclose(ours, theirs, rtol=0.05)


def test_sliced_wasserstein_differentiates_also_at_distance_zero():
    x, y = jr.normal(jr.key(0), (5, 2)), jr.normal(jr.key(1), (6, 2))

    def sliced(x, y):
        return tx.ot.sliced_wasserstein(x, y, key=jr.key(2), num_projections=5)

    check_derivatives(sliced, x, y, step=1e-6)
    np.testing.assert_array_equal(jax.grad(sliced)(x, x), 0)


# Refusals


V = jnp.ones(3)
KEY = jr.key(0)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tx.ot.assignment(jnp.zeros((3, 4))), "`cost` .*; give"),
        (lambda: tx.ot.assignment(jnp.zeros(3)), "`cost` .*; give"),
        (lambda: tx.ot.assignment(jnp.zeros((0, 0))), "`cost` .*; give"),
        (lambda: tx.ot.assignment(jnp.zeros((3, 3), jnp.int32)), "`cost` has dtype.*convert"),
        (lambda: tx.ot.wasserstein_1d(V, V, p=0.5), "`p` is 0.5.*at least 1"),
        (
            lambda: tx.ot.wasserstein_1d(V, V, p=float("nan")),
            "`p` is nan; give an integer or a number",
        ),
        (lambda: tx.ot.wasserstein_1d(V[:, None], V), r"`x` has shape .*; give shape \(n,\)"),
        (
            lambda: tx.ot.wasserstein_1d(V, V[:0]),
            r"`y` has shape .*; give at least one example, shape \(m,\)",
        ),
        (lambda: tx.ot.wasserstein_1d(jnp.arange(3), V), "`x` has dtype.*convert"),
        (lambda: tx.ot.wasserstein_1d(V, V, jnp.ones(2)), r"`a` has shape .*; give shape \(n,\)"),
        (
            lambda: tx.ot.wasserstein_1d(V, V, None, jnp.ones(2)),
            r"`b` has shape .*; give shape \(m,\)",
        ),
        (lambda: tx.ot.wasserstein_1d(V, V, jnp.arange(3)), "`a` has dtype.*convert"),
        (
            lambda: tx.ot.sliced_wasserstein(V[:, None], jnp.ones((3, 2)), key=KEY),
            r"`y` has shape .*; give shape \(m, d\)",
        ),
        (lambda: tx.ot.sliced_wasserstein(V, V, key=KEY), r"`x`.*shape \(n, d\)"),
        (
            lambda: tx.ot.sliced_wasserstein(V[:, None], V[:, None], key=KEY, num_projections=0),
            "`num_projections` is 0.*at least 1",
        ),
        (
            lambda: tx.ot.sliced_wasserstein(V[:, None], V[:, None], key=KEY, p=0.9),
            "`p` is 0.9.*at least 1",
        ),
    ],
)
def test_bad_input_is_refused_with_its_cure(call, message):
    with pytest.raises(ValueError, match=message):
        call()
