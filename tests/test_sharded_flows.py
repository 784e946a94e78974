"""Attention, gradient flows and samples over eight devices: the answers of one, shared."""

import jax
import jax.numpy as jnp
import jax.random as jr
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import transportx as tx
from experiments.plan import programs
from transportx.geometry import Layout

att, gf = tx.attention, tx.gradient_flows
DEVICES, DIM, NUMBER = 8, 4, 8
# Points of the programs whose work is counted, and of those that run.
MANY, FEW = 1024, 16


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,))


@pytest.fixture(scope="module")
def points():
    x_key, y_key, w_key = jr.split(jr.key(0), 3)
    weights = jr.uniform(w_key, (FEW,), minval=0.5)
    # All points of a device weigh nothing; their weights have a derivative.
    weights = weights.at[2:4].set(0.0)
    x, y = jr.normal(x_key, (FEW, DIM)), 0.5 + jr.normal(y_key, (FEW, DIM))
    return x, y, weights / jnp.sum(weights)


def over_devices(mesh, *arrays):
    return jax.device_put(arrays, NamedSharding(mesh, PartitionSpec("data")))


def same(one, many):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        assert jnp.allclose(a, jax.device_get(b), rtol=1e-9, atol=1e-10, equal_nan=True)


def work(function, *shapes, mesh=None):
    """What a device does; arguments lie over those of a mesh."""
    sharding = None if mesh is None else NamedSharding(mesh, PartitionSpec("data"))
    arguments = [jax.ShapeDtypeStruct(s, jnp.float64, sharding=sharding) for s in shapes]
    return programs.work(jax.jit(function).lower(*arguments).compile())


def shared(each, alone):
    """Whether the devices have an eighth of the work each."""
    return 0.9 < DEVICES * each.flops / alone.flops < 1.1


MIXINGS = {
    "causal": lambda layout: att.Softmax(0.7, causal=True, layout=layout),
    "l2": lambda layout: att.L2(1.3, layout=layout),
    "unnormalised": lambda layout: att.Unnormalised(1.5, layout=layout),
    "sinkhorn": lambda layout: att.SinkhornAttention(
        0.9, solver=tx.ot.Newton(tol=1e-11), layout=layout
    ),
}
every_mixing = pytest.mark.parametrize(
    "name", [pytest.param(k, marks=pytest.mark.long) if k == "sinkhorn" else k for k in MIXINGS]
)
MATRICES = 0.6 * jr.normal(jr.key(1), (2, 3, DIM)), 0.6 * jr.normal(jr.key(2), (2, 3, DIM))
VALUES = 0.6 * jr.normal(jr.key(3), (2, DIM, DIM))


def of_tokens(mixing):
    def both(x, y, weights):
        def field(x, y, weights, matrices, values):
            attention = att.Attention(*matrices, values, mixing)
            return attention(x, y, weights), attention.potential(x, y, weights)

        taken, pull = jax.vjp(field, x, y, weights, MATRICES, VALUES)
        return taken, pull(jax.tree.map(jnp.cos, taken))

    return both


@every_mixing
def test_attention_and_its_derivatives_are_those_of_one_device(name, mesh, points):
    x, y, weights = points
    # Of queries that the devices do not divide, too, where they may be others than the keys.
    x, make = y if name == "causal" else x[:13], MIXINGS[name]
    alone = jax.jit(of_tokens(make(Layout())))(x, y, weights)
    y, weights = over_devices(mesh, y, weights)
    same(alone, jax.jit(of_tokens(make(Layout(mesh=mesh))))(x, y, weights))


