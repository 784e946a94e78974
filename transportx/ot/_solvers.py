"""Solvers: methods that improve the scalings of one kernel until its marginals fit."""

import abc
import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from transportx import _checks
from transportx._varying import alike
from transportx.geometry.internal import AbstractKernel, capped_exp
from transportx.ot._conjugate_gradient import conjugate_gradient
from transportx.ot._problem import Potentials, Problem, log_total

Scalar = Float[Array, ""]
Steps = Int[Array, ""]


class Iterate(NamedTuple):
    """Log-scalings of rows and columns, the latter exact for the former, and their marginals.

    Attributes:
        phi: Log-scaling of the rows, shape (n,).
        psi: Log-scaling of the columns, shape (m,).
        row_sums: kernel @ (b e^psi), shape (n,).
        column_sums: kernel.T @ (a e^phi), shape (m,).
        residual: Required row marginal less that of the plan: the gradient of the semi-dual.
        error: L1 norm of the residual, divided by the mass.
    """

    phi: Float[Array, " n"]
    psi: Float[Array, " m"]
    row_sums: Float[Array, " n"]
    column_sums: Float[Array, " m"]
    residual: Float[Array, " n"]
    error: Scalar


@_checks.gate
class Scaling(eqx.Module):
    """A problem with potentials (f, g) absorbed in its kernel, whose rows and columns are scaled.

    Attributes:
        problem: The entropic problem.
        kernel: exp((f_i + g_j - C_ij) / epsilon), shape (n, m).
        f: Absorbed source potential, shape (n,).
        g: Absorbed target potential, shape (m,).
    """

    problem: Problem
    kernel: AbstractKernel
    f: Float[Array, " n"]
    g: Float[Array, " m"]

    @_checks.gate
    def fit_rows(self, row_sums: Float[Array, " n"]) -> Float[Array, " n"]:
        """Log-scaling of the rows that is exact for these sums: half a Sinkhorn step."""
        problem = self.problem
        fit = -problem.damping_a * (problem.loose_a * self.f + log_of_sums(row_sums))
        return jnp.where(problem.a > 0, fit, 0)

    @_checks.gate
    def fit_columns(self, column_sums: Float[Array, " m"]) -> Float[Array, " m"]:
        """Log-scaling of the columns that is exact for these sums."""
        problem = self.problem
        fit = -problem.damping_b * (problem.loose_b * self.g + log_of_sums(column_sums))
        return jnp.where(problem.b > 0, fit, 0)

    @_checks.gate
    def evaluate(self, phi: Float[Array, " n"]) -> Iterate:
        """The iterate of these rows, with the columns fitted to them: one pair of products."""
        return self.complete(phi, self.kernel.T @ (self.problem.a * capped_exp(phi)))

    @_checks.gate
    def complete(self, phi: Float[Array, " n"], column_sums: Float[Array, " m"]) -> Iterate:
        """`evaluate` where the column sums are known."""
        problem = self.problem
        shift = self._shift(phi, self.fit_columns(column_sums))
        phi, column_sums = phi + shift, column_sums * jnp.exp(shift)
        psi = self.fit_columns(column_sums)
        row_sums = self.kernel @ (problem.b * capped_exp(psi))
        required = problem.required_a(self.f + problem.epsilon * phi)
        residual = required - problem.a * capped_exp(phi) * row_sums
        error = jnp.sum(jnp.abs(residual)) / jnp.sum(required)
        usable = jnp.all(jnp.isfinite(phi)) & jnp.all(jnp.isfinite(psi))
        error = jnp.where(usable, error, jnp.nan)
        return Iterate(phi, psi, row_sums, column_sums, residual, error)

    def _shift(self, phi: Float[Array, " n"], psi: Float[Array, " m"]) -> Scalar:
        """The constant to add to the rows that is best while the columns follow; no product.

        Where penalties are large the objective hardly sees this direction, and plain steps
        creep along it (Sejourne, Vialard and Peyre, 2022).
        """
        problem = self.problem
        log_a, log_b = (
            log_total(weights, -loose * (potential + problem.epsilon * moved))
            for weights, loose, potential, moved in (
                (problem.a, problem.loose_a, self.f, phi),
                (problem.b, problem.loose_b, self.g, psi),
            )
        )
        loose = (problem.loose_a + problem.loose_b * problem.damping_b) * problem.epsilon
        shift = (log_a - log_b) / jnp.where(problem.balanced, 1, loose)
        most = largest_scaling(phi.dtype) / 4
        return jnp.where(problem.balanced, 0, jnp.clip(shift, -most, most))


def log_of_sums(sums: Float[Array, " k"]) -> Float[Array, " k"]:
    """Logarithms of sums of a kernel, finite where the kernel underflows.

    Rows so far from everything that a loose marginal gives them up have sums of zero.
    """
    return jnp.log(jnp.maximum(sums, jnp.finfo(sums.dtype).tiny))


def largest_scaling(dtype) -> float:
    """Log-scalings up to this size keep all products in the range of numbers."""
    return 0.5 * math.log(jnp.finfo(dtype).max)


