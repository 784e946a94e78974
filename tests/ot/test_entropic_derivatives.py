"""Derivatives through entropic transport: implicit, unrolled and finite differences agree."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import transportx as tx
from tests.helpers import check_derivatives

N, M = 6, 4
KEYS = jr.split(jr.key(0), 5)
CLOUDS = 0.7 * jr.normal(KEYS[0], (N, 2)), 0.3 + 0.7 * jr.normal(KEYS[1], (M, 2))
WEIGHTS = jr.uniform(KEYS[2], (N,), minval=0.5), jr.uniform(KEYS[3], (M,), minval=0.5)
VECTOR = jr.normal(KEYS[4], (M,))
NUMBERS = jnp.array(0.4), jnp.array(1.3), jnp.array(0.7)
ARGUMENTS = *CLOUDS, *WEIGHTS, *NUMBERS


def weights(a, b, *, balanced):
    """Weights with one zero each; normalised where the masses must agree."""
    a, b = a.at[2].set(0), b.at[1].set(0)
    return (a / jnp.sum(a), b / jnp.sum(b)) if balanced else (a, b)


def solve(x, y, a, b, epsilon, rho_a, rho_b, *, balanced, tile):
    a, b = weights(a, b, balanced=balanced)
    penalties = {} if balanced else {"rho_a": rho_a, "rho_b": rho_b}
    geometry = tx.geometry.PointCloud(x, y, tile=tile)
    solver = tx.ot.Newton(tol=1e-12)
    return tx.ot.solve(geometry, a, b, epsilon=epsilon, solver=solver, **penalties)


def outputs(plan):
    """Everything that users differentiate."""
    return (
        plan.value,
        plan.f,
        plan.g,
        plan @ VECTOR,
        plan.transport_cost,
        plan.barycentric_map(),
        plan.map(CLOUDS[0][:2] + 0.1),
    )


kinds = pytest.mark.parametrize("balanced", [True, False])
mostly_loose = pytest.mark.parametrize(
    "balanced", [pytest.param(True, marks=pytest.mark.long), False]
)
tiles = pytest.mark.parametrize("tile", [None, 2])


@pytest.mark.slow
@kinds
@tiles
def test_every_output_differentiates_in_every_input(balanced, tile):
    check_derivatives(
        lambda *args: outputs(solve(*args, balanced=balanced, tile=tile)), *ARGUMENTS, step=2e-5
    )


@pytest.mark.slow
@mostly_loose
def test_second_derivatives_are_differences_of_first_ones(balanced):
    def value_and_image(*args):
        plan = solve(*args, balanced=balanced, tile=None)
        return plan.value, plan @ VECTOR

    check_derivatives(value_and_image, *ARGUMENTS, order=2, step=2e-5)


@pytest.mark.slow
def test_second_derivatives_of_a_streamed_value_are_those_of_the_dense_one():
    direction = jax.tree.map(jnp.cos, ARGUMENTS)

    @functools.partial(jax.jit, static_argnums=0)
    def product(tile):
        def value(*args):
            return solve(*args, balanced=False, tile=tile).value

        gradient = jax.grad(value, argnums=tuple(range(7)))
        return jax.jvp(gradient, ARGUMENTS, direction)[1]

    for one, other in zip(product(2), product(None), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-8)


def unrolled(x, y, a, b, epsilon, rho_a, rho_b, *, balanced):
    """Value and image of a vector by 400 plain log-domain steps, differentiated as they are."""
    a, b = weights(a, b, balanced=balanced)
    costs = jnp.sum((x[:, None, :] - y[None, :, :]) ** 2, axis=2)
    tau_a = 1.0 if balanced else rho_a / (rho_a + epsilon)
    tau_b = 1.0 if balanced else rho_b / (rho_b + epsilon)

    def step(g, _):
        f = (
            -tau_a
            * epsilon
            * jax.nn.logsumexp((g[None, :] - costs) / epsilon, axis=1, b=b[None, :])
        )
        g = (
            -tau_b
            * epsilon
            * jax.nn.logsumexp((f[:, None] - costs).T / epsilon, axis=1, b=a[None, :])
        )
        return g, f

    g, f = jax.lax.scan(step, jnp.zeros_like(b), length=400)
    plan = a[:, None] * b[None, :] * jnp.exp((f[-1][:, None] + g[None, :] - costs) / epsilon)
    gains = a @ f[-1] + b @ g
    if not balanced:
        gains = rho_a * a @ (1 - jnp.exp(-f[-1] / rho_a)) + rho_b * b @ (1 - jnp.exp(-g / rho_b))
    return gains - epsilon * (jnp.sum(plan) - jnp.sum(a) * jnp.sum(b)), plan @ VECTOR


@pytest.mark.slow
@kinds
def test_derivatives_are_those_of_unrolled_iterations(balanced):
    def implicit(*args):
        plan = solve(*args, balanced=balanced, tile=None)
        return plan.value, plan @ VECTOR

    def derivatives(function):
        every = tuple(range(7))
        return jax.jit(
            lambda *args: (
                jax.jacrev(function, argnums=every)(*args),
                jax.jacfwd(function, argnums=every)(*args),
            )
        )(*ARGUMENTS)

    def plain(*args):
        return unrolled(*args, balanced=balanced)

    for one, other in zip(
        jax.tree.leaves(derivatives(implicit)), jax.tree.leaves(derivatives(plain)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-7, atol=1e-8)


@pytest.mark.slow
def test_hessian_of_the_value_is_symmetric_also_in_batches():
    def value(x, epsilon):
        return solve(x, CLOUDS[1], *WEIGHTS, epsilon, *NUMBERS[1:], balanced=True, tile=None).value

    epsilons = jnp.array([0.3, 0.5])
    hessians = jax.jit(jax.vmap(jax.hessian(value), (None, 0)))(CLOUDS[0], epsilons)
    hessians = hessians.reshape(2, 2 * N, 2 * N)
    np.testing.assert_allclose(hessians, jnp.swapaxes(hessians, 1, 2), atol=1e-9)
    alone = jax.jit(jax.hessian(value))(CLOUDS[0], epsilons[1]).reshape(2 * N, 2 * N)
    np.testing.assert_allclose(hessians[1], alone, atol=1e-9)


def test_derivative_in_a_weight_of_zero_is_that_of_growing_it():
    a, b = weights(*WEIGHTS, balanced=False)

    @jax.jit
    def value(a):
        geometry = tx.geometry.PointCloud(*CLOUDS)
        solver = tx.ot.Newton(tol=1e-12)
        return tx.ot.solve(geometry, a, b, epsilon=0.4, rho_a=1.3, rho_b=0.7, solver=solver).value

    grown = (value(a.at[2].set(1e-7)) - value(a)) / 1e-7
    # A one-sided difference errs by its step; rounding over the step is 1e-9.
    np.testing.assert_allclose(jax.jit(jax.grad(value))(a)[2], grown, rtol=1e-5)


def test_derivative_in_the_weights_of_a_balanced_problem_is_the_potential():
    a, b = weights(*WEIGHTS, balanced=True)

    def plan(a, b):
        geometry = tx.geometry.PointCloud(*CLOUDS)
        return tx.ot.solve(geometry, a, b, epsilon=0.4, solver=tx.ot.Newton(tol=1e-12))

    gradient = jax.jit(jax.grad(lambda a: plan(a, b).value))(a)
    solved = jax.jit(plan)(a, b)
    # Up to a constant: only changes of total zero are feasible.
    shift = gradient - solved.f
    np.testing.assert_allclose(shift, shift[0], atol=1e-10)


@pytest.mark.slow
def test_derivatives_short_of_the_optimum_are_finite_and_near():
    def value(x, steps):
        solver = tx.ot.Sinkhorn(tol=1e-12, max_steps=steps)
        plan = tx.ot.solve(tx.geometry.PointCloud(x, CLOUDS[1]), epsilon=0.4, solver=solver)
        return plan.value + jnp.sum(plan @ VECTOR), plan.marginal_error

    (_, error), rough = jax.jit(jax.value_and_grad(value, has_aux=True), static_argnums=1)(
        CLOUDS[0], 6
    )
    fine, _ = jax.jit(jax.grad(value, has_aux=True), static_argnums=1)(CLOUDS[0], 5000)
    assert error > 1e-12
    assert jnp.isfinite(rough).all()
    assert jnp.max(jnp.abs(rough - fine)) < 100 * error


@pytest.mark.slow
@pytest.mark.parametrize("cost", [tx.geometry.PNorm(jnp.array(1.7)), tx.geometry.Cosine()])
def test_parameters_of_a_cost_and_points_under_any_cost_differentiate(cost):
    def image(cost, x):
        geometry = tx.geometry.PointCloud(x, CLOUDS[1], cost)
        plan = tx.ot.solve(geometry, epsilon=0.3, solver=tx.ot.Newton(tol=1e-12))
        return plan.value, plan @ VECTOR

    check_derivatives(image, cost, CLOUDS[0], step=2e-5)


def test_failed_solves_have_gradients_that_are_nan():
    def value(x):
        return tx.ot.solve(tx.geometry.PointCloud(x, CLOUDS[1]), epsilon=0.4).value

    gradient = jax.jit(jax.grad(value))(CLOUDS[0].at[1, 0].set(jnp.nan))
    assert jnp.isnan(gradient).any()
