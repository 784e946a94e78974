"""The abstract solver: one method at fixed epsilon, for one kernel."""

import abc
import math

import equinox as eqx
from jaxtyping import Array, Float, Int

from transportx import _checks
from transportx.ot._problem import Potentials, Problem
from transportx.ot._scaling import Iterate, Scaling

Scalar = Float[Array, ""]
Steps = Int[Array, ""]


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
        """One Sinkhorn step by log-sum-exps, for where scalings would leave the range of numbers.

        Args:
            problem: The entropic problem.
            f: Source potential, shape (n,); a step replaces it.
            g: Target potential, shape (m,), from which the step starts.

        Returns:
            The new potentials (f, g).
        """
        f = problem.update_f(g)
        return problem.centre(f, problem.update_g(f))
