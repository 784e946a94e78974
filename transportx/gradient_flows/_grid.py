"""Flows of masses on the cells of a box: implicit steps whose energy falls, however long."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, ScalarLike

from transportx import _checks
from transportx._status import Status, judge
from transportx.gradient_flows._cells import CellBox
from transportx.gradient_flows._functional import AbstractFunctional
from transportx.gradient_flows._implicit import settled, step_and_tolerance
from transportx.gradient_flows._newton import minimise

Masses = Float[Array, " n"]
# Interior steps start from masses this far on the way to even ones.
_SPREAD = 0.3


@_checks.gate
class GridFlow(eqx.Module):
    """A recorded flow of the masses of n cells, at the k - 1 steps and the start.

    Attributes:
        times: When.
        masses: Shape (k, n): of one total, and positive after the start. NaN where the start has
            a negative mass, or none at all.
        energy: Energy of each record, shape (k,); it never rises.
        decrement: What the last Newton step of each time step could still gain, relative.
        num_steps: Newton steps in all.
        status: COMPLETED if every time step met the tolerance.
    """

    times: Float[Array, " k"]
    masses: Float[Array, "k n"]
    energy: Float[Array, " k"]
    decrement: Float[Array, " steps"]
    num_steps: Int[Array, ""]
    status: Status

    @property
    def completed(self) -> Bool[Array, "..."]:
        """Whether every time step met the tolerance."""
        return self.status == Status.COMPLETED


@_checks.gate
def grid_flow(
    functional: AbstractFunctional,
    box: CellBox,
    masses0: Masses,
    *,
    t1: ScalarLike,
    steps: int,
    tol: float | None = None,
    max_steps: int = 100,
) -> GridFlow:
    r"""Let masses on cells descend a functional by implicit steps, in one dimension or more.

    Each step of length tau minimises
    $F(\mu') + \frac{1}{2\tau}\sum_f h_f^2 m_f^2 / \theta_f(\mu')$, $\mu' = \mu - Dm$, over the
    masses $m_f$ that pass the faces, where $\theta_f$ is the logarithmic mean of the masses on
    both sides: a JKO step with the metric of its end. So, for every tau and every functional,
    the total mass is kept, masses stay positive, and the energy does not rise, even short of
    convergence; nothing passes the walls. First order in tau, second in the width of the
    cells where the density is smooth; it rests at minima of the discrete energy itself.

    Cells may start empty, as ahead of the fronts of a porous medium. Where the energy keeps a
    cell empty, it is left with a mass below the rounding of the whole, by an interior method
    of about twenty Newton steps.

    O(f^3) a Newton step for f faces: to about a thousand cells.

    Args:
        functional: Functional of the cells' centres and masses: `Potential`, `Interaction`,
            `Entropy`, `PorousMedium`, `DensityCap`, `HalfFisher`, `MMD`, ... and their sums.
        box: The cells.
        masses0: One number per cell, zero or positive, not all zero.
        t1: Last time, positive; may be traced.
        steps: Number of equal time steps.
        tol: Bound on `decrement` before the last Newton step; by default the square root of
            the dtype's precision, which leaves an error of about the precision.
        max_steps: Newton steps at most, each time step.

    Raises:
        ValueError: `masses0` does not match the box, or a number is not positive.

    Differentiation:
        First order, forward and reverse, in `masses0`, `t1` and the parameters of
        `functional`, implicitly at each step.

    Example:
        >>> gf = tx.gradient_flows
        >>> box = gf.CellBox((-1.0,), (1.0,), (4,))
        >>> heat = gf.Entropy(box.volume)
        >>> masses0 = jnp.array([0.7, 0.1, 0.1, 0.1])
        >>> path = gf.grid_flow(heat, box, masses0, t1=0.5, steps=2)
        >>> bool(path.completed), round(float(jnp.sum(path.masses[-1])), 2)
        (True, 1.0)

    References:
        Cances, Gallouet and Todeschi, A variational finite volume scheme for Wasserstein
        gradient flows, 2020; Maas, Gradient flows of the entropy for finite Markov chains,
        2011 (the mean).
    """
    centres = box.centres.astype(masses0.dtype)
    if masses0.shape != centres.shape[:1]:
        problem = f"has shape {masses0.shape}"
        _checks.reject("masses0", problem, f"give one mass a cell, shape {centres.shape[:1]}")
    _checks.floating("masses0", masses0)
    tau, tol = step_and_tolerance(t1, steps, tol, max_steps, masses0.dtype)
    return _grid_flow(functional, box, masses0, tau, tol, steps, max_steps)


@eqx.filter_jit
def _grid_flow(functional, box, masses0, tau, tol, num_steps, max_steps) -> GridFlow:
    centres = box.centres.astype(masses0.dtype)
    objective = _Objective(box)
    spread = _spreading(box, masses0.dtype)

    def step(masses, _):
        start = jnp.zeros(box.faces[0].size, masses.dtype)
        args = functional, centres, masses, tau
        walls = {"room": objective.room, "inside": spread(masses)}
        found = minimise(objective, start, args, **walls, tol=tol, max_steps=max_steps)
        moved = objective.moved(found.point, masses)
        return moved, (moved, functional.value(centres, moved), found.decrement, found.num_steps)

    _, (masses, energy, decrement, steps) = jax.lax.scan(step, masses0, None, length=num_steps)
    masses = jnp.concatenate([masses0[None, :], masses])
    energy = jnp.concatenate([functional.value(centres, masses0)[None], energy])
    times = tau * jnp.arange(num_steps + 1, dtype=tau.dtype)
    status = settled(masses, decrement, steps, tol, max_steps)
    infeasible = jnp.any(masses0 < 0) | (jnp.sum(masses0) <= 0) | (energy[0] == jnp.inf)
    status = judge((infeasible, Status.INFEASIBLE), otherwise=status)
    failed = (status == Status.INFEASIBLE) | (status == Status.NON_FINITE)
    masses, energy = (jnp.where(failed, jnp.nan, record) for record in (masses, energy))
    return GridFlow(times, masses, energy, decrement, jnp.sum(steps), status)


class _Objective(eqx.Module):
    """Energy after a step and the cost of getting there; infinite where a mass is lost."""

    box: CellBox

    def moved(self, passed: Float[Array, " f"], masses: Masses) -> Masses:
        before, behind, _ = self.box.faces
        return masses.at[before].add(-passed).at[behind].add(passed)

    def room(self, passed: Float[Array, " f"], args: Any) -> Masses:
        """What is in each cell: never less than nothing."""
        return self.moved(passed, args[2])

    def __call__(self, passed: Float[Array, " f"], args: Any) -> Float[Array, ""]:
        functional, centres, masses, tau = args
        before, behind, widths = self.box.faces
        moved = self.moved(passed, masses)
        passable = _logarithmic_mean(moved[before], moved[behind])
        squares = jnp.asarray(widths**2, passed.dtype) * passed**2
        value = functional.value(centres, moved) + jnp.sum(squares / passable) / (2 * tau)
        return jnp.where(jnp.all(moved > 0), value, jnp.inf)


def _spreading(box: CellBox, dtype: Any) -> Callable[[Masses], Float[Array, " f"]]:
    """From masses to what passes the faces, least in square, to bring them nearer to even ones."""
    before, behind, _ = box.faces
    count = box.centres.shape[0]
    laplacian = jnp.ones((count, count), dtype) / count
    for a, b in ((before, behind), (behind, before)):
        laplacian = laplacian.at[a, a].add(1).at[a, b].add(-1)
    factor = jax.scipy.linalg.cho_factor(laplacian)

    def passed(masses):
        excess = masses - jnp.mean(masses)
        heights = jax.scipy.linalg.cho_solve(factor, _SPREAD * excess)
        return heights[before] - heights[behind]

    return passed


def _logarithmic_mean(a: Array, b: Array) -> Array:
    """(a - b) / (log a - log b), concave, with which entropy's flux is a plain difference."""
    half = (jnp.log(a) - jnp.log(b)) / 2
    near = jnp.abs(half) < 0.2
    apart = jnp.where(near, 1, half)
    series = 1 + half**2 / 6 * (1 + half**2 / 20 * (1 + half**2 / 42 * (1 + half**2 / 72)))
    return jnp.sqrt(a * b) * jnp.where(near, series, jnp.sinh(apart) / apart)
