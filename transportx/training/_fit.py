"""The training loop: chunks of steps inside one compiled scan, Python between chunks."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from transportx import _checks
from transportx.training._state import Step, TrainState


class NonFiniteLossError(FloatingPointError):
    """Training stopped: a loss, or the parameters after a finite loss, were NaN or infinite.

    Args:
        step: Number of the step, counted from 0; kept as the attribute `step`.
        culprit: Name of the quantity that is not finite, for the message.

    Example:
        >>> str(tx.training.NonFiniteLossError(3))
        'the loss of step 3 is not finite; ...'
    """

    def __init__(self, step: int, culprit: str = "loss"):
        self.step = step
        super().__init__(
            f"the {culprit} of step {step} is not finite; lower the learning rate, clip gradients "
            "or look for NaN in the data. `on_chunk` saw no state of this chunk"
        )


@_checks.gate
def fit(
    state: TrainState,
    step: Step,
    draw_batch: Callable[..., Any],
    *,
    num_steps: int,
    key: PRNGKeyArray,
    on_chunk: Callable[[TrainState, np.ndarray], None] | None = None,
    chunk_size: int = 100,
    draw_ahead: int = 1,
    donate: bool = False,
) -> tuple[TrainState, np.ndarray]:
    """Train for `num_steps` more steps.

    Chunks of `chunk_size` steps run as one `lax.scan`, with batches drawn inside it. Chunks
    end at multiples of `chunk_size` in the count of all steps, so a run resumed from a
    state that `on_chunk` saw repeats the uninterrupted run bit for bit on one machine.

    Args:
        state: State from `init`, or a saved one.
        step: Step from `make_step`.
        draw_batch: `draw_batch(key=key) -> batch`, traced. Give data as arrays of an
            `equinox.Partial` or module, not in a closure, so that they are arguments of
            the compiled loop and not constants inside it.
        num_steps: Number of steps to run now; 0 is allowed.
        key: Key of the run. Step n uses `fold_in(key, n)`.
        on_chunk: Called as `on_chunk(state, losses)` after each chunk, with finite losses.
        chunk_size: Number of steps in a chunk, at least 1.
        draw_ahead: Number of batches that are drawn at once, by `vmap`, and stored until their
            steps come. Exact couplings are about twice as fast at 4, on a CPU.
        donate: Give the memory of `state` to the run, which then stores one state less. The
            arrays of `state` are gone afterwards, also where a field shares them, and those
            that `on_chunk` saw are gone once the next chunk runs: copy there what is to stay.
            After a loss that is not finite no state is left but such copies.

    Returns:
        The last state, and the losses of these steps as a numpy array of shape (num_steps,).

    Raises:
        ValueError: A count is negative or not an integer.
        NonFiniteLossError: A loss, or the parameters after the last step of a chunk, are not
            finite. It is raised before `on_chunk` would see the state of that chunk.

    Example:
        >>> def loss(field, batch, *, key):
        ...     return jnp.mean((field.weight - batch) ** 2)
        >>> def draw_batch(*, key):
        ...     return jnp.ones((1, 1))
        >>> optimizer = optax.sgd(0.5)  # one step ends at the minimum
        >>> state = tx.training.init(eqx.nn.Linear(1, 1, key=jr.key(0)), optimizer)
        >>> step = tx.training.make_step(loss, optimizer)
        >>> state, losses = tx.training.fit(state, step, draw_batch, num_steps=2, key=jr.key(1))
        >>> round(float(losses[-1]), 3)
        0.0
    """
    _checks.count("num_steps", num_steps, least=0)
    _checks.count("chunk_size", chunk_size)
    _checks.count("draw_ahead", draw_ahead)
    losses = []
    if donate:
        state = _unshared(state, (step, draw_batch, key))
    run_chunk = _run_chunk_in_place if donate else _run_chunk
    taken = int(state.num_steps)
    end = taken + num_steps
    while taken < end:
        length = int(min(chunk_size - taken % chunk_size, end - taken))
        state, chunk, sound = run_chunk((step, draw_batch, key, length, draw_ahead), state)
        chunk = np.asarray(chunk)
        if not np.all(np.isfinite(chunk)):
            raise NonFiniteLossError(taken + int(np.argmin(np.isfinite(chunk))))
        if not sound:
            raise NonFiniteLossError(taken + length - 1, "gradient or update")
        if on_chunk is not None:
            on_chunk(state, chunk)
        losses.append(chunk)
        taken += length
    return state, np.concatenate(losses) if losses else np.zeros(0)


def _unshared(state: TrainState, others: Any) -> TrainState:
    """The state in memory that nothing else uses: it can be given away only once."""
    taken = set()

    def own(leaf: Array) -> Array:
        places = {
            (shard.device, shard.data.unsafe_buffer_pointer()) for shard in leaf.addressable_shards
        }
        if not taken.isdisjoint(places):
            return jnp.copy(leaf)
        taken.update(places)
        return leaf

    jax.tree.map(own, eqx.filter(others, eqx.is_array))
    arrays, rest = eqx.partition(state, eqx.is_array)
    return eqx.combine(jax.tree.map(own, arrays), rest)


def _chunk(
    run: tuple[Step, Callable[..., Any], PRNGKeyArray, int, int], state: TrainState
) -> tuple[TrainState, Float[Array, " length"], Bool[Array, ""]]:
    step, draw_batch, key, length, draw_ahead = run
    arrays, static = eqx.partition(state, eqx.is_array)
    # One flag an array, so that the memory of a state that is given away is free at once.
    finite = _finite(state)

    def take_step(arrays, drawn):
        batch, key = drawn
        state, loss = step(eqx.combine(arrays, static), batch, key=key)
        return eqx.filter(state, eqx.is_array), loss

    def draw(num_steps):
        batch_key, loss_key = jr.split(jr.fold_in(key, num_steps))
        return draw_batch(key=batch_key), loss_key

    def take_several(num, arrays, _):
        if num == 1:
            return take_step(arrays, draw(arrays.num_steps))
        counts = arrays.num_steps + jnp.arange(num, dtype=arrays.num_steps.dtype)
        return jax.lax.scan(take_step, arrays, jax.vmap(draw)(counts))

    losses = []
    for num, groups in ((draw_ahead, length // draw_ahead), (1, length % draw_ahead)):
        if groups > 0:
            body = functools.partial(take_several, num)
            arrays, found = jax.lax.scan(body, arrays, length=groups)
            losses.append(found.ravel())
    after = eqx.combine(arrays, static)
    sound = jnp.all(_finite(after) | ~finite)
    return after, jnp.concatenate(losses), sound


def _finite(state: TrainState) -> Bool[Array, " leaves"]:
    """Which arrays of parameters are finite: what a last gradient spoils shows in no loss."""
    leaves = jax.tree.leaves(eqx.filter((state.field, state.average), eqx.is_inexact_array))
    return jnp.array([True, *(jnp.all(jnp.isfinite(leaf)) for leaf in leaves)])


_run_chunk = eqx.filter_jit(_chunk)
_run_chunk_in_place = eqx.filter_jit(_chunk, donate="all-except-first")
