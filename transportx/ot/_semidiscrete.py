"""`semidiscrete`: from a source to draw from, and data, to the potentials of the data."""

import math
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, ScalarLike

from transportx import _checks
from transportx._precision import working
from transportx._status import Status, judge
from transportx.ot._grid_density import GridDensity, lines_through
from transportx.ot._line_cells import line_cells
from transportx.ot._power_cells import heights, sampled_cells, tiles
from transportx.ot._semidiscrete_ascent import ascend, start_between
from transportx.ot._semidiscrete_newton import affine_potentials, line_potentials, newton_potentials
from transportx.ot._semidiscrete_plan import CellAudit, SemiDiscretePlan

Scalar = Float[Array, ""]
# Newton's steps between which the lines are walked.
_NEWTON_STEPS = 50
# Points that a default draws at most: where tol asks for more, the status will say so.
_MOST_POINTS = 2**24
_LEAST_BATCH = 256
# Masses add up to one up to this many units of rounding.
_MASS_SLACK = 100


@_checks.gate
def semidiscrete(
    sampler: Callable[..., Float[Array, "num d"]] | GridDensity,
    y: Float[Array, "m d"],
    b: Float[Array, " m"] | None = None,
    *,
    epsilon: ScalarLike = 0.0,
    key: PRNGKeyArray,
    init: Float[Array, " m"] | None = None,
    tol: float = 0.05,
    num_steps: int = 500,
    batch: int | None = None,
    num_audit: int | None = None,
) -> SemiDiscretePlan:
    r"""Solve semidiscrete optimal transport from a source to draw from to weighted data.

    Maximises the concave semi-dual
    $\langle b, g\rangle + E_x \min_j (|x - y_j|^2 - g_j)$, whose gradient is b less the masses
    of the cells $\{x : |x - y_j|^2 - g_j \text{ is smallest}\}$; for epsilon > 0 the minimum is
    $-\varepsilon \log \sum_j b_j \exp((g_j - |x - y_j|^2) / \varepsilon)$. At the optimum every
    cell holds the weight of its point, so that noise meets a whole data set, not a batch of it.

    A sampler is solved by averaged stochastic steps, from the potentials of an entropic plan
    between a few thousand of its points and the data. A density on the line is solved in closed
    form, one in the plane by damped Newton steps from an affine map. All is then audited on fresh
    points or lines.

    Args:
        sampler: Source of mass one: a function that draws, ``sampler(key=key, num=num)``, of
            shape (num, d), such as `gaussians.Mixture.sample`; or a `GridDensity`. A function
            made anew for each call is compiled anew.
        y: Data, shape (m, d). Of equal points one holds the cell of all: give each once, with
            their weights added.
        b: Weights of the data, shape (m,), not negative and of total one; uniform by default. A
            point of weight zero has no cell, wherever it is.
        epsilon: Regularisation, in units of the cost; Python's zero, for none, is the default.
        key: Randomness of all draws.
        init: Potentials to start from, shape (m,), such as `plan.g` of a similar problem.
        tol: Bound on the L1 distance of the masses of all cells from `b`.
        num_steps: Number of stochastic steps.
        batch: Points per step. By default all steps draw 4 m / tol^2 points together, 2^25 at
            most: sampling alone then leaves an error of 0.4 tol.
        num_audit: Points of the audit; half as many by default, which cannot tell errors below
            0.6 tol from none.

    Returns:
        A plan whose `status` is CONVERGED only if the L1 distance, less three of its standard
        errors, is below `tol` on points that no step has seen; else MAX_STEPS, or STALLED where
        Newton's method ends short of it. Weights that are negative or not of total one, and
        densities without mass, are INFEASIBLE; NaN in the data or among the points is NON_FINITE;
        both have NaN potentials.

    Raises:
        ValueError: The sampler draws points of another shape than the data, weights do not match
            the data, `tol` or a number of points is not positive, `epsilon` is negative, or it
            is not zero for a `GridDensity`.

    Differentiation:
        `value` by the envelope theorem, to first order, with respect to `y`, `b` and `epsilon`. All
        else is a constant.

    Example:
        >>> y = jnp.array([[-1.0], [0.5], [1.0]])
        >>> def normal(*, key, num):
        ...     return jr.normal(key, (num, 1))
        >>> plan = tx.ot.semidiscrete(normal, y, key=jr.key(0), tol=0.02)
        >>> bool(plan.converged), plan.masses.shape
        (True, (3,))
        >>> border = (y[1] ** 2 - y[0] ** 2 - plan.g[1] + plan.g[0]) / (2 * (y[1] - y[0]))
        >>> round(float(jax.scipy.stats.norm.cdf(border[0])), 1)  # a third lies below
        0.3

    References:
        Genevay, Cuturi, Peyre and Bach, Stochastic optimization for large-scale optimal
        transport, 2016; Kitagawa, Merigot and Thibert, Convergence of a Newton algorithm for
        semi-discrete optimal transport, 2019; Mousavi-Hosseini, Zhang, Klein and Cuturi, Flow
        matching with semidiscrete couplings, 2025.
    """
    _check_numbers(epsilon, tol, num_steps, batch, num_audit)
    dtype = _check_points(sampler, y, b, init, key)
    m = y.shape[0]
    if b is None:
        b = jnp.full(m, 1 / m, dtype)
    regularised = not _is_zero(epsilon)
    if regularised and isinstance(sampler, GridDensity):
        cure = "give a function that draws from it, `density.sample`, as the sampler"
        _checks.reject("epsilon", "is not zero for a `GridDensity`", cure)
    epsilon = jnp.asarray(epsilon, dtype)
    needed = min(_MOST_POINTS, math.ceil(2 * m / tol**2))
    options = _Options(
        tol,
        num_steps,
        max(_LEAST_BATCH, -(-2 * needed // num_steps)) if batch is None else batch,
        max(1000, needed) if num_audit is None else num_audit,
        regularised,
    )
    found = _solved(sampler, y, b, epsilon, init, key, options)
    return SemiDiscretePlan(y, b.astype(dtype), found.g, epsilon, *found[1:], regularised)


class _Options(NamedTuple):
    """What a compiled program is made for."""

    tol: float
    num_steps: int
    batch: int
    num_audit: int
    regularised: bool


class _Found(NamedTuple):
    """What the plan knows beside its problem."""

    g: Float[Array, " m"]
    audit: CellAudit
    num_steps: Int[Array, ""]
    status: Status


# Compiled, and without the data, which would be copied: the plan takes them from the caller.
@eqx.filter_jit
def _solved(sampler, y, b, epsilon, init, key, options: _Options) -> _Found:
    sampler, y, b, epsilon, init = jax.tree.map(_held, (sampler, y, b, epsilon, init))
    known, feasible = _is_sound(sampler, y, b)
    known &= (epsilon > 0) & (epsilon < jnp.inf) if options.regularised else True
    if isinstance(sampler, GridDensity):
        sampler = jax.tree.map(lambda part: part.astype(epsilon.dtype), sampler)
    # What is no number is of weight zero, or fails.
    y, b = jnp.where(jnp.isfinite(y), y, 0).astype(epsilon.dtype), b.astype(epsilon.dtype)
    b = b / jnp.sum(b)
    keys = jr.split(key)
    g, steps = _potentials(sampler, y, b, epsilon, init, keys[0], options)
    some = b > 0
    g = g - jnp.sum(jnp.where(some, b * g, 0))
    audit = _audit(sampler, y, b, g, epsilon, keys[1], options)
    error = audit.mass_error(b) - 3 * audit.sampling_error(b)
    numbers = jnp.all(jnp.isfinite(g)) & jnp.isfinite(error) & jnp.isfinite(audit.scatter)
    short = jnp.asarray(steps < _NEWTON_STEPS) & isinstance(sampler, GridDensity)
    status = judge(
        (~known, Status.NON_FINITE),
        (~feasible, Status.INFEASIBLE),
        (~numbers, Status.NON_FINITE),
        (error <= options.tol, Status.CONVERGED),
        (short, Status.STALLED),
        otherwise=Status.MAX_STEPS,
    )
    failed = (status == Status.NON_FINITE) | (status == Status.INFEASIBLE)
    g, audit = jax.tree.map(lambda part: jnp.where(failed, jnp.nan, part), (g, audit))
    return _Found(g, audit, steps, status)


def _potentials(
    sampler, y, b, epsilon, init, key, options: _Options
) -> tuple[Float[Array, " m"], Int[Array, ""]]:
    """The potentials, and the number of steps to them."""
    if isinstance(sampler, GridDensity):
        lines = lines_through(sampler, 0.25)
        if y.shape[1] == 1:
            along = y[:, 0] - lines.origins[0, 0]
            g = line_potentials(lines.edges[0], lines.masses[0], along, b)
            return g, jnp.zeros((), jnp.int32)
        start = affine_potentials(y, b, sampler.low, sampler.high) if init is None else init
        start = start.astype(y.dtype)
        return newton_potentials(lines, y, b, start, max_steps=_NEWTON_STEPS)
    start_key, step_key = jr.split(key)
    chosen = epsilon if options.regularised else None
    start, unit = start_between(sampler, y, b, chosen, init, key=start_key)
    g = ascend(
        sampler,
        heights(y, start, b),
        b,
        unit,
        chosen,
        key=step_key,
        num_steps=options.num_steps,
        batch=options.batch,
    )
    return start + g, jnp.full((), options.num_steps, jnp.int32)


def _audit(sampler, y, b, g, epsilon, key, options: _Options) -> CellAudit:
    """What the cells hold of points, or of lines, not seen so far."""
    data = heights(y, g, b)
    if isinstance(sampler, GridDensity):
        lines = lines_through(sampler, 0.75)
        sums, _ = line_cells(lines, data, borders=False)
        total = jnp.sum(lines.masses)
        sums, share = jax.tree.map(lambda part: part / total, sums), 0.0
    else:
        chosen = epsilon if options.regularised else None
        sums = sampled_cells(sampler, data, chosen, key=key, num=options.num_audit)
        share = 1 / math.prod(tiles(options.num_audit, b.size))
    masses = sums.masses
    full = (masses > 0)[:, None]
    means = sums.moments / jnp.where(full, masses[:, None], 1)
    centroids = jnp.where(full, means + data.centre[None, :], y)
    within = jnp.maximum(sums.squares - jnp.sum(masses * jnp.sum(means**2, axis=1)), 0)
    return CellAudit(masses, centroids, within, sums.information, jnp.full_like(within, share))


def _is_sound(sampler, y, b) -> tuple[Bool[Array, ""], Bool[Array, ""]]:
    """Whether all that counts is a number; whether masses can be transported."""
    known = jnp.all(jnp.isfinite(b))
    known &= jnp.all(jnp.all(jnp.isfinite(y), axis=1) | (b == 0))
    slack = _MASS_SLACK * float(jnp.finfo(b.dtype).eps)
    feasible = jnp.all(b >= 0) & (jnp.abs(jnp.sum(b) - 1) <= slack)
    if isinstance(sampler, GridDensity):
        parts = sampler.masses, sampler.low, sampler.high
        known &= jnp.all(jnp.stack([jnp.all(jnp.isfinite(part)) for part in parts]))
        feasible &= jnp.all(sampler.masses >= 0) & jnp.any(sampler.masses > 0)
        feasible &= jnp.all(sampler.high > sampler.low)
    return known, feasible


def _held(leaf):
    return jax.lax.stop_gradient(leaf) if eqx.is_inexact_array(leaf) else leaf


def _is_zero(epsilon: ScalarLike) -> bool:
    """Whether epsilon is known to be zero before anything runs."""
    return not isinstance(epsilon, Tracer) and bool(np.asarray(epsilon) == 0)


def _check_numbers(epsilon, tol, num_steps, batch, num_audit) -> None:
    _checks.not_negative("epsilon", epsilon)
    _checks.scale("tol", tol)
    _checks.count("num_steps", num_steps)
    for name, number in (("batch", batch), ("num_audit", num_audit)):
        if number is not None:
            _checks.count(name, number)


def _check_points(sampler, y, b, init, key) -> np.dtype:
    """That the source draws points like the data; the dtype to compute in."""
    _checks.points("y", y)
    for name, part in (("b", b), ("init", init)):
        if part is not None:
            _checks.shaped(name, part, y.shape[:1], "one number per point of `y`")
            _checks.floating(name, part)
    parts = [part.dtype for part in (y, b, init) if part is not None]
    if isinstance(sampler, GridDensity):
        dim, drawn = sampler.masses.ndim, sampler.masses.dtype
    else:
        shape = jax.eval_shape(lambda key: sampler(key=key, num=2), key)
        if getattr(shape, "shape", None) != (2, y.shape[1]):
            problem = f"draws {getattr(shape, 'shape', shape)} for 2 points"
            _checks.reject("sampler", problem, f"draw shape (num, {y.shape[1]}), as `y` has")
        dim, drawn = y.shape[1], shape.dtype
        if not jnp.issubdtype(drawn, jnp.floating):
            _checks.reject("sampler", f"draws dtype {drawn}", "draw floating-point numbers")
    if dim != y.shape[1]:
        _checks.reject(
            "y", f"has points of {y.shape[1]} coordinates", f"give {dim}, as the density"
        )
    return working(*parts, drawn)
