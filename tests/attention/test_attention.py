"""Attention fields: against loops, JAX's own attention, theory of gradients and energies."""

import functools
import inspect
import re

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import transportx as tx
from tests.helpers import check_derivatives
from transportx import attention as att
from transportx import ot

# Compiles in half the time of Newton.
SOLVER = ot.Sinkhorn(tol=1e-12, max_steps=5000)
MIXINGS = {
    "softmax": att.Softmax(0.7),
    "l2": att.L2(1.3),
    "unnormalised": att.Unnormalised(1.5),
    "linear": att.LinearAttention(0.8),
    "sinkhorn": att.SinkhornAttention(0.9, solver=SOLVER),
}
# Those whose field is the Wasserstein gradient of an energy where Q^T K is symmetric.
FLOWS = {name: MIXINGS[name] for name in ("unnormalised", "linear", "sinkhorn")}
CAUSAL = {
    "softmax": att.Softmax(0.7, causal=True),
    "l2": att.L2(1.3, causal=True),
    "unnormalised": att.Unnormalised(1.5, causal=True),
    "linear": att.LinearAttention(0.8, causal=True, tile=4),
}
every_mixing = pytest.mark.parametrize("mixing", MIXINGS.values(), ids=MIXINGS.keys())
every_flow = pytest.mark.parametrize("mixing", FLOWS.values(), ids=FLOWS.keys())
every_causal = pytest.mark.parametrize("mixing", CAUSAL.values(), ids=CAUSAL.keys())

RNG = np.random.default_rng(0)
Q, K = (jnp.asarray(0.6 * RNG.normal(size=(2, 2, 3))) for _ in range(2))
V = jnp.asarray(0.6 * RNG.normal(size=(2, 3, 3)))
X, Y = (jnp.asarray(RNG.normal(size=(6, 3))) for _ in range(2))
W, EVEN = jnp.array([0.1, 0.3, 0.05, 0.2, 0.15, 0.2]), jnp.ones(6) / 6
# Q^T K = Q^T P Q, symmetric and indefinite.
SYMMETRIC_K = jnp.einsum("kl,hld->hkd", jnp.array([[1.0, 0.3], [0.3, -0.7]]), Q)


@eqx.filter_jit
def at(attention, x, y, w):
    """The field; of one shape, so that every mixing is compiled once."""
    return attention(x, y, w)


@eqx.filter_jit
def jacobians(attention, x, y, w):
    """Of the field at one point, and of the weighed field of all tokens at once."""

    def everything(points):
        values = attention(points, points[1:], w)
        return jnp.concatenate([values[:1], w[:, None] * values[1:]])

    jacobian = jax.jacfwd(everything)(jnp.concatenate([x[None], y]))
    system = jacobian[1:, :, 1:].reshape(y.size, y.size)
    return jacobian[0, :, 0], system


def plain_weights(mixing, q, k, own, w):
    """Weights of one token by the book, in numpy; `own` are the queries of the context."""
    tau = float(mixing.temperature)
    scores = np.array([q @ kj for kj in k]) / tau
    if isinstance(mixing, att.LinearAttention):
        return w * scores
    if isinstance(mixing, att.Unnormalised):
        return w * np.exp(scores)
    if isinstance(mixing, att.L2):
        scores = -np.array([np.sum((q - kj) ** 2) for kj in k]) / tau
    column = np.ones_like(w)
    if isinstance(mixing, att.SinkhornAttention):
        gibbs = np.exp(own @ k.T / tau)
        for _ in range(2000):
            row = 1 / (gibbs @ (w * column))
            column = 1 / (gibbs.T @ (w * row))
    shares = w * column * np.exp(scores)
    return shares / shares.sum()


def plain(mixing, x, y, w):
    """The field by loops over heads and tokens."""
    x, y, w = np.asarray(x), np.asarray(y), np.asarray(w)
    result = np.zeros_like(x)
    for query, key, value in zip(np.asarray(Q), np.asarray(K), np.asarray(V), strict=True):
        keys, own = y @ key.T, y @ query.T
        for i, xi in enumerate(x):
            for share, yj in zip(plain_weights(mixing, query @ xi, keys, own, w), y, strict=True):
                result[i] += share * (value @ yj)
    return result


