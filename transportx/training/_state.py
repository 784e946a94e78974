"""What training carries from step to step, and one step of it."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from transportx import _checks, _numbers
from transportx._meshes import automatic, released
from transportx.training._microbatches import differentiate_parts

Step = Callable[..., tuple["TrainState", Float[Array, ""]]]


@_checks.gate
class TrainState(eqx.Module):
    """Everything that training needs to go on.

    Attributes:
        field: The field being trained.
        average: Exponential moving average of its parameters: the field to sample with. Of
            parameters in a half it is in float32, whose digits the small steps of an average
            need; checkpoints hold it so.
        optimizer: State of the optax optimiser.
        num_steps: Steps taken.
    """

    field: Any
    average: Any
    optimizer: PyTree
    num_steps: Int[Array, ""]


@_checks.gate
def init(field: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """State before the first step. Trains every floating-point array in `field`."""
    parameters = eqx.filter(field, eqx.is_inexact_array)
    wide = _numbers.widened(field)
    average = jax.tree.map(lambda leaf: jnp.copy(leaf) if eqx.is_array(leaf) else leaf, wide)
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
        optimizer: Any optax gradient transformation. Those that ask for more than the gradient
            are given the `value` of the loss, `grad`, and `value_fn`, the loss of other
            parameters on the same batch with the same key: `optax.lbfgs`,
            `optax.contrib.reduce_on_plateau`.
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
        ValueError: An option is out of range; when called, a batch that the devices or the
            parts do not divide.
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

    optimizer = optax.with_extra_args_support(optimizer)

    def step(
        state: TrainState, batch: Any, *, key: PRNGKeyArray
    ) -> tuple[TrainState, Float[Array, ""]]:
        state, batch = released(mesh, (state, batch))
        parameters, static = eqx.partition(state.field, eqx.is_inexact_array)

        def evaluate(parameters):
            field = eqx.combine(parameters, static)
            value, gradient = differentiate(field, batch, key=key)
            as_given = jax.tree.map(lambda g, p: g.astype(p.dtype), gradient, parameters)
            return value, as_given

        value, gradient = evaluate(parameters)
        updates, optimizer_state = optimizer.update(
            gradient,
            state.optimizer,
            parameters,
            value=value,
            grad=gradient,
            value_fn=_value_function(evaluate),
        )
        field = eqx.apply_updates(state.field, updates)
        wide = _numbers.widened(field)
        average = _average(state, wide, average_decay) if average_decay else wide
        return TrainState(field, average, optimizer_state, state.num_steps + 1), value

    return step


def _value_function(evaluate: Callable[[PyTree], tuple[Array, PyTree]]) -> Callable[..., Array]:
    """The loss alone, whose derivative is the gradient that is computed beside it.

    So a line search differentiates part by part and on every device, as the step itself does.
    """

    @jax.custom_vjp
    def value_of(parameters):
        return evaluate(parameters)[0]

    def pull_back(gradient, cotangent):
        return (jax.tree.map(lambda g: cotangent.astype(g.dtype) * g, gradient),)

    value_of.defvjp(evaluate, pull_back)
    return value_of


def _average(state: TrainState, field: PyTree, decay: float) -> PyTree:
    count = state.num_steps.astype(jnp.float32)
    weight = 1 - jnp.minimum(decay, (1 + count) / (10 + count))
    new, static = eqx.partition(field, eqx.is_inexact_array)
    old = eqx.filter(state.average, eqx.is_inexact_array)
    moved = jax.tree.map(lambda o, n: o + weight.astype(o.dtype) * (n - o), old, new)
    return eqx.combine(moved, static)
