"""Scalings of one kernel: its rows and columns multiplied so that its marginals fit."""

import math
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from transportx import _checks
from transportx.geometry.internal import AbstractKernel, capped_exp
from transportx.ot._problem import Problem, log_total, over_mass

Scalar = Float[Array, ""]


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
        error = over_mass(jnp.sum(jnp.abs(residual)), jnp.sum(required))
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


def is_open(iterate: Iterate, tol: Scalar) -> Bool[Array, ""]:
    """Whether the error is above `tol`, with scalings that still are in a safe range."""
    drift = jnp.maximum(jnp.max(jnp.abs(iterate.phi)), jnp.max(jnp.abs(iterate.psi)))
    return (iterate.error > tol) & (drift < largest_scaling(iterate.phi.dtype))


def log_of_sums(sums: Float[Array, " k"]) -> Float[Array, " k"]:
    """Logarithms of sums of a kernel, finite where the kernel underflows.

    Rows so far from everything that a loose marginal gives them up have sums of zero.
    """
    return jnp.log(jnp.maximum(sums, jnp.finfo(sums.dtype).tiny))


def largest_scaling(dtype) -> float:
    """Log-scalings up to this size keep all products in the range of numbers."""
    return 0.5 * math.log(jnp.finfo(dtype).max)