def test_every_public_mixing_is_in_the_table():
    classes = {value for value in vars(att).values() if inspect.isclass(value)}
    mixings = {cls for cls in classes if issubclass(cls, att.AbstractMixing)}
    assert {cls for cls in mixings if not inspect.isabstract(cls)} == set(
        map(type, MIXINGS.values())
    )


@every_mixing
@pytest.mark.parametrize("w", [W, jnp.array([0.25, 0.2, 0.0, 0.3, 0.25, 0.0])])
def test_field_is_that_of_loops_over_tokens(mixing, w):
    found = at(att.Attention(Q, K, V, mixing), X, Y, w)
    assert np.allclose(found, plain(mixing, X, Y, w), atol=1e-11, rtol=0)


def test_weights_are_uniform_by_default():
    field = att.Attention(Q, K, V, MIXINGS["unnormalised"])
    assert jnp.allclose(eqx.filter_jit(field)(X, Y), at(field, X, Y, EVEN), atol=1e-12)


def test_softmax_is_jax_attention_in_float32():
    length, heads, width = 33, 4, 8
    rng = np.random.default_rng(1)
    shapes = [(length, 16), (heads, width, 16), (heads, width, 16), (heads, width, 16)]
    x, query, key, value = (jnp.asarray(rng.normal(size=s) / 2, jnp.float32) for s in shapes)

    @functools.partial(jax.jit, static_argnames="causal")
    def both(x, causal):
        parts = (jnp.einsum("td,hkd->thk", x, matrix) for matrix in (query, key, value))
        expected = jax.nn.dot_product_attention(*parts, is_causal=causal)
        mixing = att.Softmax(width**0.5, causal=causal)
        return att.Attention(query, key, value, mixing)(x, x), jnp.sum(expected, axis=1)

    for causal in (False, True):
        found, expected = both(x, causal)
        assert found.dtype == jnp.float32
        assert jnp.max(jnp.abs(found - expected)) < 1e-6 * jnp.max(jnp.abs(expected))


@every_mixing
def test_order_does_not_matter_and_a_token_twice_weighs_twice(mixing):
    field = att.Attention(Q, K, V, mixing)
    order = jnp.array([3, 0, 5, 1, 4, 2])
    values = at(field, Y, Y, W)
    assert jnp.allclose(at(field, Y[order], Y[order], W[order]), values[order], atol=1e-11)
    repeated = at(field, X, Y[jnp.array([0, 0, 0, 1, 1, 2])], EVEN)
    weights = jnp.array([1 / 2, 1 / 3, 1 / 6, 0, 0, 0])
    assert jnp.allclose(repeated, at(field, X, Y, weights), atol=1e-11)


@every_mixing
def test_a_weight_of_zero_masks_its_token_wherever_that_is(mixing):
    field = att.Attention(Q, K, V, mixing)
    weights = jnp.array([0.25, 0.2, 0.0, 0.3, 0.25, 0.0])
    # Where its score would overflow, too.
    far = Y.at[5].set(1e4)
    assert jnp.allclose(at(field, X, far, weights), at(field, X, Y, weights), atol=1e-10)


@pytest.mark.parametrize("name", ["softmax", "l2", "unnormalised", "linear"])
def test_weights_of_zero_have_their_derivative(name):
    weights = jnp.array([0.25, 0.2, 0.0, 0.3, 0.25, 0.0])
    moved = jnp.array([-0.1, 0.0, 0.1, 0.0, 0.0, 0.0])
    field = att.Attention(Q, K, V, MIXINGS[name])
    rate = jax.jit(lambda w: jax.jvp(lambda w: field(X, Y, w), (w,), (moved,))[1])(weights)
    h = 1e-5
    ahead, twice = (at(field, X, Y, weights + step * moved) for step in (h, 2 * h))
    difference = (4 * ahead - twice - 3 * at(field, X, Y, weights)) / (2 * h)
    assert jnp.allclose(rate, difference, atol=1e-6)


@every_causal
def test_a_causal_token_sees_its_past_alone(mixing):
    values = at(att.Attention(Q, K, V, mixing), Y, Y, W)
    free = att.Attention(Q, K, V, type(mixing)(mixing.temperature))
    for i in range(6):
        past = at(free, Y, Y, jnp.where(jnp.arange(6) <= i, W, 0))
        assert jnp.allclose(values[i], past[i], atol=1e-12)


