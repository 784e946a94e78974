"""Solvers: how scalings of one kernel are improved until its marginals fit."""

import abc
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from transportx import _checks
from transportx.geometry import AbstractKernel, capped_exp
from transportx.ot._conjugate_gradient import conjugate_gradient
from transportx.ot._problem import Potentials, Problem

Scalar = Float[Array, ""]
Steps = Int[Array, ""]


class Iterate(NamedTuple):
    """Log-scalings of both sides, those of the columns exact, and what they give.

    Attributes:
        phi: Log-scaling of the rows.
        psi: Log-scaling of the columns.
        row_sums: kernel @ (b e^psi).
        column_sums: kernel.T @ (a e^phi).
        residual: Asked row marginal less that of the plan: the gradient of the semi-dual.
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
    """A problem with potentials (f, g) absorbed in its kernel, to be scaled."""

    problem: Problem
    kernel: AbstractKernel
    f: Float[Array, " n"]
    g: Float[Array, " m"]

    @_checks.gate
    def fit_rows(self, row_sums: Float[Array, " n"]) -> Float[Array, " n"]:
        """Log-scaling of the rows that is exact for these sums: half a Sinkhorn step."""
        problem = self.problem
        return -problem.damping_a * (problem.loose_a * self.f + jnp.log(row_sums))

    @_checks.gate
    def fit_columns(self, column_sums: Float[Array, " m"]) -> Float[Array, " m"]:
        """Log-scaling of the columns that is exact for these sums."""
        problem = self.problem
        return -problem.damping_b * (problem.loose_b * self.g + jnp.log(column_sums))

    @_checks.gate
    def evaluate(self, phi: Float[Array, " n"]) -> Iterate:
        """Fit the columns to these rows, and see what that leaves: one pair of products."""
        return self.complete(phi, self.kernel.T @ (self.problem.a * capped_exp(phi)))

    @_checks.gate
    def complete(self, phi: Float[Array, " n"], column_sums: Float[Array, " m"]) -> Iterate:
        """`evaluate` where the column sums are known."""
        problem = self.problem
        psi = self.fit_columns(column_sums)
        row_sums = self.kernel @ (problem.b * capped_exp(psi))
        # Rows without weight move nothing: theirs is the scaling that fits.
        phi = jnp.where(problem.a == 0, self.fit_rows(row_sums), phi)
        asked = problem.asked_a(self.f + problem.epsilon * phi)
        residual = asked - problem.a * capped_exp(phi) * row_sums
        error = jnp.sum(jnp.abs(residual)) / jnp.sum(asked)
        usable = jnp.all(jnp.isfinite(phi)) & jnp.all(jnp.isfinite(psi))
        error = jnp.where(usable, error, jnp.nan)
        return Iterate(phi, psi, row_sums, column_sums, residual, error)


class AbstractSolver(eqx.Module):
    """Improves the scalings of one kernel; absorbing and annealing are the caller's."""

    tol: eqx.AbstractVar[float]
    max_steps: eqx.AbstractVar[int]

    def __check_init__(self):
        _checks.positive("tol", self.tol)
        _checks.count("max_steps", self.max_steps)

    @abc.abstractmethod
    def refine(
        self, scaling: Scaling, start: Iterate, *, tol: Scalar, budget: Steps
    ) -> tuple[Iterate, Steps]:
        """Bring the error to `tol` in at most `budget` pairs of products, or as near as it gets.

        Returns:
            The last iterate and the steps taken; whoever calls checks the result.
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
    """Alternate exact updates of the two potentials, each O(n m).

    Attributes:
        tol: Bound on the L1 error of the plan's marginals, divided by the mass.
        max_steps: Pairs of updates at most. More are needed the smaller epsilon is.

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
    """Newton's method on the semi-dual, by conjugate gradients; the default.

    One potential is eliminated, as in Sinkhorn's method; the other moves along the solution
    of (D_r - P D_c^-1 P^T) d = a - P 1, found to a tenth, and as far as the semi-dual grows.
    Each product with that matrix costs what a Sinkhorn step costs; their number grows like
    epsilon^-1/2 where Sinkhorn's grows like 1 / epsilon.

    Attributes:
        tol: Bound on the L1 error of the plan's marginals, divided by the mass.
        max_steps: Pairs of products with the kernel at most, those of the inner solves
            counted.

    References:
        Brauer, Clason, Lorenz and Wirth, A Sinkhorn-Newton method for entropic optimal
        transport, 2017.
    """

    tol: float = eqx.field(static=True, default=1e-3)
    max_steps: int = eqx.field(static=True, default=10_000)

    @_checks.gate
    def refine(
        self, scaling: Scaling, start: Iterate, *, tol: Scalar, budget: Steps
    ) -> tuple[Iterate, Steps]:
        def unfinished(carry):
            iterate, steps, improving = carry
            return (iterate.error > tol) & (steps + 2 <= budget) & improving

        def body(carry):
            iterate, steps, _ = carry
            direction, products = _newton_direction(
                scaling, iterate, tol=tol, max_steps=jnp.minimum(_MOST_PRODUCTS, budget - steps - 1)
            )
            steps = steps + products
            new, rising, evaluations = _line_search(scaling, iterate, direction, budget - steps)
            improving = rising | (new.error < 0.9 * iterate.error)
            # Far from the optimum an error may rise on the way; near it, that is rounding.
            improving |= (iterate.error > 1e-2) & (new.error < 2 * iterate.error)
            new = jax.tree.map(lambda one, other: jnp.where(improving, one, other), new, iterate)
            return new, steps + evaluations, improving

        # A few plain steps first take away what converges at once.
        start, steps = _repeat(
            lambda iterate: scaling.evaluate(scaling.fit_rows(iterate.row_sums)),
            start,
            tol=tol,
            budget=jnp.minimum(budget, _PLAIN_STEPS),
        )
        iterate, steps, _ = jax.lax.while_loop(unfinished, body, (start, steps, jnp.array(True)))
        return iterate, steps


