"""Networks as measures: the risk and its calculus, memory, dtypes, refusals."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.special

import transportx.gradient_flows as gf
import transportx.mean_field as mf
from tests.helpers import quick
from tests.mean_field.networks import (
    CLASSES,
    KEYS,
    RISKS,
    SIGNS,
    WEIGHTS,
    D,
    E,
    M,
    N,
    X,
    Y,
    network,
)

ACTIVATIONS = (mf.Identity(), mf.Relu(), mf.RectifiedPower(2), mf.RectifiedPower(2.5), mf.Tanh())
every_risk = pytest.mark.parametrize("name", RISKS)


# The measure and its functionals.


@quick
def outputs(network):
    return network(X)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_homogeneous_activations_scale_by_their_degree(activation):
    s, c = jnp.linspace(-2.0, 2.0, 9), 3.0
    scaled = activation(c * s)
    if activation.degree is None:
        assert all(not jnp.allclose(scaled, c**p * activation(s)) for p in (0, 1, 2))
    else:
        assert jnp.allclose(scaled, c**activation.degree * activation(s), rtol=1e-14)
    slopes = jax.vmap(jax.grad(activation))(s)
    ends = (activation(s + step) for step in (1e-6, -1e-6))
    smooth = s != 0
    assert jnp.allclose(slopes[smooth], ((next(ends) - next(ends)) / 2e-6)[smooth], atol=1e-8)
    assert jnp.all(jnp.isfinite(slopes))


@pytest.mark.parametrize("tile", [None, 2, 4])
def test_outputs_are_the_sum_over_neurons_in_any_order_and_tiling(tile):
    made = network(mf.Relu(), tile=tile)
    expected = np.zeros((M, E))
    for w, u, a in zip(made.inner, made.outer, WEIGHTS, strict=True):
        expected += float(a) * np.outer(np.maximum(np.asarray(X) @ np.asarray(w), 0), u)
    assert jnp.allclose(outputs(made), expected, rtol=1e-13, atol=1e-14)
    order = jr.permutation(KEYS[3], N)
    shuffled = mf.Network(made.inner[order], made.outer[order], WEIGHTS[order], mf.Relu(), tile)
    assert jnp.allclose(outputs(shuffled), expected, rtol=1e-13, atol=1e-14)


def test_a_neuron_twice_is_one_of_twice_the_weight_and_weight_zero_is_none():
    made = network(mf.Relu())
    twice = jnp.concatenate([jnp.arange(N), jnp.array([0, 3])])
    masses = WEIGHTS[twice].at[jnp.array([0, 9])].multiply(0.5).at[10].set(0)
    doubled = mf.Network(made.inner[twice], made.outer[twice], masses, mf.Relu())
    assert jnp.allclose(outputs(doubled), outputs(made), rtol=1e-13)
    even = network(mf.Relu(), jnp.full(N, 1 / N))
    assert jnp.allclose(outputs(network(mf.Relu(), None)), outputs(even), rtol=1e-15)


def test_losses_are_those_of_the_books():
    f = network(mf.Relu())(X)
    risks = {
        name: mf.Risk(X, risk.y, risk.loss)(*network(mf.Relu()).measure)
        for name, risk in RISKS.items()
    }
    f, y, signs, classes = (np.asarray(a) for a in (f, Y, SIGNS, CLASSES))
    assert np.isclose(risks["square"], np.sum((f - y) ** 2) / (2 * M), rtol=1e-13)
    assert np.isclose(risks["logistic"], -np.sum(np.log(scipy.special.expit(signs * f))) / M)
    logs = scipy.special.log_softmax(f, axis=1)
    assert np.isclose(risks["softmax"], -np.sum(classes * logs) / M, rtol=1e-13)


@functools.cache
def calculus(name, tile=4):
    """One program of values, gradients and variations, also at three probes."""
    risk = RISKS[name]

    def evaluate(neurons, weights, probes):
        at, there = (mf.Neurons(p.inner, p.outer, mf.Tanh(), tile) for p in (neurons, probes))
        value, slopes, variation = risk.derivatives(at, weights)
        slopes = mf.Neurons(slopes.inner, slopes.outer, mf.Tanh())
        return (
            risk(at, weights),
            value,
            slopes,
            variation,
            risk.first_variation(there, at, weights),
        )

    return quick(evaluate)


PROBES = mf.Neurons(jr.normal(KEYS[4], (3, D)), jr.normal(KEYS[5], (3, E)), mf.Tanh())


@every_risk
def test_gradients_are_difference_quotients_over_the_weights(name):
    evaluate, start = calculus(name), network().neurons
    value, again, slopes, _, _ = evaluate(start, WEIGHTS, PROBES)
    assert jnp.allclose(value, again, rtol=1e-14)
    for key in jr.split(KEYS[3], 3):
        inner_key, outer_key = jr.split(key)
        along = mf.Neurons(jr.normal(inner_key, (N, D)), jr.normal(outer_key, (N, E)), mf.Tanh())
        ends = (
            evaluate(jax.tree.map(lambda p, v, h=h: p + h * v, start, along), WEIGHTS, PROBES)[0]
            for h in (1e-5, -1e-5)
        )
        products = jax.tree.map(lambda g, v: WEIGHTS @ jnp.sum(g * v, axis=1), slopes, along)
        expected = sum(jax.tree.leaves(products))
        assert jnp.allclose((next(ends) - next(ends)) / 2e-5, expected, rtol=1e-7, atol=1e-9)


@every_risk
def test_first_variations_are_derivatives_by_the_weights(name):
    evaluate, start = calculus(name), network().neurons
    _, _, _, variation, _ = evaluate(start, WEIGHTS, PROBES)
    for i in (0, 5):
        up, down = (evaluate(start, WEIGHTS.at[i].add(h), PROBES)[0] for h in (1e-5, -1e-5))
        assert jnp.allclose((up - down) / 2e-5, variation[i], rtol=1e-7, atol=1e-9)


@every_risk
def test_gradients_are_those_of_the_first_variation_at_any_neuron(name):
    evaluate, start = calculus(name), network().neurons
    _, _, slopes, variation, _ = evaluate(start, WEIGHTS, PROBES)
    step = 1e-5
    inner = start.inner[:1] + step * jnp.array([[0.0], [1.0], [-1.0]]) * jnp.eye(1, D, 1)
    probes = mf.Neurons(inner, jnp.tile(start.outer[:1], (3, 1)), mf.Tanh())
    there, ahead, behind = evaluate(start, WEIGHTS, probes)[-1]
    assert jnp.allclose(there, variation[0], rtol=1e-13)
    assert jnp.allclose((ahead - behind) / (2 * step), slopes.inner[0, 1], rtol=1e-6, atol=1e-9)


@every_risk
def test_order_and_tiles_do_not_count(name):
    start = network().neurons
    order = jr.permutation(KEYS[3], N)
    shuffled = jax.tree.map(lambda part: part[order], start)
    value, _, slopes, variation, probed = calculus(name)(start, WEIGHTS, PROBES)
    moved = calculus(name, None)(shuffled, WEIGHTS[order], PROBES)
    expected = value, value, jax.tree.map(lambda s: s[order], slopes), variation[order], probed
    for one, other in zip(jax.tree.leaves(moved), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-14)


def test_the_velocity_of_linear_neurons_is_that_of_the_facts():
    made, risk = network(mf.Identity()), mf.Risk(X, Y)
    u, w, a = (np.asarray(part) for part in (made.outer, made.inner, WEIGHTS))
    sigma, cross = np.asarray(X).T @ X / M, np.asarray(Y).T @ X / M
    force = (a[:, None] * u).T @ w @ sigma - cross
    slopes = quick(lambda made: risk.gradient(*made.measure))(made)
    np.testing.assert_allclose(slopes.inner, u @ force, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(slopes.outer, w @ force.T, rtol=1e-11, atol=1e-13)


# Memory, dtypes, refusals.


@pytest.mark.parametrize("what", ["gradient", "through_training"])
def test_a_hundred_thousand_neurons_need_memory_for_neurons_and_data_alone(what):
    m, d = 2_000, 10

    def gradient(network, x, y):
        risk = mf.Risk(x, y)
        return risk(*network.measure), risk.derivatives(*network.measure)

    def through_training(network, x, y):
        times = jnp.array([0.0, 1.0])
        return jax.grad(
            lambda w: mf.train(mf.Risk(x, y), w, t1=1.0, steps=2, times=times).risk[-1]
        )(network)

    function = {"gradient": gradient, "through_training": through_training}[what]
    used = []
    # Of what takes long to compile, once is enough.
    for n in (50_000, 100_000)[what == "through_training" :]:
        shapes = [(n, d), (n, 1), (m, d), (m, 1)]
        inner, outer, *data = (jax.ShapeDtypeStruct(s, jnp.float64) for s in shapes)
        program = jax.jit(lambda w, u, x, y: function(mf.Network(w, u), x, y))
        memory = program.lower(inner, outer, *data).compile().memory_analysis()
        assert memory is not None
        used.append(memory.temp_size_in_bytes)
    # All pairs would take 1.6 GB.
    assert used[-1] < 2.5e8
    assert used[-1] < 2.2 * used[0]


def test_results_have_the_dtype_of_the_network():
    def narrow(tree):
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)

    made = jax.eval_shape(
        lambda: mf.train(
            narrow(RISKS["softmax"]), narrow(network()), t1=1.0, dynamics=gf.WassersteinFisherRao()
        )
    )
    kinds = {
        leaf.dtype
        for leaf in jax.tree.leaves((made.networks, made.risk, made.dissipation, made.times))
    }
    assert kinds == {jnp.dtype(jnp.float32)}
    assert mf.random_network(3, dim=2, key=KEYS[0], dtype=jnp.float32).inner.dtype == jnp.float32


START = network()
REFUSED = {
    "inner": lambda: mf.Network(X[0], Y),
    "outer": lambda: mf.Network(X, Y[:3]),
    "weights": lambda: mf.Network(X, Y, jnp.ones(3)),
    "tile": lambda: mf.Network(X, Y, tile=0),
    "degree": lambda: mf.RectifiedPower(0.5),
    "num": lambda: mf.random_network(0, dim=2, key=KEYS[0]),
    "scale": lambda: mf.random_network(3, dim=2, scale=0.0, key=KEYS[0]),
    "x": lambda: START(X[:, :2]),
    "y": lambda: mf.Risk(X, Y[:3]),
    "ridge": lambda: mf.Risk(X, Y, ridge=-1.0),
    "network.activation": lambda: mf.invariants(START),
    "risk.x": lambda: mf.train(mf.Risk(X[:, :2], Y), START, t1=1.0),
    "risk.y": lambda: mf.train(mf.Risk(X, Y[:, :1]), START, t1=1.0),
    "t1": lambda: mf.train(RISKS["square"], START, t1=0.0),
    "batch_size": lambda: mf.MiniBatches(RISKS["square"], M + 1),
    "num_rounds": lambda: gf.birth_death(
        RISKS["square"], *START.measure, t1=1.0, num_rounds=0, key=KEYS[0]
    ),
    "z": lambda: RISKS["square"].first_variation(network(mf.Relu()).neurons, *START.measure),
    "steps": lambda: mf.train(RISKS["square"], START, t1=1.0, steps=0),
    "key": lambda: mf.train(mf.MiniBatches(RISKS["square"], 2), START, t1=1.0),
    "times": lambda: mf.train(RISKS["square"], START, t1=1.0, times=jnp.array([0.0, 2.0])),
    "risk.loss": lambda: mf.linear_training(RISKS["softmax"], jnp.eye(D + E), t1=1.0),
    "moments": lambda: mf.linear_training(RISKS["square"], jnp.eye(D), t1=1.0),
    "teacher.inner": lambda: mf.alignment(START, mf.random_network(2, dim=2, key=KEYS[0])),
}


@pytest.mark.parametrize("argument", REFUSED)
def test_what_does_not_fit_is_refused_by_name(argument, without_type_checks):
    with pytest.raises(ValueError, match=f"^`{argument}` "):
        REFUSED[argument]()