STREAMED = {
    "causal": att.L2(0.7, causal=True, layout=tx.geometry.Layout(tile=4)),
    "unnormalised": att.Unnormalised(1.5, layout=tx.geometry.Layout(tile=2)),
    "linear": att.LinearAttention(0.8, causal=True, tile=4),
}


@pytest.mark.parametrize("mixing", STREAMED.values(), ids=STREAMED.keys())
def test_tiles_change_neither_field_nor_derivatives(mixing):
    options = {"causal": True} if mixing.causal else {}
    whole = type(mixing)(mixing.temperature, **options)

    @jax.jit
    def both(y, w):
        results = []
        for each in (mixing, whole):
            value, pull = jax.vjp(lambda y, w, m=each: att.Attention(Q, K, V, m)(y, y, w), y, w)
            results.append((value, pull(jnp.cos(value))))
        return results

    tiled, dense = both(Y, W)
    for one, other in zip(jax.tree.leaves(tiled), jax.tree.leaves(dense), strict=True):
        assert jnp.allclose(one, other, atol=1e-11)


@pytest.mark.long
def test_tiles_change_no_doubly_stochastic_field():
    layout = tx.geometry.Layout(tile=2)
    tiled = att.Attention(Q, K, V, att.SinkhornAttention(0.9, solver=SOLVER, layout=layout))
    dense = att.Attention(Q, K, V, MIXINGS["sinkhorn"])
    assert jnp.allclose(at(tiled, X, Y, W), at(dense, X, Y, W), atol=1e-10)


@pytest.mark.parametrize("mode", ["field", "jvp", "vjp"])
def test_a_hundred_thousand_tokens_need_less_than_a_gigabyte(mode):
    tokens = jax.ShapeDtypeStruct((100_000, 32), jnp.float32)
    matrix = jax.ShapeDtypeStruct((1, 32, 32), jnp.float32)

    def field(x, query, key, value):
        return att.Attention(query, key, value, att.Softmax(32**0.5))(x, x)

    def pull(x, query, key, value, cotangent):
        return jax.vjp(field, x, query, key, value)[1](cotangent)

    def push(x, query, key, value, tangent):
        return jax.jvp(lambda x: field(x, query, key, value), (x,), (tangent,))

    function = {"field": field, "jvp": push, "vjp": pull}[mode]
    arguments = [tokens, matrix, matrix, matrix] + [tokens] * (mode != "field")
    memory = jax.jit(function).lower(*arguments).compile().memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 1e9


@pytest.mark.parametrize("name", ["softmax", "l2", "unnormalised", "linear"])
def test_derivatives_in_tokens_weights_matrices_and_temperature(name):
    mixing = MIXINGS[name]

    def field(x, y, w, query, key, value, temperature):
        return att.Attention(query, key, value, type(mixing)(temperature))(x, y, w)

    temperature = jnp.float64(mixing.temperature)
    # Directions of size one in every entry: the third derivative is in the thousands.
    check_derivatives(field, X, Y, W, Q, K, V, temperature, step=1e-5)


def check_reverse(function, *arguments, step=1e-5, tol=1e-6):
    """As `check_derivatives`, in reverse alone: one program gives values and gradient."""
    flat, unravel = ravel_pytree(arguments)
    direction = np.random.default_rng(2).normal(size=flat.shape)

    @jax.jit
    def both(flat):
        value, pull = jax.vjp(lambda flat: function(*unravel(flat)), flat)
        return value, pull(jnp.cos(value))[0]

    (ahead, _), (behind, _), (value, gradient) = (
        both(flat + move * direction) for move in (step, -step, 0)
    )
    difference = jnp.sum(jnp.cos(value) * (ahead - behind)) / (2 * step)
    assert np.isclose(gradient @ direction, difference, rtol=tol, atol=tol)


def test_doubly_stochastic_attention_has_exact_derivatives_of_everything():
    def field(x, y, w, query, key, value, temperature):
        mixing = att.SinkhornAttention(temperature, solver=SOLVER)
        return att.Attention(query, key, value, mixing)(x, y, w)

    check_reverse(field, X, Y, W, Q, K, V, jnp.float64(0.9))


def asymmetry(matrix):
    return jnp.max(jnp.abs(matrix - matrix.T))


