"""Newton's method among walls, and the derivative of the minimum that it finds."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

Vector = Float[Array, " k"]
Scalar = Float[Array, ""]

# Step sizes tried halve from the longest; one of them must gain this share of what it promises.
_NUM_HALVINGS = 40
_SHARE = 1e-4
# A step takes at most this share of what is left before a wall.
_REACH = 0.99
# Newton may start beside walls if its whole step moves each by at most this share of its room.
_NEAR = 0.5
# Pressures stay within this factor of those that the barrier exerts.
_SPREAD = 1e8


class Minimum(NamedTuple):
    """Where a descent ended.

    Attributes:
        point: The last point if it meets the tolerance, else the lowest; never above the start.
        decrement: Twice what the last Newton step could still gain, over 1 + |objective|.
        num_steps: Newton steps.
    """

    point: Vector
    decrement: Scalar
    num_steps: Int[Array, ""]


class _State(NamedTuple):
    point: Vector
    value: Scalar
    pressures: Float[Array, " walls"]
    barrier: Scalar
    decrement: Scalar
    steps: Int[Array, ""]
    stuck: Bool[Array, ""]
    lowest: Vector
    least: Scalar


def no_walls(point: Vector, args: Any) -> Float[Array, " walls"]:
    """The room of a descent that may go anywhere."""
    return jnp.zeros(0, point.dtype)


def minimise(
    objective: Callable[[Vector, PyTree], Scalar],
    start: Vector,
    args: Any,
    *,
    room: Callable[[Vector, PyTree], Vector],
    inside: Vector,
    tol: float,
    max_steps: int,
) -> Minimum:
    r"""Minimise `objective(point, args)` where `room(point, args) > 0`, never rising.

    O(k^3) a step, O(k^2) memory. Where the first Newton step from `start` leaves every wall
    about as far as it was, Newton's method goes on from there. Otherwise walls matter, and a
    primal-dual interior method starts at `inside`: it minimises $f - \kappa\sum_i\log r_i$ for
    rooms r and falling $\kappa$, with the curvature $z_i / r_i$ of wall i in the Hessian, where
    the pressure z is the wall's force at the end of the last step. It passes close to no wall
    before it knows which ones hold the minimum, in a number of steps that hardly depends on
    where these are. A method that starts beside walls crawls along them, and gains so little
    that it seems to have arrived.

    Args:
        objective: Twice differentiable where there is room, or infinite.
        start: The answer is never above it.
        args: Parameters, in which the answer differentiates.
        room: Affine in the point; every entry stays positive. `no_walls` where all is open.
        inside: A point far from all walls; `start` where there are none.
        tol: Bound on `decrement` of the step after which to stop. The steps converge
            quadratically: what is left then is of its square.
        max_steps: Newton steps at most.

    Differentiation:
        First order in `args`, forward and reverse, implicitly: dz = -H^{-1} d(gradient), of the
        Hessian with its walls: what rests on a wall stays there.

    References:
        Nocedal and Wright, Numerical Optimization, 2006, chapter 19.
    """

    def both(point, args):
        return objective(point, args), room(point, args)

    # What the objective closes over is an argument too: it may be differentiated.
    problem = eqx.filter_closure_convert(both, start, args), args
    starts = _held((start, inside))
    found, _ = _minimum(problem, starts=starts, tol=tol, max_steps=max_steps)
    return found


@eqx.filter_custom_jvp
def _minimum(problem, *, starts, tol, max_steps):
    function, args = _held(problem)
    start, inside = starts
    end = _descend(lambda z: function(z, args), start, inside, tol, max_steps)
    low = (end.decrement > tol) & (end.least < end.value)
    point = jnp.where(low, end.lowest, end.point)
    return Minimum(point, end.decrement, end.steps), end.pressures


@_minimum.def_jvp
def _minimum_jvp(primals, tangents, **options):
    found, pressures = _minimum(*primals, **options)
    function, args = primals[0]
    resting = function(found.point, args)[1]
    stiffness = pressures / resting

    def slope(problem):
        function, args = problem
        sprung = _sprung(lambda z: function(z, args), resting, stiffness)
        return jax.grad(sprung)(found.point)

    _, push = eqx.filter_jvp(slope, primals, tangents)
    hessian = jax.hessian(_sprung(lambda z: function(z, args), resting, stiffness))(found.point)
    moved = _newton_step(hessian, push)
    still = Minimum(moved, jnp.zeros_like(found.decrement), None)  # pyright: ignore
    return (found, pressures), (still, jnp.zeros_like(pressures))


def _held(tree: Any) -> Any:
    return jax.tree.map(
        lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_inexact_array(leaf) else leaf, tree
    )


def _sprung(function, resting, stiffness) -> Callable[[Vector], Scalar]:
    """The objective with a spring at each wall, at rest now: it adds to the curvature alone."""

    def sprung(point):
        value, room = function(point)
        return value + jnp.sum(stiffness * (room - resting) ** 2) / 2

    return sprung


def _slope_and_hessian(function, point, pressures) -> tuple[Vector, Float[Array, "k k"]]:
    resting = function(point)[1]
    sprung = _sprung(function, resting, pressures / resting)

    def twice(point):
        slope = jax.grad(sprung)(point)
        return slope, slope

    hessian, slope = jax.jacfwd(twice, has_aux=True)(point)
    return slope, hessian


def _descend(function, start, inside, tol, max_steps) -> _State:
    value, room = function(start)
    beside = _State(
        start,
        value,
        pressures=jnp.zeros_like(room),
        barrier=jnp.zeros_like(value),
        decrement=jnp.full_like(value, jnp.inf),
        steps=jnp.zeros((), int),
        stuck=jnp.zeros((), bool),
        lowest=start,
        least=jnp.where(jnp.isnan(value), jnp.inf, value),
    )
    central = _central(function, inside, beside)

    def unfinished(state):
        going = (state.decrement > tol) | (state.barrier > 2 * _last_barrier(state))
        return going & (state.steps < max_steps) & ~state.stuck

    def step(state):
        onward, near = _step(function, state)
        lost = (state.steps == 0) & (state.barrier == 0) & ~near
        fresh = central._replace(steps=onward.steps, lowest=onward.lowest, least=onward.least)
        return jax.tree.map(lambda new, old: jnp.where(lost, new, old), fresh, onward)

    bad = ~jnp.isfinite(value)
    first = jax.tree.map(lambda new, old: jnp.where(bad, new, old), central, beside)
    return jax.lax.while_loop(unfinished, step, first)


def _central(function, inside, beside: _State) -> _State:
    """Where the interior method starts: all walls press alike, as hard as the steepest slope."""
    value, room = function(inside)
    slope = jax.grad(lambda point: function(point)[0])(inside)
    barrier = jnp.max(jnp.abs(slope)) * jnp.sum(room) / max(room.size, 1)
    return beside._replace(
        point=inside,
        value=value,
        pressures=barrier / room,
        barrier=barrier,
        stuck=~jnp.isfinite(value),
    )


def _unit(state: _State) -> Scalar:
    """The barrier that weighs as much as the objective."""
    return (1 + jnp.abs(state.value)) / max(state.pressures.size, 1)


def _last_barrier(state: _State) -> Scalar:
    """The least barrier that the rounding of the objective knows of."""
    return jnp.finfo(state.value.dtype).eps * _unit(state)


def _next_barrier(state: _State, gain: Scalar) -> Scalar:
    """Lower, faster and faster, where what Newton can still gain is less than the barrier."""
    now = state.barrier
    lower = jnp.minimum(now / 10, now * jnp.sqrt(now / _unit(state)))
    settled = gain <= state.pressures.size * now
    return jnp.where(settled, jnp.minimum(jnp.maximum(lower, _last_barrier(state)), now), now)


def _step(function, state: _State) -> tuple[_State, Bool[Array, ""]]:
    """One Newton step at a fixed barrier, and whether it leaves all walls about as they were."""
    point, value, barrier = state.point, state.value, state.barrier
    slope, hessian = _slope_and_hessian(function, point, state.pressures)
    room, pull = jax.vjp(lambda point: function(point)[1], point)
    slope = slope - pull(barrier / room)[0]
    direction = _newton_step(hessian, slope)
    gain = -jnp.sum(slope * direction)
    _, moved = jax.jvp(lambda point: function(point)[1], (point,), (direction,))
    longest = jnp.min(jnp.where(moved < 0, -_REACH * room / moved, 1), initial=1)
    sizes = longest * 0.5 ** jnp.arange(_NUM_HALVINGS, dtype=point.dtype)

    def gained(size):
        reached = function(point + size * direction)[0]
        widened = jnp.sum(jnp.log1p(size * moved / room))
        return reached, value - reached + barrier * widened

    values, gains = jax.vmap(gained)(sizes)
    good = gains > _SHARE * sizes * gain
    first, found = jnp.argmax(good), jnp.any(good)
    size = jnp.where(found, sizes[first], 0)
    point = point + size * jnp.where(found, direction, 0)
    value = jnp.where(found, values[first], value)
    # Pressures go as far as the point: a whole step of theirs after a short one of it swings.
    ahead = (barrier - state.pressures * moved) / room
    pressures = state.pressures + size * (ahead - state.pressures)
    central = barrier / function(point)[1]
    lower = value < state.least
    state = state._replace(
        point=point,
        value=value,
        pressures=jnp.clip(pressures, central / _SPREAD, central * _SPREAD),
        decrement=(gain + room.size * barrier) / (1 + jnp.abs(value)),
        steps=state.steps + 1,
        stuck=~found,
        lowest=jnp.where(lower, point, state.lowest),
        least=jnp.where(lower, value, state.least),
    )
    near = jnp.all(jnp.abs(moved) <= _NEAR * room)
    return state._replace(barrier=_next_barrier(state, gain)), near


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
