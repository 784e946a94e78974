"""Fused kernels of TPUs and GPUs, interpreted: against a dense formula and finite differences.

Their compilers accept them: `test_aot.py`. Nothing here says how fast they are.
"""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType

import transportx as tx
from tests.helpers import check_derivatives
from transportx.geometry import _gibbs_sums
from transportx.geometry._fused import log_totals, product

on_each_platform = pytest.mark.parametrize("platform", ["tpu", "cuda"])


def problem(n, m, d, dtype=jnp.float32):
    """Points, exponents of both ends, weights of which the first is zero, columns, factors."""
    keys = jr.split(jr.key(d), 8)
    scale = np.sqrt(2 / d)
    x, y = (scale * jr.normal(key, (size, d)) for key, size in zip(keys, (n, m), strict=False))
    s, t = jr.normal(keys[2], (n,)), jr.normal(keys[3], (m,))
    b = jax.nn.softmax(jr.normal(keys[4], (m,))).at[0].set(0)
    r, u, v = jr.normal(keys[5], (m, 5)), jr.normal(keys[6], (n, 3)), jr.normal(keys[7], (m, 3))
    return tuple(array.astype(dtype) for array in (x, y, s, t, b, r, u, v))


def exponents(x, y, t):
    return t[None, :] - jnp.sum((x[:, None, :] - y[None, :, :]) ** 2, axis=-1)


def dense_log_totals(x, y, t, b):
    terms = exponents(x, y, t)
    peak = jax.lax.stop_gradient(jnp.max(terms, axis=1))
    return peak + jnp.log(jnp.matmul(jnp.exp(terms - peak[:, None]), b, precision="highest"))


def dense_product(x, y, s, t, r, *factors):
    entries = jnp.exp(s[:, None] + exponents(x, y, t))
    if factors:
        u, v = factors
        entries = entries * jnp.matmul(u, v.T, precision="highest")
    return jnp.matmul(entries, r, precision="highest")


def assert_close(one, other, tol):
    """Arrays of two trees agree, relative to the greatest number of each."""
    for got, expected in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=tol * np.max(np.abs(expected)))


# Sizes that no tile divides: one tile of each, and several.
@on_each_platform
@pytest.mark.parametrize(("n", "m", "d"), [(5, 3, 1), (130, 600, 3), (70, 133, 64), (3, 66, 512)])
def test_interpreted_kernels_agree_with_tiles_of_xla(platform, n, m, d):
    x, y, s, t, b, r, u, v = problem(n, m, d)

    @functools.partial(jax.jit, static_argnums=0)
    def answers(platform):
        how = {"platform": platform, "interpreted": platform is not None}
        times = functools.partial(product, x, y, s, t, **how)
        return log_totals(x, y, t, b, **how), times(b[:, None]), times(r), times(r, u, v)

    assert_close(answers(platform), answers(None), 1e-5)


@on_each_platform
def test_gradients_by_interpreted_kernels_are_those_of_the_dense_formula(platform):
    x, y, s, t, b, r, *_ = problem(70, 33, 20)

    @functools.partial(jax.jit, static_argnums=0)
    @functools.partial(jax.grad, argnums=(1, 2, 3, 4, 5, 6))
    def gradients(functions, x, y, s, t, b, r):
        totals, times = functions
        return jnp.sum(jnp.sin(totals(x, y, t, b))) + jnp.sum(jnp.sin(times(x, y, s, t, r)))

    fused = (
        lambda *args: log_totals(*args, platform, True),
        lambda *args: product(*args, platform=platform, interpreted=True),
    )
    arguments = x, y, s, t, b, r
    dense = gradients((dense_log_totals, dense_product), *arguments)
    assert_close(gradients(fused, *arguments), dense, 1e-5)


def test_rules_of_derivatives_are_finite_differences():
    x, y, s, t, b, r, *_ = problem(4, 3, 2, jnp.float64)
    check_derivatives(log_totals, x, y, t, b, order=2, tol=1e-5)
    check_derivatives(product, x, y, s, t, r, order=2, tol=1e-5)