@every_mixing
def test_the_field_is_a_gradient_in_x_exactly_if_values_are_queries_of_keys(mixing):
    gradient, other = att.gradient_attention(Q, K, mixing), att.Attention(Q, K, V, mixing)
    assert asymmetry(jacobians(gradient, X[0], Y, W)[0]) < 1e-10
    assert asymmetry(jacobians(other, X[0], Y, W)[0]) > 1e-2


@every_mixing
def test_it_is_a_wasserstein_gradient_exactly_where_theory_says(mixing):
    """The Jacobian of all tokens at once, weighed by masses, is then a Hessian."""
    symmetric, not_symmetric = (
        asymmetry(jacobians(att.gradient_attention(Q, key, mixing), X[0], Y, W)[1])
        for key in (SYMMETRIC_K, K)
    )
    assert symmetric < 1e-10 if mixing in FLOWS.values() else symmetric > 1e-3
    assert not_symmetric > 1e-3


@every_mixing
def test_potentials_and_energies_have_the_field_as_their_gradient(mixing):
    attention = att.gradient_attention(Q, SYMMETRIC_K, mixing)

    @jax.jit
    def slopes(x, y):
        energy = att.AttentionEnergy(attention).gradient(y, W)
        return jax.grad(lambda x: jnp.sum(attention.potential(x, y, W)))(x), energy

    of_potential, of_energy = slopes(X, Y)
    assert jnp.allclose(of_potential, at(attention, X, Y, W), atol=1e-10)
    if mixing in FLOWS.values():
        assert jnp.allclose(of_energy, at(attention, Y, Y, W), atol=1e-9)


def test_interaction_energy_is_that_of_the_papers():
    beta, x = 2.5, att.normalise(Y)
    one = jnp.eye(3)
    attention = att.Attention(one, one, one, att.Unnormalised(1 / beta))
    expected = np.sum(np.exp(beta * np.asarray(x) @ np.asarray(x).T)) / (2 * beta * 36)
    assert np.isclose(eqx.filter_jit(attention.energy)(x), expected, rtol=1e-12)


SPHERE = att.normalise(jnp.asarray(RNG.normal(size=(9, 3))))
MASSES = jnp.linspace(0.5, 1.5, 9) / 9


@eqx.filter_jit
def settled(field, depth, tokens, weights):
    """Tokens at a depth, with errors far below the tolerances of these tests."""
    steps = tx.evolution.AdaptiveSteps(1e-12, 1e-12, diffrax.Dopri8())
    return att.evolve(field, tokens, weights, depth=depth, steps=steps)


@eqx.filter_jit
def energy_of(interaction, x):
    return interaction.energy(x, MASSES)


@eqx.filter_jit
def rates(field, interaction, x):
    """Velocities, the energy's rate along them, and their square."""
    rate = att.energy_rate(att.AttentionEnergy(interaction), field, x, MASSES)
    return field(jnp.zeros(()), x, MASSES), rate, att.squared_speed(field, x, MASSES)


@pytest.mark.parametrize("name", ["unnormalised", "softmax"])
def test_energy_grows_on_the_sphere_at_the_predicted_rate(name):
    # One head: a sum of softmaxes is not parallel to a sum of gradients.
    mixings = {"unnormalised": att.Unnormalised(0.5), "softmax": att.Softmax(0.5)}
    made = {k: att.gradient_attention(3 * Q[0], SYMMETRIC_K[0], m) for k, m in mixings.items()}
    attention, interaction = made[name], made["unnormalised"]
    field = att.TokenField(attention, sphere=True)

    def path(depth):
        return settled(field, jnp.float64(depth), SPHERE, MASSES)

    energies = [energy_of(interaction, path(depth)) for depth in (0.1, 0.5, 1.0, 2.0, 4.0)]
    assert np.min(np.diff(np.array(energies, float))) > 1e-3

    now, h = path(0.5), 1e-3
    ends = [energy_of(interaction, path(0.5 + step)) for step in (h, -h)]
    difference = (ends[0] - ends[1]) / (2 * h)
    velocity, rate, speed = rates(field, interaction, now)
    scores = np.asarray((now @ interaction.query[0].T) @ (now @ interaction.key[0].T).T) / 0.5
    totals = np.exp(scores) @ np.asarray(MASSES) if name == "softmax" else np.ones(9)
    predicted = np.sum(np.asarray(MASSES) * totals * np.sum(np.asarray(velocity) ** 2, axis=1))
    assert np.isclose(difference, predicted, rtol=1e-6, atol=0)
    assert np.isclose(rate, predicted)
    if name == "unnormalised":
        assert np.isclose(speed, predicted)


