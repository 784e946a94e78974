"""Newton's method that only goes down, and the derivative of the minimum that it finds."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

Vector = Float[Array, " k"]
Scalar = Float[Array, ""]

# Step sizes tried are 1, 1/2, 1/4, ...; one of them must gain this share of what it promises.
_NUM_HALVINGS = 40
_SHARE = 1e-4


class Minimum(NamedTuple):
    """Where a descent ended.

    Attributes:
        point: The last point, no higher than the start.
        decrement: Twice what the last Newton step could still gain, over 1 + |objective|.
        num_steps: Newton steps.
    """

    point: Vector
    decrement: Scalar
    num_steps: Int[Array, ""]


class _State(NamedTuple):
    point: Vector
    value: Scalar
    decrement: Scalar
    steps: Int[Array, ""]
    stuck: Array


def minimise(
    objective: Callable[[Vector, PyTree], Scalar],
    start: Vector,
    args: Any,
    *,
    tol: float,
    max_steps: int,
) -> Minimum:
    """Minimise `objective(point, args)` from `start`, never rising. O(k^3) a step, O(k^2) memory.

    Args:
        objective: Twice differentiable where finite, infinite outside its domain.
        start: Inside the domain.
        args: Parameters, in which the answer differentiates.
        tol: Bound on `decrement` of the step after which to stop. The steps converge
            quadratically: what is left then is of its square.
        max_steps: Newton steps at most.

    Differentiation:
        First order in `args`, forward and reverse, implicitly: dz = -H^{-1} d(gradient).
    """
    # What the objective closes over is an argument too: it may be differentiated.
    problem = eqx.filter_closure_convert(objective, start, args), args
    return _minimum(problem, start=_held(start), tol=tol, max_steps=max_steps)


@eqx.filter_custom_jvp
def _minimum(problem, *, start, tol, max_steps):
    objective, args = _held(problem)
    found = _descend(lambda z: objective(z, args), start, tol, max_steps)
    return Minimum(found.point, found.decrement, found.steps)


@_minimum.def_jvp
def _minimum_jvp(primals, tangents, **options):
    found = _minimum(*primals, **options)

    def slope(problem):
        objective, args = problem
        return jax.grad(objective)(found.point, args)

    _, push = eqx.filter_jvp(slope, primals, tangents)
    objective, args = primals[0]
    moved = _newton_step(jax.hessian(objective)(found.point, args), push)
    return found, Minimum(moved, jnp.zeros_like(found.decrement), None)  # pyright: ignore


def _held(tree: Any) -> Any:
    return jax.tree.map(
        lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_inexact_array(leaf) else leaf, tree
    )


def _descend(objective, start, tol, max_steps) -> _State:
    def twice(point):
        slope = jax.grad(objective)(point)
        return slope, slope

    both = jax.jacfwd(twice, has_aux=True)

    def unfinished(state):
        return (state.decrement > tol) & (state.steps < max_steps) & ~state.stuck

    def step(state):
        hessian, slope = both(state.point)
        direction = _newton_step(hessian, slope)
        gain = -jnp.sum(slope * direction)
        sizes = 0.5 ** jnp.arange(_NUM_HALVINGS, dtype=start.dtype)
        values = jax.vmap(lambda size: objective(state.point + size * direction))(sizes)
        good = values < state.value - _SHARE * sizes * gain
        first, found = jnp.argmax(good), jnp.any(good)
        point = jnp.where(found, state.point + sizes[first] * direction, state.point)
        value = jnp.where(found, values[first], state.value)
        decrement = gain / (1 + jnp.abs(value))
        return _State(point, value, decrement, state.steps + 1, ~found)

    value = objective(start)
    infinite = jnp.full_like(value, jnp.inf)
    zero = jnp.zeros((), int)
    return jax.lax.while_loop(
        unfinished, step, _State(start, value, infinite, zero, ~jnp.isfinite(value))
    )


def _newton_step(hessian: Float[Array, "k k"], slope: Vector) -> Vector:
    """-H^{-1} slope; where H is not positive, with the absolute values of its eigenvalues."""
    diagonal = jnp.abs(jnp.diagonal(hessian))
    scale = jax.lax.rsqrt(jnp.where(diagonal > 0, diagonal, 1))
    hessian, slope = hessian * scale[:, None] * scale[None, :], slope * scale
    root = jnp.linalg.cholesky(hessian)
    positive = jnp.all(jnp.isfinite(root))

    def by_root():
        return jax.scipy.linalg.cho_solve((root, True), slope)

    def by_eigenvalues():
        values, vectors = jnp.linalg.eigh(hessian)
        sizes = jnp.maximum(jnp.abs(values), 1e-8 * jnp.max(jnp.abs(values)))
        return jnp.matmul(vectors, jnp.matmul(vectors.T, slope) / sizes)

    return -scale * jax.lax.cond(positive, by_root, by_eigenvalues)
