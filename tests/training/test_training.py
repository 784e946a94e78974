"""Training: the compiled loop against a loop by hand, resuming, averages, failures, learning."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import transportx as tx
from experiments.plan import programs
from tests import tables


def lenient(optimizer):
    """Optax mixes dtypes inside; everything around it stays strict."""

    def update(updates, state, params=None):
        with jax.numpy_dtype_promotion("standard"):
            return optimizer.update(updates, state, params)

    return optax.GradientTransformation(optimizer.init, update)


OPTIMIZER = lenient(optax.adam(0.02))
KEY = jr.key(70)
M0, S0, M1, S1 = jnp.array([0.0]), jnp.array([[1.0]]), jnp.array([2.0]), jnp.array([[0.25]])


def new_field(width=8):
    return tables.in_float64(tx.fields.MLP(1, width, 1, num_frequencies=1, key=jr.key(71)))


def draw_batch(*, key):
    noise = jr.normal(key, (2, 32, 1))
    return noise[0], 2 + noise[1] / 2


def loss(field, batch, *, key):
    return tx.losses.flow_matching(field, tx.interpolants.Linear(), *batch, key=key)


STEP = tx.training.make_step(loss, OPTIMIZER, average_decay=0.9)


def fit(state, num_steps, **options):
    options = {"key": KEY, "chunk_size": 10} | options
    return tx.training.fit(state, STEP, draw_batch, num_steps=num_steps, **options)


def start():
    return tx.training.init(new_field(), OPTIMIZER)


@pytest.fixture(scope="module")
def trained():
    """A hundred steps, the states and losses seen between chunks."""
    seen = []
    state, losses = fit(start(), 100, on_chunk=lambda *chunk: seen.append(chunk))
    return state, losses, seen


def same_bits(tree, other):
    return bool(eqx.tree_equal(tree, other))


def test_loop_repeats_steps_by_hand(trained):
    """Plain optax steps with the documented keys; the average in NumPy."""
    field, num_steps = new_field(), 100
    parameters, static = eqx.partition(field, eqx.is_inexact_array)
    optimizer_state = OPTIMIZER.init(parameters)
    average = jax.tree.map(np.asarray, parameters)

    @jax.jit
    def by_hand(parameters, optimizer_state, n):
        batch_key, loss_key = jr.split(jr.fold_in(KEY, n))
        value, gradient = jax.value_and_grad(
            lambda p: loss(eqx.combine(p, static), draw_batch(key=batch_key), key=loss_key)
        )(parameters)
        updates, optimizer_state = OPTIMIZER.update(gradient, optimizer_state, parameters)
        return optax.apply_updates(parameters, updates), optimizer_state, value

    losses = []
    for n in range(num_steps):
        parameters, optimizer_state, value = by_hand(parameters, optimizer_state, n)
        losses.append(float(value))
        decay = min(0.9, (1 + n) / (10 + n))
        average = jax.tree.map(
            lambda a, p, decay=decay: decay * a + (1 - decay) * np.asarray(p), average, parameters
        )
    state, fitted, _ = trained
    # Fused differently, sums may round differently, and Adam divides by small numbers.
    assert np.allclose(fitted, losses, rtol=1e-10)
    for leaf, expected in zip(
        jax.tree.leaves(eqx.filter(state.field, eqx.is_inexact_array)),
        jax.tree.leaves(parameters),
        strict=True,
    ):
        assert jnp.allclose(leaf, expected, atol=1e-10)
    # The weight of the average is computed in float32.
    for leaf, expected in zip(
        jax.tree.leaves(eqx.filter(state.average, eqx.is_inexact_array)),
        jax.tree.leaves(average),
        strict=True,
    ):
        assert np.allclose(leaf, expected, atol=1e-6)


def test_losses_and_states_reach_the_callback_chunk_by_chunk(trained):
    state, losses, seen = trained
    assert losses.shape == (100,)
    assert [int(between.num_steps) for between, _ in seen] == list(range(10, 101, 10))
    assert np.array_equal(np.concatenate([chunk for _, chunk in seen]), losses)
    assert same_bits(seen[-1][0], state)


@pytest.mark.parametrize("stop", [40, 37])
def test_resuming_gives_the_same_bits(trained, stop):
    state, losses, _ = trained
    halfway, first = fit(start(), stop)
    resumed, second = fit(halfway, 100 - stop)
    assert np.array_equal(np.concatenate([first, second]), losses)
    assert same_bits(resumed, state)


def test_resuming_from_a_state_seen_between_chunks_gives_the_same_bits(trained):
    state, _, seen = trained
    assert same_bits(fit(seen[2][0], 70)[0], state)


def test_chunk_size_does_not_matter(trained):
    state, losses, _ = trained
    other, others = fit(start(), 100, chunk_size=64)
    assert np.allclose(others, losses, rtol=1e-10)
    for leaf, expected in zip(jax.tree.leaves(other), jax.tree.leaves(state), strict=True):
        assert np.allclose(leaf, expected, atol=1e-10)


def test_batches_drawn_ahead_are_those_of_their_steps(trained):
    """Chunks of ten are two groups of four and two steps by themselves."""
    state, losses = fit(start(), 20, draw_ahead=4)
    np.testing.assert_allclose(losses, trained[1][:20], rtol=1e-11)
    middle, first = fit(start(), 10, draw_ahead=4)
    again, second = fit(middle, 10, draw_ahead=4)
    assert same_bits(again, state)
    assert np.array_equal(np.concatenate([first, second]), losses)


def test_another_key_is_another_run(trained):
    assert not np.allclose(fit(start(), 10, key=jr.key(0))[1], trained[1][:10])


def test_memory_given_to_the_run_is_reused_and_changes_no_bit(trained):
    def gone(state):
        return {leaf.is_deleted() for leaf in jax.tree.leaves(eqx.filter(state, eqx.is_array))}

    seen, given = [], start()
    state, losses = fit(given, 20, donate=True, on_chunk=lambda state, _: seen.append(state))
    expected, _ = trained[2][1]
    assert same_bits(state, expected)
    assert np.array_equal(losses, trained[1][:20])
    assert gone(given) == gone(seen[0]) == {True}
    assert gone(seen[1]) == {False}


def test_memory_that_is_not_the_states_alone_is_not_given_away():
    """Two parts of a state share it, on one of eight devices with the batches too."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    weight, count = jnp.arange(3.0), jnp.zeros((), jnp.int32)
    state = tx.training.TrainState(weight, weight, jnp.array(1.0), count)
    state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))

    def step(state, batch, *, key):
        return dataclasses.replace(
            state, field=state.field + batch, num_steps=state.num_steps + 1
        ), jnp.sum(batch)

    draw = eqx.Partial(lambda weight, key: weight, weight)
    options = {"key": KEY, "chunk_size": 1, "donate": True}
    state, _ = tx.training.fit(state, step, draw, num_steps=3, **options)
    assert np.array_equal(state.field, 4 * np.arange(3))
    assert np.array_equal(state.average, weight)