def test_two_clusters_of_no_score_close_their_angle_like_a_pendulum():
    """Uniform weights on a great circle: theta' = -sin theta, tan(theta/2) falls like e^-t."""
    zero, angle, depth = jnp.zeros((2, 3)), 2.3, 1.7
    field = att.TokenField(att.Attention(zero, zero, jnp.eye(3), att.Softmax(0.5)), sphere=True)
    ends = jnp.array([[1.0, 0.0, 0.0], [np.cos(angle), np.sin(angle), 0.0]])
    group = jnp.array([0, 0, 0, 0, 0, 1, 1, 1, 1])
    weights = jnp.array([1 / 10, 1 / 8])[group]
    moved = settled(field, jnp.float64(depth), ends[group], weights)
    expected = 2 * np.arctan(np.tan(angle / 2) * np.exp(-depth))
    assert np.isclose(np.arccos(moved[0] @ moved[-1]), expected, atol=1e-8)
    assert np.isclose(att.order_parameter(moved, weights), np.cos(expected / 2), atol=1e-8)


def test_euler_steps_on_the_sphere_are_residual_layers_with_layer_norm():
    """Recorded on the way, too, as the layers are."""
    attention, layers, depth = att.Attention(Q, K, V), 3, 1.5
    hidden = jnp.stack([V[0], V[1].T]) / 2

    def mlp(x):
        return hidden[1] @ jax.nn.gelu(hidden[0] @ x)

    def layer(x):
        update = attention(x, x, MASSES) + jax.vmap(mlp)(x) - 0.2 * x
        x = x + depth / layers * (update - jnp.sum(update * x, axis=1, keepdims=True) * x)
        return x / jnp.linalg.norm(x, axis=1, keepdims=True)

    @jax.jit
    def both(x):
        field = att.TokenField(attention, mlp, 0.2, sphere=True)
        depths = jnp.linspace(0, depth, layers + 1)
        options = {"depth": depth, "steps": layers, "depths": depths}
        _, expected = jax.lax.scan(lambda x, _: (layer(x), x), x, None, length=layers + 1)
        return att.evolve(field, 3 * x, MASSES, **options), expected

    path, expected = both(SPHERE)
    assert jnp.allclose(path, expected, atol=1e-13)


@pytest.mark.long
def test_evolution_differentiates_in_tokens_weights_matrices_and_depth():
    def final(x, w, query, depth):
        field = att.TokenField(att.Attention(query, K, V), sphere=True)
        return att.evolve(field, x, w, depth=depth, steps=3)

    check_reverse(final, Y, W, Q, jnp.float64(0.8))


def test_doubly_stochastic_attention_sums_to_one_both_ways():
    softmax, sinkhorn = (
        eqx.filter_jit(att.Attention(Q, K, V, mixing).matrix)(Y, Y)
        for mixing in (att.Softmax(0.9), MIXINGS["sinkhorn"])
    )
    assert jnp.allclose(jnp.sum(sinkhorn, axis=2), 1, atol=1e-14)
    assert jnp.allclose(jnp.sum(sinkhorn, axis=1), 1, atol=1e-11)
    assert jnp.allclose(jnp.sum(softmax, axis=2), 1, atol=1e-14)
    assert jnp.max(jnp.abs(jnp.sum(softmax, axis=1) - 1)) > 0.1


def test_doubly_stochastic_attention_that_did_not_converge_is_nan():
    attention = att.Attention(300 * Q, 300 * K, V, MIXINGS["sinkhorn"])
    assert jnp.all(jnp.isnan(at(attention, X, Y, W)))


@pytest.mark.long
@every_mixing
def test_sequences_in_a_batch_do_not_see_each_other(mixing):
    field = att.Attention(Q, K, V, mixing)
    batch = jnp.stack([Y, Y[::-1] + 0.5, jnp.full_like(Y, jnp.nan)])
    values = jax.jit(jax.vmap(lambda y: field(y, y, W)))(batch)
    for one, y in zip(values[:2], batch, strict=False):
        assert jnp.allclose(one, at(field, y, y, W), atol=1e-11)
    assert jnp.all(jnp.isnan(values[2]))


