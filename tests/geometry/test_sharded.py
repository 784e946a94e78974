"""Clouds over eight devices (simulated, see conftest): the answers of one device."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import transportx as tx
from experiments.plan import programs
from transportx.geometry import internal
from transportx.ot import _solve

pytestmark = pytest.mark.slow

DEVICES = 8
# Points of the problem that a streamed one is started from.
FEW = 64


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,))


@pytest.fixture(scope="module")
def clouds():
    x_key, y_key, a_key = jr.split(jr.key(0), 3)
    x, y = jr.normal(x_key, (16, 2)), 1 + jr.normal(y_key, (24, 2))
    a = jr.uniform(a_key, (16,)).at[3].set(0.0)
    return x, y, a / jnp.sum(a)


def over_devices(mesh, *arrays):
    return jax.device_put(arrays, NamedSharding(mesh, PartitionSpec("data")))


def answers(cloud_of, x, y, a, epsilon):
    """A number that needs the value and implicit derivatives; and the plan's answers."""
    solver = tx.ot.Newton(tol=1e-10)
    plan = tx.ot.solve(cloud_of(x, y), a, epsilon=epsilon, solver=solver)
    images = plan.barycentric_map()
    loss = plan.value + jnp.sum(jnp.sin(plan.f)) + jnp.sum(images**2)
    rest = plan.f, plan.g, images, plan.gap, plan.marginal_error, plan.transport_cost
    return loss, (*rest, plan.top(2), plan.T @ x, plan.map(y))


def differentiated(cloud_of):
    return jax.jit(
        jax.value_and_grad(eqx.Partial(answers, cloud_of), argnums=(0, 1, 2, 3), has_aux=True)
    )


@pytest.mark.parametrize("tile", [None, 1], ids=["dense", "streamed"])
def test_answers_and_gradients_are_those_of_one_device(mesh, clouds, tile):
    def alone(x, y):
        return tx.geometry.PointCloud(x, y, tile=tile and 2)

    def sharded(x, y):
        return tx.geometry.ShardedCloud(x, y, mesh=mesh, axes=("data", "data"), tile=tile)

    epsilon = jnp.array(0.4)
    expected = differentiated(alone)(*clouds, epsilon)
    found = differentiated(sharded)(*over_devices(mesh, *clouds), epsilon)
    x_gradient = found[1][0]
    assert len(x_gradient.addressable_shards) == DEVICES
    assert x_gradient.addressable_shards[0].data.shape == (2, 2)
    for one, many in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        assert jnp.allclose(one, jax.device_get(many), rtol=1e-9, atol=1e-10)


def test_samples_follow_the_plan(mesh, clouds):
    x, y, a = over_devices(mesh, *clouds)

    @jax.jit
    def draw(x, y, a):
        cloud = tx.geometry.ShardedCloud(x, y, mesh=mesh, axes=("data", "data"))
        plan = tx.ot.solve(cloud, a, epsilon=0.4)
        return plan.matrix(), plan.sample(key=jr.key(1), num=20_000)

    matrix, (i, j) = draw(x, y, a)
    counts = jnp.zeros(matrix.shape).at[i, j].add(1 / 20_000)
    # Four deviations of a share p of 20,000 draws, in each of 384 entries.
    assert jnp.all(jnp.abs(counts - matrix) <= 4.5 * jnp.sqrt(matrix / 20_000) + 1e-4)


def test_pairs_of_a_batch_over_devices_are_those_of_one_device(mesh, clouds):
    x, y = clouds[0], clouds[1][: clouds[0].shape[0]]
    key = jr.key(2)

    def pairs(layout, *batches):
        # So small that the plan is a permutation: devices have random numbers of their own.
        coupling = tx.couplings.Entropic(1e-3, solver=tx.ot.Newton(tol=1e-10), layout=layout)
        draw = jax.jit(lambda x0, x1: coupling(x0, x1, key=key)).lower(*batches).compile()
        return draw(*batches), programs.work(draw).sent

    # As many draws as targets: a plan of each device's share could give none of another's.
    alone, _ = pairs(tx.geometry.Layout(), x, y)
    together, sent = pairs(tx.geometry.Layout(mesh=mesh), *over_devices(mesh, x, y))
    for one, many in zip(alone, together, strict=True):
        assert jnp.array_equal(one, jax.device_get(many))
    # Costs lie over the devices, to which points go round.
    assert sent["collective-permute"] > 0


