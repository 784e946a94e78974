"""Derivatives of the optimum: of its value by the envelope theorem, of potentials implicitly."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transportx.geometry import internal
from transportx.geometry.internal import Sum, capped_exp
from transportx.ot._conjugate_gradient import conjugate_gradient
from transportx.ot._problem import Potentials, Problem, gain

Scalar = Float[Array, ""]

_MOST_STEPS = 2000


@jax.custom_jvp
def dual_value(problem: Problem, f: Float[Array, " n"], g: Float[Array, " m"]) -> Scalar:
    """Dual objective at optimal potentials, with the derivative of the optimum.

    At the optimum the objective does not change with the potentials, so their derivatives
    are left out: no linear solve. They count in the second derivative, which JAX takes of
    the rule below.
    """
    return _objective(problem, f, g)


@dual_value.defjvp
def _dual_value_jvp(primals, tangents):
    problem, f, g = primals
    _, tangent = jax.jvp(lambda p: _objective(p, f, g), (problem,), tangents[:1])
    return dual_value(problem, f, g), tangent


def _objective(problem: Problem, f: Float[Array, " n"], g: Float[Array, " m"]) -> Scalar:
    a, b = problem.a, problem.b
    gains = jnp.sum(a * gain(f, problem.loose_a)) + jnp.sum(b * gain(g, problem.loose_b))

    def by_product(problem, f, g):
        return jnp.sum(problem.a * (problem.kernel(f, g) @ problem.b)) - jnp.sum(a) * jnp.sum(b)

    def by_excess(problem, f, g):
        part = eqx.Partial(_row_excesses, problem.epsilon)
        excesses = problem.geometry.fold_tiles(Sum(), part, (problem.b, g), f)
        return jnp.sum(problem.a * excesses)

    if not internal.may_fuse(problem.geometry, f, g, problem.epsilon, problem.b):
        return gains - problem.epsilon * by_excess(problem, f, g)
    # Fused kernels take products. Times a large epsilon their rounding would count.
    size = jnp.sum(a * jnp.abs(f)) / jnp.sum(a) + jnp.sum(b * jnp.abs(g)) / jnp.sum(b)
    large = jax.lax.stop_gradient(problem.epsilon > size)
    return gains - problem.epsilon * jax.lax.cond(large, by_excess, by_product, problem, f, g)


def _row_excesses(epsilon, columns, costs, f):
    """Masses of rows of the plan over their weight, less those of the product a x b."""
    b, g = columns
    exponents = internal.exponents(costs, f[:, None] + g[None, :], epsilon)
    return jnp.sum(b[None, :] * _expm1(exponents), axis=1)


def _expm1(x: Array) -> Array:
    """exp(x) - 1, by its series where that is small: several times faster than `jnp.expm1`."""
    small = jnp.abs(x) < 0.1
    near = jnp.where(small, x, 0)
    series = jnp.ones_like(x)
    for k in range(11, 1, -1):
        series = 1 + near / k * series
    return jnp.where(small, near * series, capped_exp(x) - 1)


@jax.custom_jvp
def optimal_potentials(
    problem: Problem, f: Float[Array, " n"], g: Float[Array, " m"]
) -> Potentials:
    """The potentials as they are, with the derivatives of the optimum that they solve for."""
    return f, g


@optimal_potentials.defjvp
def _optimal_potentials_jvp(primals, tangents):
    r"""Differentiate log sum_j b_j K_ij + f_i / rho_a = 0 and its transpose, and solve.

    With K row-normalised to R and column-normalised to C (each the plan over a marginal)
    the system is f'/tau_a + R g' = p, g'/tau_b + C f' = q. Eliminating g' and weighing by
    the row marginal leaves one symmetric system for f'.
    """
    problem, moved = primals[0], tangents[0]
    f, g = optimal_potentials(*primals)
    a, b = problem.a, problem.b
    tau_a, tau_b = problem.damping_a, problem.damping_b

    def mismatch(problem):
        kernel = problem.kernel(f, g)
        rows = jnp.log(_or_one(kernel @ problem.b)) + problem.loose_a * f
        return rows, jnp.log(_or_one(kernel.T @ problem.a)) + problem.loose_b * g

    _, (p, q) = jax.jvp(mismatch, (problem,), (moved,))
    p, q = -problem.epsilon * p, -problem.epsilon * q
    kernel = problem.kernel(f, g)
    row_sums, column_sums = kernel @ b, kernel.T @ a
    rows = a * row_sums
    # Rows without mass are left out of the system, and keep their potentials.
    still = rows == 0
    row_sums, column_sums = _or_one(row_sums), _or_one(column_sums)
    free = problem.balanced.astype(a.dtype)

    def matvec(df):
        image = rows / tau_a * df - tau_b * a * (kernel @ (b / column_sums * (kernel.T @ (a * df))))
        # Where both marginals are enforced a constant is free: this pins it.
        pin = free * rows * (jnp.sum(rows * df) / jnp.sum(rows))
        return image + pin + jnp.where(still, df, 0)

    right = rows * p - tau_b * a * (kernel @ (b * q))
    right = right - free * rows * (jnp.sum(right) / jnp.sum(rows))
    df = _solve(matvec, right, jnp.where(still, 1, tau_a / jnp.where(still, 1, rows)))
    dg = tau_b * (q - (kernel.T @ (a * df)) / column_sums)
    df = tau_a * (p - (kernel @ (b * dg)) / row_sums)
    uneven = jnp.sum(a * df + moved.a * f) - jnp.sum(b * dg + moved.b * g)
    shift = free * uneven / (jnp.sum(a) + jnp.sum(b))
    return (f, g), (df - shift, dg + shift)


def _or_one(sums: Array) -> Array:
    """Sums of a kernel, one in place of those that vanish: their logarithms are not asked."""
    return jnp.where(sums > 0, sums, 1)


def _solve(matvec, right, preconditioner):
    scale = jnp.finfo(right.dtype).eps ** 0.7
    preconditioner = jax.lax.stop_gradient(preconditioner)

    def solve(matvec, right):
        tol = scale * jnp.sum(jnp.abs(right))
        return conjugate_gradient(matvec, right, preconditioner, tol=tol, max_steps=_MOST_STEPS)[0]

    return jax.lax.custom_linear_solve(matvec, right, solve, symmetric=True)
