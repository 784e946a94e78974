"""Averages of halves, optimisers that ask for more than a gradient, and gradients that break."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import transportx as tx

KEY = jr.key(170)
ROWS = jr.normal(jr.key(171), (32, 3)) @ jnp.diag(jnp.array([1.0, 3.0, 0.2]))
ANSWERS = ROWS @ jnp.array([0.5, -1.0, 2.0]) + 0.1 * jnp.cos(jnp.arange(32.0))
LEAST = np.linalg.lstsq(np.asarray(ROWS), np.asarray(ANSWERS), rcond=None)[0]


def lenient(optimizer):
    """Optax mixes dtypes inside; everything around it stays strict."""

    def update(updates, state, params=None, **extra):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return optax.with_extra_args_support(optimizer).update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(optimizer.init, update)


def least_squares(weights, batch, *, key):
    rows, answers = batch
    return jnp.mean((rows @ weights - answers) ** 2)


def draw(*, key):
    return ROWS, ANSWERS


def fitted(optimizer, num_steps=25, **options):
    step = tx.training.make_step(least_squares, lenient(optimizer), **options)
    state = tx.training.init(jnp.zeros(3), lenient(optimizer))
    return tx.training.fit(state, step, draw, num_steps=num_steps, key=KEY, chunk_size=25)


@pytest.mark.parametrize("num_microbatches", [1, 4])
def test_lbfgs_solves_least_squares(num_microbatches):
    state, losses = fitted(optax.lbfgs(), num_microbatches=num_microbatches)
    np.testing.assert_allclose(state.field, LEAST, atol=1e-6)
    assert losses[-1] < losses[0]


def test_lbfgs_searches_over_all_devices():
    """Eight devices, two parts on each: the line search sees the loss of the whole batch."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    optimizer = lenient(optax.lbfgs())
    step = tx.training.make_step(least_squares, optimizer, mesh=mesh, num_microbatches=2)
    state = tx.training.init(jnp.zeros(3), optimizer)
    arrays = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
    rows = jax.device_put((ROWS, ANSWERS), NamedSharding(mesh, PartitionSpec("data")))

    @jax.jit
    def steps(state):
        return jax.lax.scan(lambda s, _: step(s, rows, key=KEY), state, length=25)[0]

    np.testing.assert_allclose(jax.device_get(steps(arrays).field), LEAST, atol=1e-6)


def test_a_plateau_lowers_the_rate():
    """From the minimum no loss is lower: the factor falls at each patience."""
    plateau = optax.contrib.reduce_on_plateau(factor=0.5, patience=5)
    optimizer = lenient(optax.chain(optax.sgd(1e-3), plateau))
    step = tx.training.make_step(least_squares, optimizer)
    state = tx.training.init(jnp.asarray(LEAST), optimizer)
    state, _ = tx.training.fit(state, step, draw, num_steps=21, key=KEY)
    # The first step improves on infinity; each fifth after it is one too many.
    assert float(state.optimizer[1].scale) == 0.5 ** (20 // 5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_the_average_follows_parameters_in_a_half(dtype):
    """The field stays at 1.97 from a start of 1: by hand in float64, to the digits of float32."""
    optimizer = optax.sgd(0.0)
    step = tx.training.make_step(lambda w, batch, *, key: 0 * w, optimizer)
    state = tx.training.init(jnp.asarray(1.0, dtype), optimizer)
    state = eqx.tree_at(lambda s: s.field, state, jnp.asarray(1.97, dtype))

    @jax.jit
    def run(state):
        return jax.lax.scan(lambda s, _: step(s, None, key=KEY), state, length=3000)[0]

    state = run(state)
    field = float(state.field)
    gap = np.prod([min(0.999, (1 + n) / (10 + n)) for n in range(3000)])
    assert state.field.dtype == dtype
    assert state.average.dtype == jnp.float32
    np.testing.assert_allclose(state.average, field - (field - 1) * gap, rtol=2e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_parts_of_halves_are_summed_in_float32(dtype):
    """512 parts of gradient one: in bfloat16 a running sum stops at 256."""

    def loss(weight, batch, *, key):
        return weight * jnp.mean(batch)

    step = tx.training.make_step(loss, optax.sgd(1.0), num_microbatches=512)
    state = tx.training.init(jnp.asarray(0.0, dtype), optax.sgd(1.0))
    state, _ = jax.jit(step)(state, jnp.ones(512, dtype), key=KEY)
    assert state.field == -1


@pytest.mark.parametrize("last", [9, 4])
def test_a_gradient_that_breaks_behind_a_finite_loss_is_not_handed_out(last):
    """The root of zero: its value is finite, its slope not; in the last step, or before it."""

    def loss(weight, batch, *, key):
        return jnp.sum(jnp.sqrt(weight**2 * batch)) + jnp.sum(weight**2)

    broken = jr.split(jr.fold_in(KEY, last))[0]

    def draw(*, key):
        return jnp.where(key == broken, 0.0, 1.0)

    step = tx.training.make_step(loss, optax.sgd(1e-3))
    state = tx.training.init(jnp.ones(2), optax.sgd(1e-3))
    seen = []
    with pytest.raises(tx.training.NonFiniteLossError) as error:
        tx.training.fit(
            state,
            step,
            draw,
            num_steps=10,
            key=KEY,
            chunk_size=10,
            on_chunk=lambda *chunk: seen.append(chunk),
        )
    # Within a chunk the next loss shows it; after the last step only the parameters do.
    assert error.value.step == min(last + 1, 9)
    assert ("the gradient or update of" in str(error.value)) == (last == 9)
    assert not seen


def test_a_batch_that_devices_do_not_divide_is_named_as_such():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    step = tx.training.make_step(least_squares, optax.sgd(1.0), mesh=mesh)
    state = tx.training.init(jnp.zeros(3), optax.sgd(1.0))
    with pytest.raises(ValueError, match="`batch` has 30 examples for 8 devices of `mesh`; give"):
        step(state, (ROWS[:30], ANSWERS[:30]), key=KEY)
    step = tx.training.make_step(least_squares, optax.sgd(1.0), mesh=mesh, num_microbatches=3)
    with pytest.raises(ValueError, match="`num_microbatches` is 3 for a batch of 32 on 8 devices"):
        step(state, (ROWS, ANSWERS), key=KEY)
