"""Generators by descent: training is the flow, and so it is in closed form between Gaussians."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import pytest

import transportx as tx
import transportx.gradient_flows as gf
from tests.helpers import quick

N, M, DIM, STEP = 6, 5, 2, 0.3
X0 = jr.normal(jr.key(1), (N, DIM))
TARGET = 0.7 * jr.normal(jr.key(2), (M, DIM)) + 0.5
DIRECTIONS = gf.random_directions(key=jr.key(5), num=7, dim=DIM, dtype=jnp.float64)

OF_BATCH: dict[str, Any] = {
    "energy_distance": gf.energy_distance_squared,
    "mmd": eqx.Partial(gf.MMD, kernel=gf.Gaussian(0.9)),
    "sinkhorn": eqx.Partial(gf.SinkhornDivergenceTo, epsilon=0.5, solver=tx.ot.Newton(tol=1e-12)),
    "sliced": eqx.Partial(gf.SlicedWasserstein, directions=DIRECTIONS),
    "drifting": eqx.Partial(gf.Drifting, kernel=gf.Laplace(0.8)),
    "drifting_gaussian": eqx.Partial(gf.Drifting, kernel=gf.Gaussian(0.8)),
}
every_functional = pytest.mark.parametrize("name", OF_BATCH)


class Table(eqx.Module):
    """A generator that is free at each of n noises, the axes."""

    rows: jax.Array

    def __call__(self, z, args):
        return z @ self.rows


class Linear(eqx.Module):
    """Noise times a matrix, and shifted by a condition."""

    matrix: jax.Array

    def __call__(self, z, args):
        return z @ self.matrix if args is None else z @ self.matrix + args


def loss_of(name, **options):
    return functools.partial(gf.descent_loss, OF_BATCH[name], **({"step": STEP} | options))


@every_functional
def test_training_a_table_is_the_euler_flow_of_the_functional(name):
    steps = 4

    def loss(table, batch, *, key):
        return loss_of(name)(table, jnp.eye(N), batch)

    optimizer = optax.sgd(N * DIM / 2)
    state = tx.training.init(Table(X0), optimizer)
    step = tx.training.make_step(loss, optimizer)

    @quick
    def both(rows):
        fresh = eqx.tree_at(lambda state: state.field.rows, state, rows)

        def take(state, _):
            return step(state, TARGET, key=jr.key(0))

        made, losses = jax.lax.scan(take, fresh, length=steps)
        times = STEP * jnp.arange(steps + 1.0)
        options = {"t1": STEP * steps, "steps": steps, "times": times}
        return made.field.rows, losses, gf.flow(OF_BATCH[name](TARGET), rows, **options)

    rows, losses, flown = both(X0)
    assert bool(flown.completed)
    assert jnp.max(jnp.abs(flown.x[-1] - X0)) > 0.1
    assert jnp.allclose(rows, flown.x[-1], rtol=0, atol=1e-12)
    assert jnp.allclose(losses, flown.energy[:-1], rtol=1e-9)


@pytest.mark.parametrize("name", ["mmd", "energy_distance", "sliced"])
def test_gradient_is_that_of_the_functional_through_the_generator(name):
    """In the generator, the noise, the conditions and the features: 2 step / d of it."""
    z, args = jr.normal(jr.key(6), (N, 3)), jr.normal(jr.key(7), (N, DIM))
    generator = Linear(jr.normal(jr.key(8), (3, DIM)))
    bend = jnp.array([[0.3, 1.0], [-0.5, 0.2]])

    def points(generator, z, args, bend):
        return jnp.tanh(jax.vmap(generator)(z, args) @ bend)

    def value(*arguments):
        return OF_BATCH[name](jnp.tanh(TARGET @ bend))(points(*arguments))

    def loss(generator, z, args, bend):
        features = eqx.Partial(lambda bend, x: jnp.tanh(x @ bend), bend)
        return loss_of(name)(generator, z, TARGET, args, features=features)

    arguments = generator, z, args, bend
    ours, expected = quick(
        lambda: [jax.value_and_grad(f, argnums=(0, 1, 2, 3))(*arguments) for f in (loss, value)]
    )()
    assert jnp.allclose(ours[0], expected[0], rtol=1e-12)
    for one, other in zip(*map(jax.tree.leaves, (ours[1], expected[1])), strict=True):
        assert jnp.allclose(one, 2 * STEP / DIM * other, rtol=1e-9, atol=1e-12)


def test_a_class_is_a_row_of_one_vmap_and_may_be_filled_up():
    """One functional per class; rows of weight zero count for nothing, wherever they lie."""
    z = jr.normal(jr.key(9), (3, N, DIM))
    x1 = TARGET[None] + jnp.arange(3.0)[:, None, None]
    labels = jnp.broadcast_to(jnp.arange(3)[:, None], (3, N))
    weights = jnp.array([[0.2] * 5, [0.25] * 4 + [0.0], [0.0] * 5])
    filled = x1.at[1, 4].set(1e3)

    def generator(z, label):
        return z + jnp.where(label == 0, 0.5, -0.5)

    @quick
    def losses(x1, weights):
        def loss(z, x1, labels, weights):
            return loss_of("energy_distance")(generator, z, x1, labels, weights=weights)

        return jax.vmap(loss)(z, x1, labels, weights)

    found = losses(filled, weights)
    plain = loss_of("energy_distance")
    assert jnp.allclose(found[0], plain(generator, z[0], x1[0], labels[0]), rtol=1e-12)
    assert jnp.allclose(found[1], plain(generator, z[1], x1[1, :4], labels[1]), rtol=1e-12)
    assert jnp.isnan(found[2])


@pytest.mark.long
def test_parts_say_how_sure_the_value_is():
    z = jr.normal(jr.key(10), (N, DIM))
    rough = eqx.Partial(gf.SinkhornDivergenceTo, epsilon=0.5, solver=tx.ot.Sinkhorn(tol=0.05))

    @quick
    def parts(z):
        arguments = (lambda z, args: 2 * z), z, TARGET
        made = [gf.descent_parts(f, *arguments, step=STEP) for f in (rough, OF_BATCH["sinkhorn"])]
        return *made, gf.descent_loss(rough, *arguments, step=STEP)

    near, exact, loss = parts(z)
    assert jnp.allclose(near.value, loss, rtol=1e-12)
    assert 1e-6 < near.gap < 1
    assert jnp.abs(near.value - exact.value) <= near.gap
    assert exact.gap < 1e-10
    gradient = quick(lambda x: OF_BATCH["sinkhorn"](TARGET).gradient(x))(2 * z)
    speeds = jnp.linalg.norm(gradient, axis=1)
    assert jnp.allclose(exact.fastest, jnp.max(speeds), rtol=1e-9)
    assert jnp.allclose(exact.error, STEP**2 * jnp.mean(gradient**2), rtol=1e-9)
    assert jnp.allclose(exact.speed, jnp.sqrt(jnp.mean(speeds**2)), rtol=1e-9)
    broken, _, loss = parts(z.at[0, 0].set(jnp.nan))
    assert all(map(jnp.isnan, (*jax.tree.leaves(broken), loss)))


# Equal laws: how two batches of them pull a generator apart.


@pytest.mark.parametrize("name", ["mmd", "drifting", "sliced"])
def test_two_batches_pull_equal_laws_nowhere_in_the_mean(name):
    two, one = _pulls(name, 2000)
    assert abs(jnp.mean(two)) < 4 * _error(two)
    assert abs(jnp.mean(one)) > 8 * _error(one)


@pytest.mark.long
def test_two_batches_pull_equal_laws_nowhere_in_the_mean_of_plans():
    two, one = _pulls("sinkhorn", 2000)
    assert abs(jnp.mean(two)) < 4 * _error(two)
    assert abs(jnp.mean(one)) > 8 * _error(one)


def _pulls(name, count):
    """Derivatives by the factor of a linear generator at its truth, with and without a second."""

    def pulls(key):
        z, x1, second = jr.normal(key, (3, N, DIM))

        def loss(factor, z_self):
            generator = Linear(factor * jnp.eye(DIM))
            return loss_of(name, z_self=z_self)(generator, z, x1)

        return [jax.grad(loss)(jnp.ones(()), z_self) for z_self in (second, None)]

    return quick(jax.vmap(pulls))(jr.split(jr.key(11), count))


def _error(samples):
    return jnp.std(samples) / jnp.sqrt(samples.size)


def test_two_batches_replace_the_own_term_alone():
    """Of a squared kernel distance: the pull by the second batch in place of the first's."""
    z, second = jr.normal(jr.key(12), (2, N, DIM))

    def loss(matrix):
        return loss_of("mmd", z_self=second)(Linear(matrix), z, TARGET)

    def value(x):
        kernel, own = gf.Gaussian(0.9), second
        pull = jnp.mean(kernel.matrix(x, own)) - jnp.mean(kernel.matrix(x, TARGET))
        return 2 * pull

    ours, expected = quick(lambda a: (jax.grad(loss)(a), z.T @ jax.grad(value)(z @ a)))(
        jnp.eye(DIM)
    )
    assert jnp.allclose(ours, 2 * STEP / DIM * expected, rtol=1e-9)