class Symmetric(AbstractSolver):
    """Averages a potential with its update, for problems that equal their own transpose.

    Both potentials are one, and the error at least halves where the kernel is positive.
    """

    tol: float = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)

    def refine(
        self, scaling: Scaling, start: Iterate, *, tol: Scalar, budget: Steps
    ) -> tuple[Iterate, Steps]:
        problem = scaling.problem

        def evaluate(phi):
            row_sums = scaling.kernel @ (problem.a * capped_exp(phi))
            asked = problem.asked_a(scaling.f + problem.epsilon * phi)
            residual = asked - problem.a * capped_exp(phi) * row_sums
            error = jnp.sum(jnp.abs(residual)) / jnp.sum(asked)
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
_MOST_PRODUCTS = 60
# Share of the residual that an inner solve may leave.
_FORCING = 0.1
_PLAIN_STEPS = 4
# Newton moves no log-scaling by more than this at once.
_LONGEST = 5.0
_LEAST_SHARE = 0.1


def _repeat(step, start: Iterate, *, tol: Scalar, budget: Steps) -> tuple[Iterate, Steps]:
    """Take steps until the error is small, the budget spent, or scalings leave a safe range."""
    longest = 0.5 * jnp.log(jnp.finfo(start.phi.dtype).max)

    def unfinished(carry):
        iterate, steps = carry
        drift = jnp.maximum(jnp.max(jnp.abs(iterate.phi)), jnp.max(jnp.abs(iterate.psi)))
        return (iterate.error > tol) & (steps < budget) & (drift < longest)

    return jax.lax.while_loop(
        unfinished, lambda carry: (step(carry[0]), carry[1] + 1), (start, jnp.array(0))
    )


def _newton_direction(scaling, iterate, *, tol, max_steps):
    """Solve the linearised semi-dual roughly: a direction, and the products it took."""
    problem = scaling.problem
    u = problem.a * capped_exp(iterate.phi)
    v = problem.b * capped_exp(iterate.psi)
    asked = u * iterate.row_sums + iterate.residual
    diagonal = u * iterate.row_sums + problem.epsilon * problem.loose_a * asked
    middle = problem.damping_b * v / jnp.where(iterate.column_sums > 0, iterate.column_sums, 1)
    transposed = scaling.kernel.T

    def matvec(d):
        return diagonal * d - u * (scaling.kernel @ (middle * (transposed @ (u * d))))

    preconditioner = jnp.where(diagonal > 0, 1 / jnp.where(diagonal > 0, diagonal, 1), 0)
    size = jnp.sum(jnp.abs(iterate.residual))
    target = jnp.maximum(_FORCING * size, 0.3 * tol * jnp.sum(asked))
    return conjugate_gradient(
        matvec, iterate.residual, preconditioner, tol=target, max_steps=max_steps
    )


def _line_search(scaling, iterate, direction, budget) -> tuple[Iterate, Bool[Array, ""], Steps]:
    """Go along the direction as far as the semi-dual does not clearly fall again.

    Returns:
        Where that leads; whether the semi-dual, being concave, has clearly risen, as it still
        does there; and the evaluations that it took.
    """
    direction = _limited(direction, iterate.residual)
    slope = direction @ iterate.residual

    def at(length):
        return scaling.evaluate(iterate.phi + length * direction)

    def acceptable(new) -> Bool[Array, ""]:
        return (new.error < iterate.error) | (direction @ new.residual > -0.5 * slope)

    def unfinished(carry):
        new, length, evaluations = carry
        return ~acceptable(new) & (length > 1e-3) & (evaluations < budget)

    def body(carry):
        _, length, evaluations = carry
        return at(0.4 * length), 0.4 * length, evaluations + 1

    first = jnp.ones_like(slope)
    new, _, evaluations = jax.lax.while_loop(unfinished, body, (at(first), first, jnp.array(1)))
    return new, direction @ new.residual > 0.25 * slope, evaluations


def _limited(direction, residual):
    """Shorten a direction that leads too far; or, where that leaves next to nothing, clip it.

    Points of tiny weight may ask for far more than all others, and shall not hold them back.
    """
    longest = jnp.max(jnp.abs(direction))
    share = jnp.where(longest > _LONGEST, _LONGEST / longest, 1)
    clipped = jnp.clip(direction, -_LONGEST, _LONGEST)
    ascends = clipped @ residual > 0.1 * (direction @ residual)
    return jnp.where((share < _LEAST_SHARE) & ascends, clipped, share * direction)