@every_mixing
def test_negative_weights_are_nan_and_not_a_plausible_field(mixing):
    field = att.Attention(Q, K, V, mixing)
    assert jnp.all(jnp.isnan(at(field, X, Y, W.at[2].set(-0.05))))


CHAIN = jnp.array([[0.0, 0.0], [5.0, 0.0], [0.9, 0.0], [1.8, 0.0], [5.0, 0.5], [-9.0, 1.0]])


def test_clusters_are_chains_of_near_tokens():
    names = eqx.filter_jit(att.cluster_labels)
    assert names(CHAIN, radius=jnp.float64(1.0)).tolist() == [0, 1, 0, 0, 1, 5]
    assert names(CHAIN, radius=jnp.float64(0.1)).tolist() == [0, 1, 2, 3, 4, 5]
    assert not jnp.any(names(CHAIN, radius=jnp.float64(100.0)))
    # A long chain in random order, one hop a link.
    order = np.random.default_rng(0).permutation(200)
    count = eqx.filter_jit(att.num_clusters)
    assert count(jnp.asarray(order[:, None], jnp.float64), radius=jnp.float64(1.0)) == 1


def test_time_to_cluster_is_the_first_recorded_one():
    times = jnp.array([0.0, 1.0, 2.0, 3.0])
    path = CHAIN[None] * jnp.array([1.0, 0.5, 0.1, 0.01])[:, None, None]
    time = eqx.filter_jit(att.time_to_cluster)
    assert time(times, path, radius=jnp.float64(1.0)) == 2.0
    # Mirrored in time they part.
    assert time(times, path[::-1], radius=jnp.float64(1.0)) == 0.0
    assert time(times, 10 * path, radius=jnp.float64(1.0)) == 3.0
    assert time(times, 1e4 * path, radius=jnp.float64(1.0)) == jnp.inf


def test_angles_are_counted_with_their_masses():
    angles = np.array([0.1, 0.9, 2.5, 4.0])
    tokens = 3 * jnp.asarray(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    masses = np.array([0.1, 0.2, 0.3, 0.4])
    gaps = np.abs(angles[:, None] - angles[None])
    gaps = np.minimum(gaps, 2 * np.pi - gaps)
    pairs = masses[:, None] * masses[None]
    expected, _ = np.histogram(gaps, bins=8, range=(0, np.pi), weights=pairs)
    found = jax.jit(lambda w: att.angle_histogram(tokens, w, bins=8))(jnp.asarray(masses))
    assert np.allclose(found, expected)
    balanced = jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -3.0]])
    assert np.isclose(att.order_parameter(balanced), 0, atol=1e-12)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: att.Attention(Q, K[:, :1], V), "key"),
        (lambda: att.Attention(Q, K, V[:1]), "value"),
        (lambda: att.Attention(Q[0, 0], K, V), "query"),
        (lambda: att.Attention(Q.astype(int), K, V), "query"),
        (lambda: att.Attention(Q, K, V)(X[:, :2], Y), "x"),
        (lambda: att.Attention(Q, K, V)(X, Y[:0]), "y"),
        (lambda: att.Attention(Q, K, V)(X, Y, W[:3]), "weights"),
        (lambda: att.Attention(Q, K, V)(X, Y, W.astype(int)), "weights"),
        (lambda: att.Attention(Q, K, V, att.Softmax(causal=True))(X[:4], Y), "x"),
        (lambda: att.Attention(Q, K, V, att.LinearAttention(causal=True))(X[:4], Y), "x"),
        (lambda: att.Softmax(0.0), "temperature"),
        (lambda: att.L2(-1.0), "temperature"),
        (lambda: att.LinearAttention(tile=0), "tile"),
        (lambda: att.evolve(att.Attention(Q, K, V), Y, depth=0.0), "depth"),
        (lambda: att.evolve(att.Attention(Q, K, V), Y, W[:2], depth=1.0), "weights"),
        (lambda: att.evolve(att.Attention(Q, K, V[:, :2]), Y, depth=1.0), "field"),
        (lambda: att.cluster_labels(Y, radius=0.0), "radius"),
        (lambda: att.angle_histogram(Y, bins=0), "bins"),
    ],
)
def test_bad_input_is_refused_by_name(call, argument):
    with pytest.raises(ValueError, match=re.escape(f"`{argument}`")):
        call()