def test_attention_sends_keys_and_values_round(mesh):
    def field(mesh):
        mixing = att.Softmax(0.7, layout=Layout(mesh, MANY // DEVICES))

        def both(x, weights):
            taken, pull = jax.vjp(att.Attention(*MATRICES, VALUES, mixing), x, x, weights)
            return taken, pull(taken)

        return both

    shapes = (MANY, DIM), (MANY,)
    each = work(field(mesh), *shapes, mesh=mesh)
    assert shared(each, work(field(None), *shapes))
    # Keys (3), weights and values (1 + 4) of two heads; twice more for the derivatives.
    assert each.sent == {"collective-permute": 3 * MANY * 2 * (3 + 1 + DIM) * NUMBER}


def test_linear_attention_sends_moments_alone(mesh):
    field = att.Attention(*MATRICES, VALUES, att.LinearAttention(0.8))
    each = work(lambda x: field(x, x), (MANY, DIM), mesh=mesh)
    assert shared(each, work(lambda x: field(x, x), (MANY, DIM)))
    assert each.sent == {"all-reduce": 2 * 3 * DIM * NUMBER}


def quartic(x):
    return jnp.sum(x**4) / 4


def attraction(x, y):
    return jnp.log1p(jnp.sum((x - y) ** 2))


def energies(layout, target, weights, bandwidth):
    """One of each kind of sum over pairs."""
    kernel = gf.Gaussian(bandwidth)
    energy = gf.MMD(target, kernel, weights, layout) + gf.Interaction(attraction, layout)
    return energy + gf.kl_divergence(lambda x: -quartic(x), bandwidth=bandwidth, layout=layout)


@pytest.mark.slow
def test_gradients_of_energies_are_those_of_one_device(mesh, points):
    def of_points(mesh):
        def moved(x, y, weights, bandwidth):
            functional = energies(Layout(mesh=mesh), y, weights, bandwidth)
            value, slopes = functional.value_and_gradient(x, weights)
            return value + jnp.sum(jnp.sin(slopes)), slopes

        return jax.jit(jax.value_and_grad(moved, argnums=(0, 1, 2, 3), has_aux=True))

    bandwidth = jnp.array(0.8)
    alone = of_points(None)(*points, bandwidth)
    many = of_points(mesh)(*over_devices(mesh, *points), bandwidth)
    same(alone, many)
    assert many[1][0].sharding.spec == PartitionSpec("data")


@pytest.mark.long
def test_sinkhorn_divergences_are_those_of_one_device(mesh, points):
    def of_points(mesh):
        def value(x, y, weights):
            solver = tx.ot.Newton(tol=1e-10)
            energy = gf.SinkhornDivergenceTo(
                y, 0.5, weights, solver=solver, layout=Layout(mesh=mesh)
            )
            return energy(x, weights)

        return jax.jit(jax.value_and_grad(value, argnums=(0, 1)))

    same(of_points(None)(*points), of_points(mesh)(*over_devices(mesh, *points)))


STEIN = {"radial": gf.InverseMultiquadric(1.2), "other": attraction}


@pytest.mark.parametrize("kernel", STEIN.values(), ids=STEIN.keys())
def test_stein_velocities_are_those_of_one_device(kernel, mesh, points):
    def rates(mesh):
        dynamics = gf.Stein(kernel, layout=Layout(mesh=mesh))
        return jax.jit(lambda x, w: dynamics.rates(gf.Potential(quartic), x, w))

    x, _, weights = points
    same(rates(None)(x, weights), rates(mesh)(*over_devices(mesh, x, weights)))


def with_noise(energy, x):
    dynamics = gf.Langevin(0.5)
    return gf.flow(energy, x, t1=0.2, steps=3, dynamics=dynamics, key=jr.key(4))


def adaptive(energy, x):
    return gf.flow(energy, x, t1=0.2, steps=tx.evolution.AdaptiveSteps(1e-3, 1e-3))


@pytest.mark.slow
@pytest.mark.parametrize("flow", [with_noise, pytest.param(adaptive, marks=pytest.mark.long)])
def test_particles_lie_over_the_devices_all_along(flow, mesh):
    def run(mesh):
        def of_points(x, y):
            energy = gf.energy_distance_squared(y, layout=Layout(mesh=mesh)) + gf.Potential(quartic)
            return flow(energy, x)

        return jax.jit(of_points)

    x, y = jr.normal(jr.key(9), (2, MANY, DIM))
    over = over_devices(mesh, x, y)
    alone, many = run(None).lower(x, y).compile(), run(mesh).lower(*over).compile()
    found = many(*over)
    same(alone(x, y), found)
    assert found.x.sharding.spec == PartitionSpec(None, "data")
    each = programs.work(many)
    assert shared(each, programs.work(alone))
    # Sums and steps are all that devices agree on; points go round, a block at a time.
    assert set(each.sent) == {"all-reduce", "collective-permute"}
    assert each.largest["collective-permute"] == MANY // DEVICES * DIM * NUMBER
    assert each.largest["all-reduce"] < MANY


INNER, OUTER = jr.normal(jr.key(5), (DIM, 32)), jr.normal(jr.key(6), (32, DIM)) / 8


def velocity(t, x, args=None):
    return jnp.matmul(jnp.tanh(jnp.matmul(x, INNER) + t), OUTER)


def normal(x):
    return -jnp.sum(x**2) / 2


SAMPLERS = {
    "likelihood": lambda x: tx.sampling.log_prob(velocity, x, base_log_prob=normal, steps=4),
    "adaptive": lambda x: tx.sampling.flow(
        velocity, x, steps=tx.evolution.AdaptiveSteps(1e-3, 1e-3)
    ),
    "noise": lambda x: tx.sampling.diffuse(
        velocity, x, score=velocity, noise=lambda t: 1 - t, key=jr.key(7), steps=4
    ),
    "gradient": jax.grad(lambda x: jnp.sum(tx.sampling.flow(velocity, x, steps=2) ** 2)),
}


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS.keys())
def test_samplers_share_examples_and_send_none(sampler, mesh):
    x = jr.normal(jr.key(8), (MANY, DIM))
    (over,) = over_devices(mesh, x)
    alone, many = (jax.jit(sampler).lower(each).compile() for each in (x, over))
    found = many(over)
    same(alone(x), found)
    assert found.sharding.spec == PartitionSpec("data")
    each = programs.work(many)
    assert shared(each, programs.work(alone))
    # Whether all examples have arrived is asked of each device.
    assert sum(each.sent.values()) <= 2


def test_what_the_devices_cannot_share_is_refused(mesh, points, without_type_checks):
    layout = Layout(mesh=mesh)
    x, y, weights = points
    field = att.Attention(*MATRICES, VALUES, att.Softmax(layout=layout))
    with pytest.raises(ValueError, match=r"`y` has 15 points; add points of weight zero up to a"):
        field(x, y[:15])
    with pytest.raises(ValueError, match=r"`target` has 15 points; add .* a multiple of 8"):
        gf.energy_distance_squared(y[:15], layout=layout)
    for energy in (gf.Interaction(attraction, layout), gf.SmoothedEntropy(0.5, layout)):
        with pytest.raises(ValueError, match=r"`x` has 15 points"):
            energy(x[:15])
    with pytest.raises(ValueError, match=r"`x` has 15 points"):
        tx.ot.sinkhorn_divergence(x[:15], y, epsilon=0.5, layout=layout)
    with pytest.raises(ValueError, match=r"`x0` has 15 points"):
        tx.couplings.Entropic(0.1, layout=layout)(x[:15], y, key=jr.key(0))
    two = jax.make_mesh((4, 2), ("rows", "columns"), axis_types=(AxisType.Auto,) * 2)
    with pytest.raises(
        ValueError, match=r"`mesh` has axes \('rows', 'columns'\); give a mesh of one axis"
    ):
        Layout(mesh=two)
