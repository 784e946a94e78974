"""The state of training, and one step of it."""

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
    """State of a training run: the field, its average, the optimiser and the number of steps.

    Attributes:
        field: The field being trained.
        average: Exponential moving average of the parameters: the field to sample with. Where
            parameters are halves it is in float32, whose digits the small steps of an average
            need; checkpoints store it so.
        optimizer: State of the optax optimiser.
        num_steps: Number of steps run so far, a scalar integer array.

    Example:
        >>> state = tx.training.init(eqx.nn.Linear(2, 1, key=jr.key(0)), optax.adam(1e-3))
        >>> isinstance(state, tx.training.TrainState), state.average.weight.shape
        (True, (1, 2))
    """

    field: Any
    average: Any
    optimizer: PyTree
    num_steps: Int[Array, ""]


@_checks.gate
def init(field: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state of training before the first step.

    Args:
        field: The field to train, any pytree: every floating-point array in it is a parameter.
        optimizer: Optax gradient transformation, the one that `make_step` is given.

    Returns:
        A state whose average equals the field, at step 0.

    Example:
        >>> state = tx.training.init(eqx.nn.Linear(2, 1, key=jr.key(0)), optax.adam(1e-3))
        >>> int(state.num_steps)
        0
    """
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
    with_average: bool = False,
) -> Step:
    """Make one step of stochastic gradient training, as a pure function.

    Args:
        loss: `loss(field, batch, key=key) -> scalar`. With several microbatches or devices it
            must be a mean over examples.
        optimizer: Any optax gradient transformation. Those that need more than the gradient
            are given the `value` of the loss, `grad`, and `value_fn`, the loss of other
            parameters on the same batch with the same key: `optax.lbfgs`,
            `optax.contrib.reduce_on_plateau`.
        average_decay: Decay of the moving average of the parameters, in [0, 1). Over the
            first steps the smaller (1 + n) / (10 + n) is used, so that the average forgets
            the initialisation. 0 keeps the average equal to the field.
        num_microbatches: Number of microbatches of a batch, or of a device's block of it. Their
            losses and gradients are computed one after the other and averaged, in the memory
            of one microbatch; for a loss that is a mean over examples that is the gradient of
            the whole batch, up to rounding. Microbatch j is the j-th block of consecutive
            examples along the first axis of all arrays of the batch; where there are several,
            its randomness comes from `fold_in(key, j)`.
        mesh: Devices along one axis, Auto or Explicit, over which batches lie. Each device
            differentiates the loss of its own block of the batch, in `num_microbatches`
            microbatches, and gradients are averaged over the devices once per step.
            Microbatches are numbered across devices: D devices with k each take the step of one
            device with D k, up to rounding. Every device has the whole state. The loss runs
            inside `jax.shard_map`, so it must not contain sharding constraints.
        with_average: Call `loss(field, batch, key=key, average=average)`, with the moving average
            before the step, `state.average`, held constant: a teacher that changes slowly, as
            losses by self-consistency may ask for.

    Returns:
        `step(state, batch, key=key) -> (state, loss)`.

    Raises:
        ValueError: An option is out of range. The step raises it for a batch that the devices
            or the microbatches do not divide.

    Example:
        >>> def loss(field, batch, *, key):
        ...     return jnp.mean((jax.vmap(field)(batch) - batch) ** 2)
        >>> optimizer = optax.sgd(0.1)
        >>> state = tx.training.init(eqx.nn.Linear(2, 2, key=jr.key(0)), optimizer)
        >>> step = tx.training.make_step(loss, optimizer, num_microbatches=2)
        >>> state, value = step(state, jnp.ones((4, 2)), key=jr.key(1))
        >>> int(state.num_steps), value.shape
        (1, ())
        >>> def distillation(field, batch, *, key, average):
        ...     wanted = jax.vmap(average)(batch)
        ...     return jnp.mean((jax.vmap(field)(batch / 2) - wanted) ** 2)
        >>> step = tx.training.make_step(distillation, optimizer, with_average=True)
        >>> state, value = step(state, jnp.ones((4, 2)), key=jr.key(1))
        >>> int(state.num_steps)
        2
    """
    if not 0 <= average_decay < 1:
        _checks.reject("average_decay", f"is {average_decay}", "give a number in [0, 1)")
    _checks.count("num_microbatches", num_microbatches)
    if mesh is not None:
        _checks.one_axis(mesh)
        mesh = automatic(mesh)
    differentiate = _taught(loss) if with_average else eqx.filter_value_and_grad(loss)
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
            trained = (field, state.average) if with_average else field
            value, gradient = differentiate(trained, batch, key=key)
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


def _taught(loss: Callable[..., Array]) -> Callable[..., Any]:
    """Value and gradient, by the field alone, of a loss of a field and its moving average."""

    def differentiate(fields, batch, *, key):
        field, average = fields

        def of_field(field):
            return loss(field, batch, key=key, average=average)

        return eqx.filter_value_and_grad(of_field)(field)

    return differentiate


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
