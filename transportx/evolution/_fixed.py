"""Fixed steps: a scan over a solver's own steps, differentiable in both modes."""

import math
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from transportx.evolution._steps import FixedSteps


class Stepped(NamedTuple):
    """The state at the last time or at those recorded, and whether every step was solved."""

    states: PyTree[Array]
    solved: Bool[Array, ""]


def fixed_steps(
    terms: PyTree[diffrax.AbstractTerm],
    y0: PyTree[Array],
    args: PyTree[Any],
    nodes: Float[Array, " nodes"],
    steps: FixedSteps,
    times: Float[Array, " k"] | None,
) -> Stepped:
    """Step over the nodes; records are interpolated by the solver within the step they lie in.

    The nodes are known beforehand, so also in which step each record lies. A step that holds
    records leaves its interpolant in a slot of its own; steps before it write to that slot, too,
    and are written over. The program has no branch, whatever the times.
    """
    solver, num = _for_both_modes(steps.solver), steps.num
    begun = solver.init(terms, nodes[0], nodes[1], y0, args)
    carried = jax.tree.map(eqx.is_array, begun)
    memory, fixed = eqx.partition(begun, carried)

    def step(y, memory, t0, t1):
        state = eqx.combine(memory, fixed)
        y, _, dense, state, result = solver.step(terms, t0, t1, y, args, state, False)
        solved = result == diffrax.RESULTS.successful
        memory = jax.tree.map(jnp.asarray, eqx.filter(state, carried))
        return y, memory, dense, solved

    def advance(carry, interval):
        y, memory, kept, solved = carry
        t0, t1, slot = interval
        y, memory, dense, well = step(y, memory, t0, t1)
        if times is not None:
            kept = jax.tree.map(lambda all, one: all.at[slot].set(one), kept, dense)
        return (y, memory, kept, solved & well), None

    kept, slots, within = None, jnp.zeros(num, jnp.int32), None
    if times is not None:
        within, slots = _slots(nodes, times)
        dense = jax.eval_shape(lambda y, memory: step(y, memory, nodes[0], nodes[1])[2], y0, memory)
        room = min(num, times.size) + 1
        kept = jax.tree.map(lambda one: jnp.zeros((room, *one.shape), one.dtype), dense)
    carry = y0, memory, kept, jnp.array(True)
    intervals = nodes[:-1], nodes[1:], slots
    y1, _, kept, solved = _scan(advance, carry, intervals, num, checkpoint=steps.checkpoint)
    if times is None or within is None:
        return Stepped(y1, solved)

    def at(time, index):
        dense = jax.tree.map(lambda all: all[slots[index]], kept)
        inside = solver.interpolation_cls(t0=nodes[index], t1=nodes[index + 1], **dense)
        return inside.evaluate(time)

    # A traced time may lie anywhere; outside of the span there is no answer.
    low, high = jnp.minimum(nodes[0], nodes[-1]), jnp.maximum(nodes[0], nodes[-1])
    known = (times >= low) & (times <= high)
    records = jax.vmap(at)(times, within)
    return Stepped(jax.tree.map(lambda one: _where(known, one), records), solved)


def _where(known: Bool[Array, " k"], records: Array) -> Array:
    """Records, and NaN where they are not known."""
    return jnp.where(known.reshape(-1, *[1] * (records.ndim - 1)), records, jnp.nan)


def _slots(nodes: Float[Array, " nodes"], times: Float[Array, " k"]) -> tuple[Array, Array]:
    """The step that each record lies in, and the slot that each step writes to."""
    num = nodes.size - 1
    forward = jnp.where(nodes[-1] >= nodes[0], 1, -1).astype(nodes.dtype)
    within = jnp.searchsorted(forward * nodes[1:], forward * times, side="left")
    within = jnp.minimum(within, num - 1).astype(jnp.int32)
    holds = jnp.zeros(num, jnp.int32).at[within].set(1)
    return within, jnp.cumsum(holds, dtype=jnp.int32) - holds


def _scan(step, carry, intervals, num: int, *, checkpoint: bool) -> Any:
    """Scan; with checkpoints, in blocks of about the root of their number."""
    if not checkpoint:
        return jax.lax.scan(step, carry, intervals)[0]
    step = jax.checkpoint(step, prevent_cse=False)

    @jax.checkpoint
    def several(carry, intervals):
        return jax.lax.scan(step, carry, intervals)

    size = math.isqrt(num)
    count = num // size
    blocks = [part[: count * size].reshape(count, size) for part in intervals]
    carry, _ = jax.lax.scan(several, carry, tuple(blocks))
    if num > count * size:
        carry, _ = several(carry, tuple(part[count * size :] for part in intervals))
    return carry


def _for_both_modes(solver: diffrax.AbstractSolver) -> diffrax.AbstractSolver:
    """The solver, its loop over stages of a kind that jax differentiates in both modes."""

    def mend(part):
        if isinstance(part, diffrax.AbstractRungeKutta) and part.scan_kind is None:
            return eqx.tree_at(lambda s: s.scan_kind, part, "bounded", is_leaf=lambda x: x is None)
        if isinstance(part, diffrax.AbstractSRK) and part.scan_kind is None:
            return eqx.tree_at(lambda s: s.scan_kind, part, "lax", is_leaf=lambda x: x is None)
        return part

    def loops(part):
        return isinstance(part, diffrax.AbstractRungeKutta | diffrax.AbstractSRK)

    return jax.tree.map(mend, solver, is_leaf=loops)