class AbstractSolver(eqx.Module):
    """One solver at fixed epsilon: it improves the scalings of one kernel.

    A subclass implements `refine`, and has the fields `tol` and `max_steps`; `solve` chooses
    epsilon, absorbs potentials and rebuilds the kernel.

    Example:
        >>> isinstance(tx.ot.Sinkhorn(tol=1e-2), tx.ot.AbstractSolver)
        True
    """

    tol: eqx.AbstractVar[float]
    max_steps: eqx.AbstractVar[int]

    def __check_init__(self):
        _checks.positive("tol", self.tol)
        if math.isinf(self.tol):
            _checks.reject("tol", "is infinite", "give the error that the marginals may have")
        _checks.count("max_steps", self.max_steps)

    @abc.abstractmethod
    def refine(
        self, scaling: Scaling, start: Iterate, *, tol: Scalar, budget: Steps
    ) -> tuple[Iterate, Steps]:
        """Bring the error to `tol` in at most `budget` pairs of products, or as near as it gets.

        Args:
            scaling: Problem and kernel whose rows and columns are scaled.
            start: First iterate.
            tol: Error to reach, L1 over the mass.
            budget: Largest number of pairs of products with the kernel.

        Returns:
            The last iterate and the number of steps that ran; the caller audits the result.
        """

    @_checks.gate
    def log_step(
        self, problem: Problem, f: Float[Array, " n"], g: Float[Array, " m"]
    ) -> Potentials:
        """One step in the log domain, for where scalings would leave the range of numbers."""
        f = problem.update_f(g)
        return problem.centre(f, problem.update_g(f))


@_checks.gate
class Sinkhorn(AbstractSolver):
    """Sinkhorn's algorithm: alternate exact updates of the two potentials, each O(n m).

    Attributes:
        tol: Bound on the L1 error of the plan's marginals, divided by the mass.
        max_steps: Largest number of pairs of updates. The number needed grows like 1 / epsilon.

    Example:
        >>> x = jnp.array([[0.0], [1.0]])
        >>> solver = tx.ot.Sinkhorn(tol=1e-4)
        >>> plan = tx.ot.solve(tx.geometry.PointCloud(x, x + 1.0), epsilon=1.0, solver=solver)
        >>> bool(plan.marginal_error <= 1e-4)
        True

    References:
        Cuturi, Sinkhorn distances, 2013; Schmitzer, Stabilized sparse scaling algorithms
        for entropy regularized transport problems, 2019 (absorption, annealing).
    """

    tol: float = eqx.field(static=True, default=1e-3)
    max_steps: int = eqx.field(static=True, default=10_000)

    @_checks.gate
    def refine(
        self, scaling: Scaling, start: Iterate, *, tol: Scalar, budget: Steps
    ) -> tuple[Iterate, Steps]:
        def step(iterate):
            return scaling.evaluate(scaling.fit_rows(iterate.row_sums))

        return _repeat(step, start, tol=tol, budget=budget)


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
            return _open(iterate, tol) & (steps + 2 <= budget) & (idle < _MOST_IDLE)

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


class Symmetric(AbstractSolver):
    """Symmetric Sinkhorn: averages a potential with its update, where both potentials are one.

    For problems that equal their own transpose. The error at least halves per step where the
    kernel is positive.
    """

    tol: float = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)

    def refine(
        self, scaling: Scaling, start: Iterate, *, tol: Scalar, budget: Steps
    ) -> tuple[Iterate, Steps]:
        problem = scaling.problem

        def evaluate(phi):
            row_sums = scaling.kernel @ (problem.a * capped_exp(phi))
            required = problem.required_a(scaling.f + problem.epsilon * phi)
            residual = required - problem.a * capped_exp(phi) * row_sums
            error = jnp.sum(jnp.abs(residual)) / jnp.sum(required)
            return Iterate(phi, phi, row_sums, row_sums, residual, error)

        def step(iterate):
            return evaluate((iterate.phi + scaling.fit_rows(iterate.row_sums)) / 2)

        # Both marginals are this one: each has half of the error.
        return _repeat(step, evaluate(jnp.zeros_like(start.phi)), tol=tol / 2, budget=budget)

    def log_step(
        self, problem: Problem, f: Float[Array, " n"], g: Float[Array, " m"]
    ) -> Potentials:
        f = (f + problem.update_f(g)) / 2
        return problem.centre(f, f)


# Products of one inner solve at most: more show that another linearisation is due.
_MOST_PRODUCTS = 250
# Share of the residual that an inner solve may leave.
_FORCING = 0.1
# Each row's share of the matrix is raised by this much of the error: where mass can pass
# only through entries that are nearly zero, a Newton step without that has no bound.
_DAMPING = 0.3
# A step moves no log-scaling further than this beyond its own fit.
_LONGEST = 10.0
# Plain steps that leave less than this share of the error cost less than Newton's.
_FAST = 0.6
_PLAIN_STEPS = 4
# Newton steps in a row that may leave the error where it is, climbing all the same.
_MOST_IDLE = 8
_SHRINK, _LEAST_LENGTH = 0.4, 0.05


def _open(iterate: Iterate, tol: Scalar) -> Bool[Array, ""]:
    """Whether the error is above `tol`, with scalings that still are in a safe range."""
    drift = jnp.maximum(jnp.max(jnp.abs(iterate.phi)), jnp.max(jnp.abs(iterate.psi)))
    return (iterate.error > tol) & (drift < largest_scaling(iterate.phi.dtype))


def _repeat(step, start: Iterate, *, tol: Scalar, budget: Steps) -> tuple[Iterate, Steps]:
    """Take steps until the error is small, the budget spent, or scalings leave a safe range."""

    def unfinished(carry):
        iterate, steps = carry
        return _open(iterate, tol) & (steps < budget)

    return jax.lax.while_loop(
        unfinished, lambda carry: (step(carry[0]), carry[1] + 1), alike((start, jnp.array(0)))
    )


def _plain_steps(
    scaling: Scaling, start: Iterate, *, tol: Scalar, budget: Steps
) -> tuple[Iterate, Steps]:
    """Sinkhorn steps: a few, and then for as long as they go fast."""

    def unfinished(carry):
        iterate, steps, rate = carry
        worth = (rate < _FAST) | (steps < _PLAIN_STEPS)
        return _open(iterate, tol) & (steps < budget) & worth

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
