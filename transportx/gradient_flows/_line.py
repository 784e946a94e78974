"""JKO steps of densities on the line, in the coordinate of their mass."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, ScalarLike

from transportx import _checks
from transportx._status import Status, judge
from transportx.gradient_flows._functional import AbstractFunctional, as_pytree
from transportx.gradient_flows._implicit import settled, step_and_tolerance
from transportx.gradient_flows._newton import minimise, no_walls

Nodes = Float[Array, " nodes"]
Masses = Float[Array, " n"]


@_checks.gate
class LineFlow(eqx.Module):
    """A recorded flow of a density on the line, constant between the nodes.

    Attributes:
        times: When.
        nodes: Shape (k, n + 1), rising: the ends of n intervals of fixed mass.
        masses: Mass of each interval, shape (n,).
        energy: Energy of each record, shape (k,); it never rises.
        num_steps: Newton steps in all.
        status: COMPLETED if every time step met the tolerance.
    """

    times: Float[Array, " k"]
    nodes: Float[Array, "k nodes"]
    masses: Masses
    energy: Float[Array, " k"]
    num_steps: Int[Array, ""]
    status: Status

    @property
    def completed(self) -> Bool[Array, "..."]:
        """Whether every time step met the tolerance."""
        return self.status == Status.COMPLETED

    @property
    def densities(self) -> Float[Array, "k n"]:
        """Mass over length of each interval."""
        return self.masses[None, :] / jnp.diff(self.nodes, axis=1)


@_checks.gate
def line_flow(
    functional: Callable[[Masses], AbstractFunctional],
    nodes0: Nodes,
    masses: Masses,
    *,
    t1: ScalarLike,
    steps: int,
    tol: float | None = None,
    max_steps: int = 100,
) -> LineFlow:
    r"""Exact JKO steps of densities on the line, in the coordinate of their mass.

    Intervals keep their mass and move their ends, so mass is exact, the density positive, and
    fronts are tracked with no grid. Each step minimises $F + W_2^2/2\tau$ over all ends, with
    W2 exact between such densities; the energy does not rise, however long the step. First
    order in tau, second in the intervals. O(n^3) a Newton step.

    Args:
        functional: From the lengths of the intervals to a functional of their midpoints and
            masses: ``lambda lengths: Potential(V) + Entropy(lengths)``. An internal energy
            must be part of it: it is what keeps the ends in order. A module that
            holds arrays is differentiated; a lambda's are not.
        nodes0: Ends of the intervals at time 0, rising.
        masses: Mass of each interval, positive, shape (n,).
        t1: Last time, positive; may be traced.
        steps: Number of equal time steps.
        tol: Bound on the Newton decrement before the last Newton step; by default the square root
            of the dtype's precision, which leaves an error of about the precision.
        max_steps: Newton steps at most, each time step.

    Raises:
        ValueError: Shapes or numbers do not fit.

    Differentiation:
        As `jko_flow`, in `nodes0`, `masses`, `t1` and what `functional` holds as a module.

    References:
        Blanchet, Calvez and Carrillo, Convergence of the mass-transport steepest descent
        scheme for the subcritical Patlak-Keller-Segel model, 2008.
    """
    if nodes0.ndim != 1 or nodes0.shape[0] != masses.shape[0] + 1:
        problem = f"has shape {nodes0.shape} for {masses.shape[0]} masses"
        _checks.reject("nodes0", problem, "give the ends of the intervals, one more than masses")
    _checks.floating("nodes0", nodes0)
    functional = as_pytree(functional)
    tau, tol = step_and_tolerance(t1, steps, tol, max_steps, nodes0.dtype)
    return _line_flow(functional, nodes0, masses, tau, tol, steps, max_steps)


@eqx.filter_jit
def _line_flow(functional, nodes0, masses, tau, tol, num_steps, max_steps) -> LineFlow:
    def energy_of(functional, nodes, masses):
        middle = (nodes[1:] + nodes[:-1]) / 2
        return functional(jnp.diff(nodes)).value(middle[:, None], masses)

    def objective(moved, args):
        functional, nodes, masses, tau = args
        gap = moved - nodes
        left, right = gap[:-1], gap[1:]
        travelled = jnp.sum(masses * (left**2 + left * right + right**2)) / 3
        value = energy_of(functional, moved, masses) + travelled / (2 * tau)
        return jnp.where(jnp.all(jnp.diff(moved) > 0), value, jnp.inf)

    def step(nodes, _):
        args = functional, nodes, masses, tau
        found = minimise(
            objective, nodes, args, room=no_walls, inside=nodes, tol=tol, max_steps=max_steps
        )
        energy = energy_of(functional, found.point, masses)
        return found.point, (found.point, energy, *found[1:])

    _, (nodes, energy, decrement, steps) = jax.lax.scan(step, nodes0, None, length=num_steps)
    nodes = jnp.concatenate([nodes0[None, :], nodes])
    energy = jnp.concatenate([energy_of(functional, nodes0, masses)[None], energy])
    times = tau * jnp.arange(num_steps + 1, dtype=tau.dtype)
    status = settled(energy, decrement, steps, tol, max_steps)
    infeasible = jnp.any(masses <= 0) | jnp.any(jnp.diff(nodes0) <= 0)
    status = judge((infeasible, Status.INFEASIBLE), otherwise=status)
    nodes, energy = (jnp.where(infeasible, jnp.nan, record) for record in (nodes, energy))
    return LineFlow(times, nodes, masses, energy, jnp.sum(steps), status)