def test_no_steps_leave_the_state_as_it_was():
    seen = []
    state, losses = fit(start(), 0, on_chunk=lambda *chunk: seen.append(chunk))
    assert same_bits(state, start())
    assert losses.shape == (0,)
    assert not seen


def test_without_decay_the_average_is_the_field():
    step = tx.training.make_step(loss, OPTIMIZER, average_decay=0.0)
    state, _ = step(start(), draw_batch(key=jr.key(0)), key=jr.key(1))
    assert same_bits(state.average, state.field)


def test_gradients_of_microbatches_are_those_of_the_batch():
    """Times come with the batch: nothing else is random in a straight path."""

    def fixed(field, batch, *, key):
        x0, x1, t, _ = batch
        x = (1 - t)[:, None] * x0 + t[:, None] * x1
        return jnp.mean((jax.vmap(field)(t, x) - (x1 - x0)) ** 2)

    batch = (*draw_batch(key=jr.key(0)), jr.uniform(jr.key(1), (32,)), None)
    sgd = lenient(optax.sgd(1.0))
    steps = [tx.training.make_step(fixed, sgd, num_microbatches=num) for num in (1, 4)]
    start = tx.training.init(new_field(), sgd)
    whole, parts = (eqx.filter_jit(step)(start, batch, key=jr.key(2)) for step in steps)
    for one, other in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        assert jnp.allclose(one, other, rtol=1e-12, atol=1e-13)
    three = tx.training.make_step(fixed, sgd, num_microbatches=3)
    with pytest.raises(ValueError, match="`num_microbatches` is 3 for a batch of 32; give a div"):
        three(start, batch, key=jr.key(2))


