"""Checks that all samplers make before they step: batch, conditions and times."""

from collections.abc import Callable

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree, ScalarLike

from transportx import _checks
from transportx.evolution import FixedSteps, check_times, time_dtype


def at_each(
    field: Callable[..., PyTree[Array]], t: Float[Array, ""], x: PyTree[Array], args: PyTree[Array]
) -> PyTree[Array]:
    """A field's values at every example of a batch, checked for their shape."""
    return jax.vmap(lambda x, args: check_rates(field(t, x, args), x))(x, args)


def check_rates(rates: PyTree[Array], x: PyTree[Array]) -> PyTree[Array]:
    """The rates, refused if their shapes are not those of the point."""
    for rate, part in zip(jax.tree.leaves(rates), jax.tree.leaves(x), strict=True):
        _checks.velocity(rate, part)
    return rates


def check_batch(name: str, x: PyTree[Array], args: PyTree[Array]) -> None:
    """Refuse an empty batch, and parts or conditions that do not match it."""
    leaves = jax.tree.leaves(x)
    if not leaves:
        _checks.reject(name, f"is {x!r}", "give at least one example, shape (b, ...)")
    for leaf in leaves:
        _checks.batch(name, leaf)
        _checks.same_size(name, leaf, name, leaves[0])
    for leaf in jax.tree.leaves(args):
        _checks.same_size("args", leaf, name, leaves[0])


def check_span(x0: PyTree[Array], args: PyTree[Array], t0: ScalarLike, t1: ScalarLike) -> None:
    """Refuse conditions that do not match the batch, and times outside [0, 1]."""
    for leaf in jax.tree.leaves(args):
        _checks.same_size("args", leaf, "x0", jax.tree.leaves(x0)[0])
    for name, time in (("t0", t0), ("t1", t1)):
        if not isinstance(time, Tracer) and not 0 <= np.asarray(time) <= 1:
            _checks.reject(name, f"is {time}", "give a time in [0, 1]")


def as_span(x0: PyTree[Array], t0: ScalarLike, t1: ScalarLike) -> tuple[Array, Array]:
    """Both times as arrays, so that other values of them compile nothing anew."""
    dtype = time_dtype(x0)
    return jnp.asarray(t0, dtype), jnp.asarray(t1, dtype)


def as_own_steps(steps: int | FixedSteps) -> FixedSteps:
    """Steps of a sampler that has a rule of its own: a number and a grid, and no solver."""
    if isinstance(steps, FixedSteps) and not isinstance(steps.solver, diffrax.Euler):
        problem = f"has the solver {type(steps.solver).__name__}, and this sampler has its own rule"
        _checks.reject("steps", problem, "give an int or `FixedSteps(num, grid=...)`")
    if not isinstance(steps, FixedSteps):
        _checks.count("steps", steps)
        return FixedSteps(int(steps))
    return steps


def as_records(
    times: Float[Array, " k"] | None, t0: ScalarLike, t1: ScalarLike
) -> Float[Array, " k"] | None:
    """Times to record, checked, or None."""
    if times is None:
        return None
    check_times("times", times, t0, t1)
    return jnp.asarray(times)


def still(t0: ScalarLike, t1: ScalarLike) -> bool:
    """Whether the two times are known to be one."""
    return not isinstance(t0, Tracer) and not isinstance(t1, Tracer) and bool(t0 == t1)
