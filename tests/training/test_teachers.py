"""Losses that ask for the moving average of the parameters: a teacher that changes slowly."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import transportx as tx

KEY, RATE, DECAY = jr.key(3), 0.1, 0.5
BATCH = jr.normal(jr.key(4), (16, 2))
OPTIMIZER = optax.sgd(RATE)


def towards(field, batch, *, key, average):
    """The field is to be the average at half of the point, less one."""
    wanted = jax.vmap(average)(batch / 2) - 1
    return jnp.mean((jax.vmap(field)(batch) - wanted) ** 2)


def start():
    made = eqx.nn.Linear(2, 1, use_bias=False, key=jr.key(5))
    weight = jnp.array([[1.0, -2.0]])
    return tx.training.init(eqx.tree_at(lambda made: made.weight, made, weight), OPTIMIZER)


def stepper(loss=towards, **options):
    options = {"average_decay": DECAY, "with_average": True} | options
    return tx.training.make_step(loss, OPTIMIZER, **options)


def test_a_loss_may_ask_for_the_average_before_the_step():
    """Three steps beside NumPy: the average is the one before, and has no derivative."""
    weight = average = np.array([1.0, -2.0])
    x, state, step = np.asarray(BATCH), start(), stepper()
    for n in range(3):
        error = x @ weight - (x / 2 @ average - 1)
        state, value = step(state, BATCH, key=KEY)
        # The weight of the average is computed in float32.
        np.testing.assert_allclose(value, np.mean(error**2), rtol=1e-7)
        weight = weight - RATE * 2 * error @ x / len(x)
        decay = min(DECAY, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * weight
        np.testing.assert_allclose(state.field.weight[0], weight, rtol=1e-7)
        np.testing.assert_allclose(state.average.weight[0], average, rtol=1e-6)


def test_microbatches_and_devices_have_the_average_too():
    state, _ = stepper()(start(), BATCH, key=KEY)
    expected, value = stepper()(state, BATCH, key=KEY)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    rows, whole = (NamedSharding(mesh, PartitionSpec(*names)) for names in (("data",), ()))
    for options, batch, begin in (
        ({"num_microbatches": 4}, BATCH, state),
        (
            {"num_microbatches": 2, "mesh": mesh},
            jax.device_put(BATCH, rows),
            eqx.filter_shard(state, whole),
        ),
    ):
        found, loss = eqx.filter_jit(stepper(**options))(begin, batch, key=KEY)
        np.testing.assert_allclose(loss, value, rtol=1e-12)
        np.testing.assert_allclose(found.field.weight, expected.field.weight, rtol=1e-12)


def test_a_step_that_is_not_asked_for_it_keeps_its_bits():
    def plain(field, batch, *, key):
        return jnp.mean((jax.vmap(field)(batch) - 1) ** 2)

    def unused(field, batch, *, key, average):
        return plain(field, batch, key=key)

    steps = stepper(plain, with_average=False), stepper(unused)
    one, other = (eqx.filter_jit(step)(start(), BATCH, key=KEY) for step in steps)
    assert bool(eqx.tree_equal(one, other))
