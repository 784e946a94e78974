"""What training carries from step to step, and one step of it."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from transportx import _checks
from transportx._meshes import automatic, released
from transportx.training._parts import differentiate_parts

Step = Callable[..., tuple["TrainState", Float[Array, ""]]]


@_checks.gate
class TrainState(eqx.Module):
    """Everything that training needs to go on.

    Attributes:
        field: The field being trained.
        average: Exponential moving average of its parameters: the field to sample with.
        optimizer: State of the optax optimiser.
        num_steps: Steps taken.
    """

    field: PyTree
    average: PyTree
    optimizer: PyTree
    num_steps: Int[Array, ""]


@_checks.gate
def init(field: PyTree, optimizer: optax.GradientTransformation) -> TrainState:
    """State before the first step. Trains every floating-point array in `field`."""
    parameters = eqx.filter(field, eqx.is_inexact_array)
    average = jax.tree.map(lambda leaf: jnp.copy(leaf) if eqx.is_array(leaf) else leaf, field)
    return TrainState(field, average, optimizer.init(parameters), jnp.zeros((), jnp.int32))


@_checks.gate
def make_step(
    loss: Callable[..., Float[Array, ""]],
    optimizer: optax.GradientTransformation,
    *,
    average_decay: float = 0.999,
    num_microbatches: int = 1,
    mesh: Mesh | None = None,
) -> Step:
    r"""One step of training as a pure function.

    Args:
        loss: `loss(field, batch, key=key) -> scalar`; with parts, a mean over examples.
        optimizer: Any optax gradient transformation.
        average_decay: Decay of the moving average of the parameters, in [0, 1). Over the
            first steps the smaller (1 + n) / (10 + n) is used, so that the average forgets
            the initialisation. 0 keeps the average equal to the field.
        num_microbatches: Parts of a batch, or of a device's share of it, whose losses and
            gradients are computed one after the other and averaged: the memory of one part,
            and for a loss that is a mean over examples the gradient of the whole, up to
            rounding. Part j holds the j-th block of consecutive examples, which all arrays
            of the batch have along their first axis; its randomness comes from
            `fold_in(key, j)` where there are several parts.
        mesh: Devices along one axis, Auto or Explicit, over which batches lie. Each differentiates
            the loss of its own block of the batch, in `num_microbatches` parts, and gradients
            are averaged over the devices once a step. Parts are numbered through: D devices
            with k parts each take the step of one device with D k parts, up to rounding. The
            state is whole on every device. Inside `jax.shard_map`: no sharding constraints
            in the loss.

    Returns:
        `step(state, batch, key=key) -> (state, loss)`.

    Raises:
        ValueError: An option is out of range; when called, a batch that the parts do not
            divide.
    """
    if not 0 <= average_decay < 1:
        _checks.reject("average_decay", f"is {average_decay}", "give a number in [0, 1)")
    _checks.count("num_microbatches", num_microbatches)
    if mesh is not None:
        _checks.one_axis(mesh)
        mesh = automatic(mesh)
    differentiate = eqx.filter_value_and_grad(loss)
    if num_microbatches * (1 if mesh is None else mesh.size) > 1:
        differentiate = differentiate_parts(differentiate, num_microbatches, mesh)

    def step(
        state: TrainState, batch: Any, *, key: PRNGKeyArray
    ) -> tuple[TrainState, Float[Array, ""]]:
        if mesh is not None:
            state, batch = released(mesh, (state, batch))
        value, gradient = differentiate(state.field, batch, key=key)
        parameters = eqx.filter(state.field, eqx.is_inexact_array)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, parameters)
        field = eqx.apply_updates(state.field, updates)
        average = _average(state, field, average_decay) if average_decay else field
        return TrainState(field, average, optimizer_state, state.num_steps + 1), value

    return step


def _average(state: TrainState, field: PyTree, decay: float) -> PyTree:
    count = state.num_steps.astype(jnp.float32)
    weight = 1 - jnp.minimum(decay, (1 + count) / (10 + count))
    new, static = eqx.partition(field, eqx.is_inexact_array)
    old = eqx.filter(state.average, eqx.is_inexact_array)
    moved = jax.tree.map(lambda o, n: o + weight.astype(o.dtype) * (n - o), old, new)
    return eqx.combine(moved, static)