def test_restricted_and_transposed_costs_are_those_of_one_device(mesh, clouds):
    x, y, _ = clouds
    one = tx.geometry.PointCloud(x, y, tx.geometry.PNorm(1.5))
    cost, axes = tx.geometry.PNorm(1.5), ("data", "data")
    x, y = over_devices(mesh, x, y)
    many = tx.geometry.ShardedCloud(x, y, cost, mesh=mesh, axes=axes)
    few, whole = slice(None, None, 5), slice(None)
    for change in (
        lambda cloud: cloud.T,
        lambda cloud: cloud.restrict(few).T,
        lambda cloud: cloud.restrict(whole, few),
        lambda cloud: cloud.restrict(few, few),
    ):
        assert jnp.allclose(change(many).matrix(), change(one).matrix(), atol=1e-13)
    assert jnp.allclose(many.mean_cost(), one.mean_cost(), atol=1e-13)


def _value_and_gradient(cloud_of, n):
    """The work of a device in the solve between n points of 4 coordinates, with its gradient."""
    points = jax.ShapeDtypeStruct((n, 4), jnp.float64)

    def value(x, y):
        return tx.ot.solve(cloud_of(x, y), epsilon=0.3, solver=tx.ot.Sinkhorn()).value

    function = jax.jit(jax.value_and_grad(value, argnums=(0, 1)))
    return programs.work(function.lower(points, points).compile())


def test_devices_share_the_work_and_gather_nothing(mesh, monkeypatch):
    monkeypatch.setattr(_solve, "_COARSE_POINTS", FEW)
    over = NamedSharding(mesh, PartitionSpec("data"))

    def sharded(x, y):
        x, y = jax.lax.with_sharding_constraint((x, y), over)
        return tx.geometry.ShardedCloud(x, y, mesh=mesh, axes=("data", "data"), tile=64)

    n = 1024
    alone = _value_and_gradient(lambda x, y: tx.geometry.PointCloud(x, y, tile=64), n)
    each, larger = _value_and_gradient(sharded, n), _value_and_gradient(sharded, 2 * n)
    assert 0.9 < DEVICES * each.flops / alone.flops < 1.1
    # Of points only the few are gathered, for the problem that starts this one; all others
    # go round, a block at a time. Of costs nothing is sent: all is linear in the points.
    point = 4 * 8
    assert each.largest["all-gather"] == larger.largest["all-gather"] == FEW * point
    assert each.largest["collective-permute"] == n // DEVICES * point
    assert set(each.sent) == {"all-gather", "all-reduce", "collective-permute"}
    assert sum(larger.sent.values()) < 2.05 * sum(each.sent.values())
    # A dozen products, each with the points and two numbers of each; and passes made once: over
    # kinds of costs, over entries hidden, and for potentials of points without weight.
    assert sum(each.sent.values()) < 16 * n * (point + 2 * 8)


@pytest.mark.parametrize("axes", [("rows", "rows"), ("rows", "columns"), (None, "columns")])
def test_second_derivatives_and_batches_are_those_of_one_device(axes, clouds):
    mesh = jax.make_mesh((4, 2), ("rows", "columns"), axis_types=(AxisType.Auto,) * 2)
    x, y, _ = clouds

    def of_clouds(cloud_of):
        def total(x, y):
            kernel = internal.gibbs_kernel(cloud_of(x, y), x[:, 0], y[:, 0], jnp.array(3.0))
            return jnp.sum(jnp.sin(kernel @ y[:, 1]))

        def along(x, y, move):
            return jax.jvp(lambda y: jax.grad(total, argnums=(0, 1))(x, y), (y,), (move,))

        # Forward over reverse, of a batch of moves.
        return jax.jit(jax.vmap(along, (None, None, 0)))

    moves = jnp.stack([jnp.cos(y), y[::-1]])
    alone = of_clouds(lambda x, y: tx.geometry.PointCloud(x, y, tile=2))(x, y, moves)
    many = of_clouds(lambda x, y: tx.geometry.ShardedCloud(x, y, mesh=mesh, axes=axes, tile=1))
    for one, other in zip(jax.tree.leaves(alone), jax.tree.leaves(many(x, y, moves)), strict=True):
        assert jnp.allclose(one, other, rtol=1e-10, atol=1e-11)


def test_what_a_mesh_cannot_hold_is_refused(mesh, clouds, without_type_checks):
    x, y, _ = clouds
    with pytest.raises(ValueError, match=r"`x` has 15 points; add points of weight zero"):
        tx.geometry.ShardedCloud(x[:15], y, mesh=mesh, axes=("data", "data"))
    with pytest.raises(ValueError, match=r"`axes` names 'model'; give axes of the mesh"):
        tx.geometry.ShardedCloud(x, y, mesh=mesh, axes=("data", "model"))
    with pytest.raises(ValueError, match=r"`y` has examples of shape \(1,\)"):
        tx.geometry.ShardedCloud(x, y[:, :1], mesh=mesh, axes=("data", "data"))
