"""Trainable layers: against other implementations, finite differences and the flows they step."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import transportx as tx
from tests.helpers import check_derivatives
from transportx import attention as att
from transportx import ot

DIM, HEADS, TOKENS = 4, 2, 5
SOLVER = ot.Sinkhorn(tol=1e-12, max_steps=5000)
MIXINGS = {
    "softmax": att.Softmax(jnp.array(1.4)),
    "sinkhorn": att.SinkhornAttention(jnp.array(1.4), solver=SOLVER),
}
every_mixing = pytest.mark.parametrize("mixing", MIXINGS.values(), ids=MIXINGS.keys())
X = jnp.asarray(np.random.default_rng(0).normal(size=(TOKENS, DIM)))
WEIGHTS = jnp.array([0.1, 0.3, 0.2, 0.25, 0.15])


def transformer(mixing, *, depth=2, step=0.5):
    sizes = {"depth": depth, "heads": HEADS, "hidden": 6, "step": step}
    return att.Transformer(DIM, mixing=mixing, key=jr.key(0), **sizes)


@eqx.filter_jit
def path(model, x, weights):
    return model.path(x, weights)


def test_softmax_layer_is_that_of_equinox():
    layer = att.SelfAttention(DIM, HEADS, att.Softmax((DIM / HEADS) ** 0.5), key=jr.key(1))
    other = eqx.nn.MultiheadAttention(HEADS, DIM, key=jr.key(2))
    stacked = [matrix.reshape(DIM, DIM) for matrix in (layer.query, layer.key, layer.value)]
    # Equinox lays the heads side by side in the columns of its last matrix.
    stacked.append(jnp.concatenate(list(layer.output), axis=1))
    other = eqx.tree_at(
        lambda m: [p.weight for p in (m.query_proj, m.key_proj, m.value_proj, m.output_proj)],
        other,
        stacked,
    )
    found, expected = eqx.filter_jit(lambda x: (layer(x, x), other(x, x, x)))(X)
    assert jnp.allclose(found, expected, atol=1e-12, rtol=0)


def test_sinkhorn_layer_is_doubly_stochastic_and_that_of_plain_iterations():
    layer = att.SelfAttention(DIM, HEADS, MIXINGS["sinkhorn"], key=jr.key(1))
    found, matrices = eqx.filter_jit(lambda x: (layer(x, x), layer.field.matrix(x, x)))(X)
    assert jnp.allclose(jnp.sum(matrices, axis=2), 1, atol=1e-13, rtol=0)
    # The solver's tolerance bounds the mean deviation of the columns.
    assert jnp.max(jnp.mean(jnp.abs(jnp.sum(matrices, axis=1) - 1), axis=1)) < 1e-12
    expected = np.zeros_like(X)
    for query, key, value, output in zip(
        layer.query, layer.key, layer.value, layer.output, strict=True
    ):
        shares = np.exp((X @ query.T) @ (X @ key.T).T / 1.4)
        for _ in range(2000):
            shares = shares / shares.sum(axis=0, keepdims=True)
            shares = shares / shares.sum(axis=1, keepdims=True)
        expected += shares @ X @ value.T @ output.T
    assert jnp.allclose(found, expected, atol=1e-10, rtol=0)


@every_mixing
def test_derivatives_in_tokens_weights_and_all_parameters(mixing):
    arrays, static = eqx.partition(transformer(mixing), eqx.is_array)

    def moved(arrays, x, weights):
        return eqx.combine(arrays, static)(x, weights)

    # The temperature among them.
    assert arrays.blocks.attention.mixing.temperature.shape == (2,)
    check_derivatives(moved, arrays, X, WEIGHTS)


@every_mixing
def test_order_does_not_matter_and_a_token_twice_weighs_twice(mixing):
    model, order = transformer(mixing), jnp.array([3, 0, 4, 1, 2])
    plain = path(model, X, WEIGHTS)
    permuted = path(model, X[order], WEIGHTS[order])
    assert jnp.allclose(permuted, plain[:, order], atol=1e-10, rtol=0)
    repeated = path(model, X[jnp.array([0, 0, 0, 1, 2])], jnp.ones(TOKENS) / TOKENS)
    weighed = path(model, X, jnp.array([0.6, 0.2, 0.2, 0.0, 0.0]))
    assert jnp.allclose(repeated[:, 2:], weighed[:, :3], atol=1e-10, rtol=0)


def test_a_layer_is_an_euler_step_of_its_own_field():
    model = transformer(MIXINGS["softmax"], depth=3, step=0.3)

    @eqx.filter_jit
    def parts(block, x):
        seen = block.normalise(x)
        return seen, block.attention.field(seen, seen, WEIGHTS) + jax.vmap(block.network)(seen)

    stream = path(model, X, WEIGHTS)
    assert jnp.array_equal(stream[0], X)
    for index in range(3):
        seen, velocity = parts(model.layer(index), stream[index])
        assert jnp.allclose(jnp.mean(seen, axis=1), 0, atol=1e-12)
        step = stream[index + 1] - stream[index]
        assert jnp.allclose(step, 0.3 * velocity, atol=1e-12, rtol=0)


def test_layers_of_one_block_approach_its_flow_at_first_order():
    one = transformer(MIXINGS["softmax"], depth=1)

    def stacked(layers):
        arrays, static = eqx.partition(one, eqx.is_array)
        copies = jax.tree.map(lambda leaf: jnp.repeat(leaf, layers, axis=0), arrays)
        model = eqx.tree_at(lambda m: m.step, eqx.combine(copies, static), 1 / layers)
        return eqx.filter_jit(model)(X)

    field = one.layer(0).field
    coarse, fine = stacked(40), stacked(80)
    euler = att.evolve(field, X, depth=1.0, steps=40)
    assert jnp.allclose(coarse, euler, atol=1e-12, rtol=0)
    flow = att.evolve(field, X, depth=1.0, steps=tx.evolution.AdaptiveSteps(1e-10, 1e-10))
    order = jnp.log2(jnp.linalg.norm(coarse - flow) / jnp.linalg.norm(fine - flow))
    assert 0.95 < order < 1.05


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 3}, "`heads` is 3 for dim 4; give a divisor"),
        ({"heads": 0}, "`heads` is 0; give an integer of at least 1"),
        ({"hidden": 1.5}, "`hidden` is 1.5; give an integer"),
        ({"depth": 0}, "`depth` is 0; give an integer"),
        ({"step": 0.0}, "`step` is 0.0; give a positive number"),
    ],
)
def test_wrong_sizes_are_refused(settings, message, without_type_checks):
    sizes = {"depth": 1, "heads": 2, "hidden": 3, "step": 1.0} | settings
    with pytest.raises(ValueError, match=message):
        att.Transformer(DIM, mixing=att.Softmax(), key=jr.key(0), **sizes)
