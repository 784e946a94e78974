"""Programs over many devices: inside `shard_map`, and over meshes with explicit axes."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import transportx as tx

pytestmark = pytest.mark.slow

DEVICES = 4
X, Y = jr.normal(jr.key(0), (2, 8, 3))
WEIGHTS = jnp.arange(1.0, 9) / 36


def close(one, many):
    return all(jax.tree.leaves(jax.tree.map(lambda p, q: bool(jnp.allclose(p, q)), one, many)))


def entropic(x, y, weights, layout):
    del weights
    return tx.couplings.Entropic(epsilon=0.3, layout=layout).plan(x, y).potentials


def divergence(x, y, weights, layout):
    def value(x, weights):
        return tx.ot.sinkhorn_divergence(x, y, weights, epsilon=0.5, layout=layout).value

    return jax.value_and_grad(value)(x, weights)


def energy(x, y, weights, layout):
    functional = tx.gradient_flows.energy_distance_squared(y, weights, layout=layout)
    return functional.value_and_gradient(x, weights)


def attention(x, y, weights, layout):
    mixing = tx.attention.Softmax(0.7, layout=layout)
    return tx.attention.Attention(jnp.eye(3)[None], jnp.eye(3)[None], jnp.eye(3)[None], mixing)(
        x, y, weights
    )


def trained(x, y, weights, layout):
    del weights

    def loss(field, batch, *, key):
        del key
        return jnp.mean((jax.vmap(field)(batch[0]) - batch[1]) ** 2)

    optimizer = optax.sgd(0.1)
    linear = eqx.nn.Linear(3, 3, key=jr.key(4), dtype=x.dtype)
    step = tx.training.make_step(loss, optimizer, mesh=layout.mesh)
    state, value = step(tx.training.init(linear, optimizer), (x, y), key=jr.key(5))
    return state.field.weight, value


@pytest.mark.parametrize("ask", [entropic, divergence, energy, attention, trained])
def test_meshes_of_either_kind_answer_as_one_device(ask):
    alone = jax.jit(lambda *arrays: ask(*arrays, tx.geometry.Layout()))(X, Y, WEIGHTS)
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Explicit,))
    placed = jax.device_put((X, Y, WEIGHTS), NamedSharding(mesh, PartitionSpec("data")))
    over = jax.jit(lambda *arrays: ask(*arrays, tx.geometry.Layout(mesh=mesh)))
    assert close(alone, over(X, Y, WEIGHTS))
    assert close(alone, over(*placed))


def _streamed(x, y):
    return tx.ot.solve(tx.geometry.PointCloud(x, y, tile=2), epsilon=0.5)


# Minutes of compiling, of programs whose parts others have too.
LONG = ("streamed value", "divergence")
BATCHES = jr.normal(jr.key(1), (2, DEVICES, 6, 12))
ALONE = {
    "assignment": lambda x, y: tx.ot.assignment(tx.geometry.PointCloud(x, y).matrix()),
    "solve": lambda x, y: tx.ot.solve(tx.geometry.PointCloud(x, y), epsilon=0.5).f,
    "streamed value": lambda x, y: _streamed(x, y).value,
    "streamed value in float32": lambda x, y: _streamed(*jnp.float32([x, y])).value,
    "divergence": lambda x, y: tx.ot.sinkhorn_divergence(x, y, epsilon=0.5).value,
    "soft sort": lambda x, y: tx.ot.soft_sort(x[:, 0], epsilon=0.1),
    "pairs": lambda x, y: tx.couplings.Entropic(epsilon=0.5)(x, y, key=jr.key(0))[1],
    "clusters": lambda x, y: tx.attention.num_clusters(x * y, radius=3.0),
    "energy distance": tx.metrics.energy_distance,
    "kernels": lambda x, y: jax.grad(tx.gradient_flows.energy_distance_squared(y).value)(
        x, jnp.ones(6)
    ),
    "flow": lambda x, y: tx.sampling.flow(lambda t, z, args: z * y[0], x, steps=3),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.long] * (name in LONG)) for name in ALONE],
)
def test_batches_over_devices_answer_as_one_after_the_other(name):
    """By `shard_map` with its checks, and by `vmap` over a mesh with explicit axes."""
    ask = ALONE[name]
    expected = jax.jit(jax.vmap(ask))(*BATCHES)
    auto = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,))
    over = PartitionSpec("data")
    mapped = jax.shard_map(
        lambda x, y: jax.tree.map(lambda leaf: leaf[None], ask(x[0], y[0])),
        mesh=auto,
        in_specs=over,
        out_specs=over,
    )
    assert close(expected, jax.jit(mapped)(*BATCHES))
    explicit = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Explicit,))
    placed = jax.device_put(tuple(BATCHES), NamedSharding(explicit, over))
    # Without the mesh JAX finds no place for what a loop of a batch makes of constants.
    with jax.set_mesh(explicit):
        assert close(expected, jax.jit(jax.vmap(ask))(*placed))


LOSSES = {
    "flow matching": tx.losses.flow_matching,
    "mean flow": tx.losses.mean_flow,
    "flow": lambda field, path, x0, x1, key: jnp.sum(tx.sampling.flow(field, x0, steps=3) * x1),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_over_explicit_axes_trains_as_on_one_device(name):
    """Times and noise, which are drawn, lie where the batch does."""
    path = tx.interpolants.BrownianBridge(0.5)
    make = tx.fields.MLPFlowMap if name == "mean flow" else tx.fields.MLP
    field = make(3, 4, 1, key=jr.key(6))
    ask = eqx.filter_value_and_grad(
        lambda field, x0, x1: LOSSES[name](field, path, x0, x1, key=jr.key(7))
    )
    alone = eqx.filter_jit(ask)(field, X, Y)
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Explicit,))
    placed = jax.device_put((X, Y), NamedSharding(mesh, PartitionSpec("data")))
    with jax.set_mesh(mesh):
        assert close(alone, eqx.filter_jit(ask)(field, *placed))
