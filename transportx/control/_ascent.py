"""Newton's method on the dual of the covariances, along a path of falling temperatures."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from transportx.control._coordinates import Coordinates, coordinates, slope_and_hessian, unpacked
from transportx.control._problem import Matrix, Scalar, SteeringProblem
from transportx.control._riccati import barrier, dual, is_inside, mismatch, riccati

_COOLING = 0.1  # factor of the temperature, once its own optimum is near
_CENTRED = 0.1  # which it is at this predicted gain, in units of the temperature
_HALVINGS = 30
_POLISHING = 12  # steps without noise of the controls' own


class Ascent(NamedTuple):
    """A multiplier and how it was found.

    Attributes:
        P: Multiplier of the last covariance, shape (d, d).
        level: Temperature of the controls' own noise; zero for none.
        error: Largest relative difference between the last covariance and the best one.
        num_steps: Newton steps that ran.
        unbounded: Whether the dual value exceeded its limit: no feedback reaches the target.
        stuck: Whether no step along Newton's direction climbed any more.
    """

    P: Matrix
    level: Scalar
    error: Scalar
    num_steps: Int[Array, ""]
    unbounded: Bool[Array, ""]
    stuck: Bool[Array, ""]


def ascend(problem: SteeringProblem, scale: Scalar, *, tol: float, max_steps: int) -> Ascent:
    """Maximise the dual: along falling temperatures, then without noise of the controls' own.

    The last stage counts only if it converges: where a curvature is singular at the optimum, it
    does not, and the policy needs noise.

    Args:
        problem: What is steered.
        scale: Size of the costs; NaN for no problem at all.
        tol: Error at which the answer is good; steps go on until rounding.
        max_steps: Largest number of Newton steps.
    """
    frame = coordinates(problem)
    count = problem.R.shape[0] * problem.system.num_steps
    dtype = problem.R.dtype
    coldest = scale / count * jnp.finfo(dtype).eps ** 0.5

    def stage(found: Ascent, limits):
        level, last, most = limits
        newton = Ascender(problem, frame, scale, last, tol)
        new = newton(found._replace(level=level), jnp.minimum(most, max_steps - found.num_steps))
        better = (last > 0) | (new.error <= tol) | jnp.isnan(scale)
        steps = found.num_steps + new.num_steps
        chosen = jax.tree.map(lambda a, b: jnp.where(better, a, b), new, found)
        return chosen._replace(num_steps=steps), None

    zero, false = jnp.zeros((), dtype), jnp.array(False)
    start = Ascent(0 * frame.inverse, zero, zero + jnp.inf, jnp.array(0), false, false)
    levels = jnp.stack([scale / count, zero]), jnp.stack([coldest, zero])
    return jax.lax.scan(stage, start, (*levels, jnp.array([max_steps, _POLISHING])))[0]


class Ascender(NamedTuple):
    """Newton's method for one problem, down to one temperature."""

    problem: SteeringProblem
    frame: Coordinates
    scale: Scalar
    last: Scalar
    tol: float

    def __call__(self, found: Ascent, max_steps: Int[Array, ""]) -> Ascent:
        """Climb from a multiplier; the answer is the best one whose error was computed."""

        def unfinished(carry):
            found, _, _, done = carry
            return (found.num_steps < max_steps) & ~done

        start = self.frame.vector(found.P), found.level
        found = found._replace(num_steps=jnp.array(0), error=jnp.full_like(self.scale, jnp.inf))
        carry = found, *start, jnp.isnan(self.scale)
        return jax.lax.while_loop(unfinished, self._step, carry)[0]

    def _step(self, carry):
        """Audit a multiplier, and leave it by a Newton step for the next one."""
        found, z, level, _ = carry
        gradient, hessian = slope_and_hessian(self.problem, self.frame, z, level)
        error = self._error(z, gradient)
        error = jnp.where(level == self.last, error, jnp.inf)
        direction = -jnp.linalg.solve(hessian, gradient)
        gain = gradient @ direction
        length, value = self._length(z, level, direction, gain)
        centred = (gain <= _CENTRED * level) & (length == 1)
        cooler = jnp.where(centred, jnp.maximum(_COOLING * level, self.last), level)
        idle = (found.error <= self.tol) & ~(error < found.error / 2)
        unbounded = value > self.scale * jnp.finfo(gain.dtype).eps ** -0.4
        stuck = length == 0
        new = Ascent(self.frame.multiplier(z), level, error, found.num_steps, unbounded, stuck)
        keep = idle & ~(error < found.error)
        new = jax.tree.map(lambda a, b: jnp.where(keep, a, b), found, new)
        new = new._replace(num_steps=found.num_steps + 1)
        return new, z + length * direction, cooler, idle | stuck | unbounded

    def _error(self, z, gradient) -> Scalar:
        size = self.frame.inverse.shape[0]
        inverse = jnp.eye(size, dtype=z.dtype) - 2 * self.problem.loose_b * unpacked(z, size)
        return jnp.max(jnp.abs(inverse @ unpacked(gradient, size)))

    def _length(self, z, level, direction, gain) -> tuple[Scalar, Scalar]:
        """Halve a step until it stays inside and does not pass the top; or zero. And the value."""

        def value_at(P, feedback):
            value = dual(self.problem, P, feedback)
            return value, value + level * barrier(feedback)

        P = self.frame.multiplier(z)
        plain, value = value_at(P, riccati(self.problem, P))
        slack = 100 * jnp.finfo(gain.dtype).eps * (jnp.abs(value) + self.scale)

        def refused(carry):
            length, halvings = carry
            P = self.frame.multiplier(z + length * direction)
            feedback = riccati(self.problem, P)
            slope = self.frame.gradient(mismatch(self.problem, P, feedback, level)) @ direction
            good = (slope >= -gain / 2) | (gain <= slack)
            good &= value_at(P, feedback)[1] >= value - slack
            good &= is_inside(self.problem, P, feedback)
            return ~good & (halvings < _HALVINGS)

        def halved(carry):
            length, halvings = carry
            return length / 2, halvings + 1

        start = jnp.ones((), gain.dtype), jnp.array(0)
        length, halvings = jax.lax.while_loop(refused, halved, start)
        return jnp.where(halvings < _HALVINGS, length, 0), plain
