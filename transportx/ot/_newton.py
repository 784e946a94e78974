"""Newton's method on the semi-dual, with conjugate gradients inside."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from transportx import _checks
from transportx._varying import alike
from transportx.geometry.internal import capped_exp
from transportx.ot._conjugate_gradient import conjugate_gradient
from transportx.ot._scaling import Iterate, Scaling, is_open
from transportx.ot._solver import AbstractSolver

Scalar = Float[Array, ""]
Steps = Int[Array, ""]

# Largest number of products of one inner solve: where more are needed, another linearisation
# is due.
_MOST_PRODUCTS = 250
# Fraction of the residual that an inner solve may leave.
_FORCING = 0.1
# The diagonal is raised by this multiple of the error: where mass can pass only through
# entries that are nearly zero, an undamped Newton step has no bound.
_DAMPING = 0.3
# A step moves no log-scaling further than this beyond its own fit.
_LONGEST = 10.0
# Sinkhorn steps that leave less than this fraction of the error cost less than Newton's.
_FAST = 0.6
_PLAIN_STEPS = 4
# Newton steps in a row that may leave the error where it is, climbing all the same.
_MOST_IDLE = 8
_SHRINK, _LEAST_LENGTH = 0.4, 0.05


@_checks.gate
class Newton(AbstractSolver):
    """Damped Newton steps on the semi-dual, by conjugate gradients; the default solver.

    One potential is eliminated, as in Sinkhorn's method. The first steps are Sinkhorn steps,
    for as long as the error falls fast. Then the other potential moves along the solution of
    ((1 + s) D_r - P D_c^-1 P^T) d = a - P 1, found to a tenth. The damping s falls with the
    error, so that steps are bounded where mass passes through entries that are nearly zero.
    The correction of each row by its own sum is computed by a logarithm, which is exact
    however tiny its weight; the rest of the step is shortened until the semi-dual no longer
    falls, down to a Sinkhorn step. Each product costs what a Sinkhorn step costs; their number
    grows like epsilon^-1/2 where Sinkhorn's grows like 1 / epsilon.

    Attributes:
        tol: Bound on the L1 error of the plan's marginals, divided by the mass.
        max_steps: Largest number of pairs of products with the kernel, those of the inner
            solves counted.

    Example:
        >>> x = jnp.array([[0.0], [1.0]])
        >>> solver = tx.ot.Newton(tol=1e-4)
        >>> plan = tx.ot.solve(tx.geometry.PointCloud(x, x + 1.0), epsilon=1.0, solver=solver)
        >>> bool(plan.marginal_error <= 1e-4)
        True

    References:
        Brauer, Clason, Lorenz and Wirth, A Sinkhorn-Newton method for entropic optimal
        transport, 2017; Sejourne, Vialard and Peyre, Faster unbalanced optimal transport,
        2022 (the constant that moves between the potentials).
    """

    tol: float = eqx.field(static=True, default=1e-3)
    max_steps: int = eqx.field(static=True, default=10_000)

    @_checks.gate
    def refine(
        self, scaling: Scaling, start: Iterate, *, tol: Scalar, budget: Steps
    ) -> tuple[Iterate, Steps]:
        def unfinished(carry):
            iterate, steps, _, idle = carry
            return is_open(iterate, tol) & (steps + 2 <= budget) & (idle < _MOST_IDLE)

        def body(carry):
            iterate, steps, least, idle = carry
            most = jnp.minimum(_MOST_PRODUCTS, budget - steps - 1)
            fitted, answer, products = _newton_direction(scaling, iterate, tol=tol, max_steps=most)
            steps = steps + products
            new, evaluations = _line_search(scaling, iterate, fitted, answer, budget - steps)
            idle = jnp.where(new.error < 0.9 * least, 0, idle + 1)
            return new, steps + evaluations, jnp.minimum(least, new.error), idle

        start, steps = _plain_steps(scaling, start, tol=tol, budget=budget)
        carry = alike((start, steps, start.error, jnp.array(0)))
        iterate, steps, _, _ = jax.lax.while_loop(unfinished, body, carry)
        return iterate, steps


def _plain_steps(
    scaling: Scaling, start: Iterate, *, tol: Scalar, budget: Steps
) -> tuple[Iterate, Steps]:
    """Sinkhorn steps: a few, and then for as long as they go fast."""

    def unfinished(carry):
        iterate, steps, rate = carry
        worth = (rate < _FAST) | (steps < _PLAIN_STEPS)
        return is_open(iterate, tol) & (steps < budget) & worth

    def body(carry):
        iterate, steps, _ = carry
        new = scaling.evaluate(scaling.fit_rows(iterate.row_sums))
        return new, steps + 1, new.error / iterate.error

    carry = alike((start, jnp.array(0), jnp.zeros_like(start.error)))
    iterate, steps, _ = jax.lax.while_loop(unfinished, body, carry)
    return iterate, steps


def _newton_direction(scaling: Scaling, iterate: Iterate, *, tol: Scalar, max_steps: Steps):
    """Solve the linearised semi-dual roughly.

    A Newton step d solves (1 + damping) D d - P D_c^-1 P^T d = r, so that D d is r plus the
    response of the columns. In place of r / D, the correction of a row by its own sum, a
    logarithm is used: it is exact however far the row is off, and rows of tiny weight, which
    conjugate gradients hardly see, may be far off. The response of the columns is the same
    smooth mean for all rows, tiny or not.

    Returns:
        Each row's own fit; the response of the columns, to be added to it; the number of
        products.
    """
    problem = scaling.problem
    u = problem.a * capped_exp(iterate.phi)
    v = problem.b * capped_exp(iterate.psi)
    required = u * iterate.row_sums + iterate.residual
    diagonal = u * iterate.row_sums + problem.epsilon * problem.loose_a * required
    diagonal = (1 + _DAMPING * iterate.error) * diagonal
    middle = problem.damping_b * v / jnp.where(iterate.column_sums > 0, iterate.column_sums, 1)
    transposed = scaling.kernel.T

    def matvec(d):
        return diagonal * d - u * (scaling.kernel @ (middle * (transposed @ (u * d))))

    # The reciprocals of smaller numbers overflow.
    smallest = jnp.finfo(diagonal.dtype).tiny / jnp.finfo(diagonal.dtype).eps
    preconditioner = jnp.where(diagonal > smallest, 1 / jnp.maximum(diagonal, smallest), 0)
    size = jnp.sum(jnp.abs(iterate.residual))
    target = jnp.maximum(_FORCING * size, 0.3 * tol * jnp.sum(required))
    direction, left, products = conjugate_gradient(
        matvec, iterate.residual, preconditioner, tol=target, max_steps=max_steps
    )
    answer = direction + preconditioner * (left - iterate.residual)
    fitted = scaling.fit_rows(iterate.row_sums) - iterate.phi
    return fitted, jnp.clip(answer, -_LONGEST, _LONGEST), products


def _line_search(scaling, iterate, fitted, answer, budget) -> tuple[Iterate, Steps]:
    """Add as much of the response of the columns to the rows' own fit as does not overshoot.

    The semi-dual is concave: it has risen where its slope is still positive. With nothing of
    the response this is a Sinkhorn step, which always rises.
    """

    def at(length):
        return scaling.evaluate(iterate.phi + fitted + length * answer)

    def unfinished(carry):
        new, length, evaluations = carry
        move = new.phi - iterate.phi
        slope = move @ iterate.residual
        rises = (slope > 0) & (move @ new.residual > -0.5 * slope)
        acceptable = rises | (new.error < iterate.error) | (length == 0)
        return ~acceptable & (evaluations < budget)

    def body(carry):
        _, length, evaluations = carry
        shorter = _SHRINK * length
        shorter = jnp.where(shorter < _LEAST_LENGTH, 0, shorter)
        return at(shorter), shorter, evaluations + 1

    first = jnp.ones_like(iterate.error)
    start = alike((at(first), first, jnp.array(1)))
    new, _, evaluations = jax.lax.while_loop(unfinished, body, start)
    return new, evaluations