# A linear generator of a Gaussian by the Sinkhorn divergence follows a recursion.

EPSILON, C1, RATE, ROUNDS = 0.8, 2.0, 0.2, 5


def _recursion(a):
    """a, and what each step makes of it: (1 - step G(a^2)) a."""
    found = [a]
    for _ in range(ROUNDS):
        c, e = found[-1] ** 2, EPSILON**2 / 16
        slope = 2 * ((c**2 + e) ** 0.5 - (c * C1 + e) ** 0.5) / c
        found.append((1 - RATE * slope) * found[-1])
    return jnp.array(found)


def _trained(num, key, a, tol=1e-4):
    """The factor of a linear generator after each training step on fresh points."""
    divergence = eqx.Partial(gf.SinkhornDivergenceTo, epsilon=EPSILON, solver=tx.ot.Newton(tol=tol))

    def loss(generator, batch, *, key):
        return gf.descent_loss(divergence, generator, *batch, step=RATE)

    optimizer = optax.sgd(0.5)
    state = tx.training.init(Linear(jnp.full((1, 1), a)), optimizer)
    step = tx.training.make_step(loss, optimizer)

    def take(state, key):
        z, x1 = jr.normal(key, (2, num, 1), jnp.float64)
        state, _ = step(state, (z, jnp.sqrt(C1) * x1), key=key)
        return state, state.field.matrix[0, 0]

    _, found = jax.lax.scan(take, state, jr.split(key, ROUNDS))
    return jnp.concatenate([jnp.array([a]), found])