def test_batched_gradients_are_those_of_each_problem():
    x, y, _, t, b, *_ = problem(4, 3, 2, jnp.float64)
    ends = jnp.stack([t, 2 * t])

    def batched(function):
        def total(x, ends):
            return jnp.sum(jnp.sin(jax.vmap(lambda t: function(x, y, t, b))(ends)))

        each = jax.vmap(jax.grad(lambda t, x: jnp.sum(function(x, y, t, b))), (0, None))
        return jax.jit(jax.grad(total, argnums=(0, 1)))(x, ends), jax.jit(each)(ends, x)

    assert_close(batched(log_totals), batched(dense_log_totals), 1e-12)


@on_each_platform
def test_a_nan_is_not_lost_and_no_weight_makes_one(platform):
    x, y, s, t, b, *_ = problem(4, 3, 20)

    @jax.jit
    def answers(x, b):
        entries = product(x, y, s, t, b[:, None], platform=platform, interpreted=True)
        return log_totals(x, y, t, b, platform, True), entries[:, 0]

    for spoilt in answers(x.at[1, 2].set(jnp.nan), b):
        np.testing.assert_array_equal(jnp.isnan(spoilt), [False, True, False, False])
    totals, sums = answers(x, 0 * b)
    np.testing.assert_array_equal(totals, np.full(4, -np.inf))
    np.testing.assert_array_equal(sums, np.zeros(4))


# What chooses them


def cloud(x, y):
    return tx.geometry.PointCloud(x, y, tile=2)


def euclidean(x, y):
    return tx.geometry.PointCloud(x, y, tx.geometry.Euclidean(), tile=2)


def answers(geometry, a, b, f, g, epsilon):
    """A soft c-transform and products in both directions."""
    problem = tx.ot.Problem(geometry, a, b, epsilon, 0 * epsilon, 0 * epsilon)
    kernel = problem.kernel(f, g)
    return problem.update_f(g), kernel @ b, kernel.T @ a, kernel @ geometry.y


def lowered(platform, dtype=jnp.float32, of=cloud):
    """The program of `answers` and its gradient that one device of the platform would run."""
    x, y, s, t, b, *_ = problem(7, 5, 3, dtype)

    def loss(x, y, b, epsilon):
        parts = answers(of(x, y), jnp.ones_like(s) / 7, b, s, t, epsilon)
        return sum(jnp.sum(jnp.sin(part)) for part in parts)

    gpu = jax.sharding.AbstractDevice("NVIDIA H100", None, "gpu")
    mesh = AbstractMesh((1,), ("of_one",), axis_types=(AxisType.Auto,), abstract_device=gpu)
    # The newest JAX asks for what GPU it lowers, where there is none.
    with jax.sharding.use_abstract_mesh(mesh):
        step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))
        traced = step.trace(x, y, b, dtype(0.3))
        return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize(
    ("platform", "call"), [("tpu", "tpu_custom_call"), ("cuda", "xla.gpu.triton")]
)
def test_platforms_run_their_kernels_and_no_tiles(platform, call):
    program = lowered(platform)
    # Four products and at least one more for the derivatives of each.
    assert program.count(call) >= 8
    assert "stablehlo.while" not in program


@pytest.mark.parametrize(
    "options",
    [
        {"platform": "cpu"},
        {
            "platform": "tpu",
            "of": euclidean,
        },
        {"platform": "tpu", "of": tx.geometry.PointCloud},
        {"platform": "cuda", "dtype": jnp.float64},
    ],
)
def test_all_else_is_left_to_tiles(options):
    assert "custom_call @tpu" not in (program := lowered(**options))
    assert "triton" not in program


def test_kernels_answer_as_tiles_do(monkeypatch):
    x, y, s, t, b, *_ = problem(7, 5, 3, jnp.float64)
    a = jnp.ones(7) / 7
    arguments = x, y, a, b, s, t, jnp.array(0.3)

    def values_and_gradients(x, y, *rest):
        def loss(x, y, *rest):
            parts = answers(cloud(x, y), *rest)
            return sum(jnp.sum(jnp.sin(part)) for part in parts), parts

        return jax.value_and_grad(loss, argnums=tuple(range(7)), has_aux=True)(x, y, *rest)

    expected = jax.jit(values_and_gradients)(*arguments)
    # As if every platform had kernels: their derivatives, with sums by XLA.
    monkeypatch.setattr(_gibbs_sums, "_choose", lambda fused, _, *operands: fused(None, *operands))
    got = jax.jit(lambda *args: values_and_gradients(*args))(*arguments)
    assert_close(got, expected, 1e-11)