def weighted(field, batch, *, key):
    """A loss that pulls at the weight by the examples seen and the randomness drawn."""
    return field * (batch @ jnp.array([1.0, 10.0, 100.0]) + 1000 * jr.uniform(key))


def test_microbatches_are_consecutive_and_draw_for_themselves():
    sgd = lenient(optax.sgd(1.0))
    step = tx.training.make_step(weighted, sgd, num_microbatches=2)
    state, _ = step(tx.training.init(jnp.array(0.0), sgd), jnp.arange(6.0), key=KEY)
    draws = [jr.uniform(jr.fold_in(KEY, part)) for part in range(2)]
    expected = (0 + 10 * 1 + 100 * 2 + 3 + 10 * 4 + 100 * 5 + 1000 * sum(draws)) / 2
    assert jnp.allclose(state.field, -expected, rtol=1e-12)


def test_parts_on_devices_are_those_of_one_device_and_averaged_once():
    """The same blocks with the same keys, whichever device differentiates them."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    state, batch = tx.training.init(new_field(), OPTIMIZER), draw_batch(key=jr.key(0))

    def compiled(**options):
        step = tx.training.make_step(loss, OPTIMIZER, **options)
        arrays, static = eqx.partition(state, eqx.is_array)

        def take(arrays, batch):
            after, value = step(eqx.combine(arrays, static), batch, key=KEY)
            return eqx.filter(after, eqx.is_array), value

        return jax.jit(take).lower(arrays, batch).compile(), arrays

    program, arrays = compiled(num_microbatches=2, mesh=mesh)
    alone, _ = compiled(num_microbatches=16)
    rows = NamedSharding(mesh, PartitionSpec("data"))
    whole = jax.device_put(arrays, NamedSharding(mesh, PartitionSpec()))
    found, expected = program(whole, jax.device_put(batch, rows)), alone(arrays, batch)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert jnp.allclose(jax.device_get(one), other, rtol=1e-10, atol=1e-12)
    # A gradient and a loss, once, not as often as there are parts.
    sizes = [leaf.size for leaf in jax.tree.leaves(eqx.filter(state.field, eqx.is_inexact_array))]
    assert programs.work(program).sent == {"all-reduce": 8 * (sum(sizes) + 1)}


def test_only_floating_point_arrays_are_trained():
    class Counted(eqx.Module):
        weight: jax.Array
        count: jax.Array
        name: str = "kept"

        def __call__(self, t, x, args=None):
            return self.weight * x

    field = Counted(jnp.ones(1), jnp.array(3))
    state = tx.training.init(field, OPTIMIZER)
    state, _ = STEP(state, draw_batch(key=jr.key(0)), key=jr.key(1))
    assert state.field.count == 3
    assert state.field.name == "kept"
    assert state.field.weight != 1


def test_average_keeps_the_dtype_of_float32_parameters():
    field = jax.tree.map(
        lambda leaf: leaf.astype(jnp.float32) if eqx.is_inexact_array(leaf) else leaf, new_field()
    )
    state = tx.training.init(field, OPTIMIZER)
    batch = tuple(x.astype(jnp.float32) for x in draw_batch(key=jr.key(0)))
    state, value = STEP(state, batch, key=jr.key(1))
    leaves = jax.tree.leaves(eqx.filter((state.field, state.average), eqx.is_inexact_array))
    assert {leaf.dtype for leaf in leaves} == {value.dtype} == {jnp.dtype(jnp.float32)}


def test_step_is_traced_once_for_runs_of_the_same_shapes():
    traces = []

    def counted(field, batch, *, key):
        traces.append(1)
        return loss(field, batch, key=key)

    step = tx.training.make_step(counted, OPTIMIZER)
    state = start()
    for _ in range(2):
        state, _ = tx.training.fit(state, step, draw_batch, num_steps=30, key=KEY, chunk_size=10)
    # One trace by the gradient; scan checks its carry with the same trace.
    assert len(traces) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_names_its_step_and_stops_before_the_callback(bad):
    def breaking(field, batch, *, key):
        x0, x1, broken = batch
        return loss(field, (x0, x1), key=key) + jnp.where(broken, bad, 0)

    # Which step breaks is a matter of its key alone: find the first.
    def breaks(key):
        return jr.uniform(key) < 0.05

    keys = [jr.split(jr.fold_in(KEY, n))[0] for n in range(60)]
    first = next(n for n, key in enumerate(keys) if breaks(jr.fold_in(key, 1)))
    assert first > 5

    def draw(*, key):
        return *draw_batch(key=key), breaks(jr.fold_in(key, 1))

    seen = []
    step = tx.training.make_step(breaking, OPTIMIZER)
    with pytest.raises(tx.training.NonFiniteLossError, match=f"loss of step {first} ") as error:
        tx.training.fit(
            start(),
            step,
            draw,
            num_steps=60,
            key=KEY,
            chunk_size=5,
            on_chunk=lambda state, losses: seen.append(int(state.num_steps)),
        )
    assert error.value.step == first
    assert seen == list(range(5, first - first % 5 + 1, 5))


def test_training_reaches_the_exact_field():
    """A network between two Gaussians of the line: the excess loss is E|v - v*|^2."""

    @eqx.filter_jit
    def excess(field):
        keys = jr.split(jr.key(72), 3)
        noise = jr.normal(keys[0], (2, 8192, 1))
        t = jr.uniform(keys[1], (8192,))
        x = (1 - t)[:, None] * noise[0] + t[:, None] * (2 + noise[1] / 2)
        exact = tx.fields.GaussianField(M0, S0, M1, S1)
        return jnp.mean((jax.vmap(field)(t, x) - jax.vmap(exact)(t, x)) ** 2)

    field = new_field(32)
    before = excess(field)
    state, _ = tx.training.fit(
        tx.training.init(field, OPTIMIZER),
        tx.training.make_step(loss, OPTIMIZER, average_decay=0.99),
        draw_batch,
        num_steps=800,
        key=KEY,
    )
    # The field's own size is about 4: what is left is below one per cent of it.
    assert before > 1
    assert excess(state.average) < 0.04
    assert excess(state.average) < excess(state.field)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit(start(), -1), "`num_steps` is -1; give an integer of at least 0"),
        (lambda: fit(start(), 2, chunk_size=0), "`chunk_size` is 0; give an integer of at least 1"),
        (lambda: fit(start(), 2, draw_ahead=0), "`draw_ahead` is 0; give an integer of at least 1"),
        (
            lambda: tx.training.make_step(loss, OPTIMIZER, average_decay=1.0),
            r"`average_decay` is 1.0; give a number in \[0, 1\)",
        ),
        (
            lambda: tx.training.make_step(loss, OPTIMIZER, average_decay=-0.1),
            r"`average_decay` is -0.1; give a number in",
        ),
        (
            lambda: tx.training.make_step(loss, OPTIMIZER, num_microbatches=0),
            "`num_microbatches` is 0; give an integer of at least 1",
        ),
        (
            lambda: tx.training.make_step(loss, OPTIMIZER, mesh=jax.make_mesh((1, 1), ("a", "b"))),
            "`mesh` has axes .'a', 'b'.; give a mesh of one axis",
        ),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_bad_input_is_named_with_a_cure(call, message):
    with pytest.raises(ValueError, match=message):
        call()