@pytest.mark.long
def test_a_linear_generator_follows_the_recursion_between_gaussians():
    """Sixteen generators of 400 points each: their mean, with its own standard error."""
    keys = jr.split(jr.key(13), 16)
    made = jax.jit(lambda keys: jax.lax.map(lambda key: _trained(400, key, 0.6), keys))(keys)
    expected = _recursion(0.6)
    assert expected[-1] > 1.0
    errors = jnp.std(made, axis=0, ddof=1) / jnp.sqrt(len(keys))
    assert jnp.all(errors < 0.02)
    assert jnp.all(jnp.abs(jnp.mean(made, axis=0) - expected)[1:] < 3 * errors[1:])


# Refusals and other dtypes.


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": 0.0}, "`step` is 0.0; give a positive number"),
        ({"z": X0[:0]}, r"`z` has shape \(0, 2\)"),
        ({"args": jnp.ones(3)}, "`args` has 3 examples but `z` has 6"),
        ({"z_self": X0[:3]}, r"`z_self` has shape .* with b = 6, as in `z`"),
        ({"weights": jnp.ones(4)}, "`weights` has shape .*m = 5, as in `x1`"),
        ({"generator": lambda z, args: z[:1]}, r"`generator\(z\)` has examples of shape \(1,\)"),
        ({"generator": lambda z, args: None}, "`generator` returns NoneType"),
        ({"functional_of_batch": lambda y: y}, "`functional_of_batch` returns"),
        (
            {"functional_of_batch": lambda y: gf.energy_distance_squared(y[:, :1])},
            r"`x` has examples of shape \(2,\) but those of `target` have \(1,\)",
        ),
        ({"features": lambda x: None}, "`features` returns NoneType"),
    ],
)
def test_refusals_name_the_argument(change, message):
    good: dict[str, Any] = {
        "functional_of_batch": gf.energy_distance_squared,
        "generator": lambda z, args: z,
        "z": X0,
        "x1": TARGET,
        "step": 0.1,
    }
    with pytest.raises(ValueError, match=message):
        gf.descent_loss(**(good | change))


def test_images_and_halves_are_points_in_float32():
    z = jr.normal(jr.key(16), (4, 2, 3, 1), jnp.bfloat16)
    x1 = jr.normal(jr.key(17), (5, 2, 3, 1), jnp.bfloat16)

    def loss(z, x1):
        return loss_of("energy_distance")(lambda z, args: z, z, x1)

    both = quick(jax.value_and_grad(loss))
    half, pull = both(z, x1)
    value, exact = both(z.astype(jnp.float32), x1.astype(jnp.float32))
    assert half.dtype == pull.dtype == jnp.bfloat16
    assert value.dtype == jnp.float32
    assert jnp.allclose(half.astype(jnp.float32), value, rtol=1e-2)
    assert jnp.allclose(pull.astype(jnp.float32), exact, rtol=2e-2, atol=1e-3)
