"""Small transport problems inside models: doubly stochastic matrices, soft sorting."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from transportx import _checks
from transportx._precision import working
from transportx.geometry import CostMatrix, PointCloud
from transportx.ot._newton import Newton
from transportx.ot._one_dimensional import ratios_to
from transportx.ot._plan import EntropicPlan
from transportx.ot._solve import solve
from transportx.ot._solver import AbstractSolver


@_checks.gate
def birkhoff(
    logits: Float[Array, "n n"],
    *,
    temperature: ScalarLike = 1.0,
    solver: AbstractSolver = Newton(),
) -> EntropicPlan:
    r"""Sinkhorn projection: the doubly stochastic matrix nearest to exp(logits / temperature).

    Scales rows and columns of $\exp(L_{ij} / \tau)$ until all sum to one: the projection in
    relative entropy. A batch is a `vmap` of this.

    Args:
        logits: Square matrix L, shape (n, n).
        temperature: tau, positive; towards zero the matrix becomes the permutation of largest
            total logit.
        solver: Solver, with tolerance and step limit.

    Returns:
        The plan; the matrix itself is ``birkhoff(logits).matrix()``. Its derivatives are
        exact, by one linear solve, not by unrolling.

    Raises:
        ValueError: `logits` is not a square matrix of real numbers.

    Example:
        >>> logits = jnp.log(jnp.array([[1.0, 4.0], [1.0, 1.0]]))
        >>> matrix = tx.ot.birkhoff(logits).matrix()
        >>> round(float(matrix[0, 0]), 2), round(float(matrix[0, 1]), 2)
        (0.33, 0.67)

    References:
        Sinkhorn, A relationship between arbitrary positive matrices and doubly stochastic
        matrices, 1964; Mena, Belanger, Linderman and Snoek, Learning latent permutations
        with Gumbel-Sinkhorn networks, 2018.
    """
    if logits.ndim != 2 or logits.shape[0] != logits.shape[1] or logits.size == 0:
        cure = "give a square matrix, and vmap over batches"
        _checks.reject("logits", f"has shape {logits.shape}", cure)
    _checks.floating("logits", logits)
    _checks.positive("temperature", temperature)
    ones = jnp.ones(logits.shape[0], logits.dtype)
    return solve(CostMatrix(-logits), ones, ones, epsilon=temperature, solver=solver)


@_checks.gate
def soft_sort(
    x: Float[Array, " n"], *, epsilon: ScalarLike = 0.01, solver: AbstractSolver = Newton()
) -> Float[Array, " n"]:
    """Differentiable sorting by optimal transport: rising values, each a mean of values near it.

    Args:
        x: Values, shape (n,).
        epsilon: Softness, in units of the variance of `x`. Towards zero the result is
            ``jnp.sort(x)``; towards infinity, the mean everywhere.
        solver: Solver, with tolerance and step limit.

    Returns:
        The values; NaN if the solve did not converge: `sorting_plan` says why. Their sum
        is that of `x`, to the tolerance.

    Raises:
        ValueError: `x` is empty or not of shape (n,).

    Example:
        >>> values = tx.ot.soft_sort(jnp.array([3.0, 1.0, 2.0]), epsilon=1e-3)
        >>> [round(float(value), 1) for value in values]
        [1.0, 2.0, 3.0]

    References:
        Cuturi, Teboul and Vert, Differentiable ranks and sorting using optimal transport,
        2019.
    """
    plan = sorting_plan(x, epsilon=epsilon, solver=solver)
    relative, unit = _relative(x)
    values = unit * (x.size * (plan.T @ relative))
    return jnp.where(plan.converged, values, jnp.nan).astype(x.dtype)


@_checks.gate
def soft_rank(
    x: Float[Array, " n"], *, epsilon: ScalarLike = 0.01, solver: AbstractSolver = Newton()
) -> Float[Array, " n"]:
    """Differentiable ranks from 0 to n - 1, by optimal transport.

    Towards epsilon zero they are ``jnp.argsort(jnp.argsort(x))``.

    Args:
        x: Values, shape (n,).
        epsilon: Softness, in units of the variance of `x`.
        solver: Solver, with tolerance and step limit.

    Returns:
        The ranks; NaN if the solve did not converge: `sorting_plan` says why. Their sum
        is n (n - 1) / 2, to the tolerance.

    Raises:
        ValueError: `x` is empty or not of shape (n,).

    Example:
        >>> ranks = tx.ot.soft_rank(jnp.array([3.0, 1.0, 2.0]), epsilon=1e-3)
        >>> [abs(round(float(rank), 1)) for rank in ranks]
        [2.0, 0.0, 1.0]

    References:
        Cuturi, Teboul and Vert, Differentiable ranks and sorting using optimal transport,
        2019.
    """
    plan = sorting_plan(x, epsilon=epsilon, solver=solver)
    relative, _ = _relative(x)
    ranks = x.size * (plan @ jnp.arange(x.size, dtype=relative.dtype))
    return jnp.where(plan.converged, ranks, jnp.nan).astype(x.dtype)


@_checks.gate
def sorting_plan(
    x: Float[Array, " n"], *, epsilon: ScalarLike = 0.01, solver: AbstractSolver = Newton()
) -> EntropicPlan:
    """The entropic plan that `soft_sort` and `soft_rank` rest on, with its status.

    It transports the standardised values onto n increasing places of the same spread.

    Args:
        x: Values, shape (n,).
        epsilon: Softness, in units of the variance of `x`, positive.
        solver: Tolerance and step limit.

    Raises:
        ValueError: `x` is no vector of real numbers, or `epsilon` is a Python number that is not
            positive.

    Example:
        >>> plan = tx.ot.sorting_plan(jnp.array([3.0, 1.0, 2.0]))
        >>> bool(plan.converged), plan.matrix().argmax(1).tolist()
        (True, [2, 0, 1])
    """
    _check_values(x)
    values, _ = _relative(x)
    # In units of the largest: a spread far below the values themselves has squares, too.
    centred, _ = _relative(values - jnp.mean(values))
    variance = jnp.mean(centred**2)
    varies = variance > 0
    scaled = jnp.where(varies, centred / jnp.sqrt(jnp.where(varies, variance, 1)), 0 * centred)
    places = jnp.linspace(-jnp.sqrt(3.0), jnp.sqrt(3.0), x.size).astype(values.dtype)
    return solve(PointCloud(scaled[:, None], places[:, None]), epsilon=epsilon, solver=solver)


def _relative(x: Float[Array, " n"]) -> tuple[Float[Array, " n"], Float[Array, ""]]:
    """Values in units of the largest, and that: so that no sum or square overflows."""
    x = x.astype(working(x.dtype))
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(x)))
    return ratios_to(largest, x), jnp.where(largest > 0, largest, 1)


def _check_values(x: Array) -> None:
    if x.ndim != 1 or x.size == 0:
        _checks.reject("x", f"has shape {x.shape}", "give at least one value, shape (n,)")
    _checks.floating("x", x)
