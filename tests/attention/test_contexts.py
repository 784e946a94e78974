"""Mixtures as context, Lipschitz constants, derivatives in depth, plateaus, and memory."""

import itertools
import re

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.integrate import quad

import transportx as tx
from tests.helpers import check_derivatives, command
from transportx import attention as att
from transportx import gaussians

MIXINGS = {
    "softmax": att.Softmax(1.7),
    "l2": att.L2(2.6),
    "unnormalised": att.Unnormalised(1.5),
    "linear": att.LinearAttention(0.8),
}
every_mixing = pytest.mark.parametrize("mixing", MIXINGS.values(), ids=MIXINGS.keys())

RNG = np.random.default_rng(7)
Q, K = (jnp.asarray(0.5 * RNG.normal(size=(2, 3, 2))) for _ in range(2))
V = jnp.asarray(0.5 * RNG.normal(size=(2, 2, 2)))
X = jnp.asarray(RNG.normal(size=(5, 2)))
WEIGHTS = jnp.array([0.3, 0.7])
MEANS = jnp.array([[0.6, -0.4], [-0.5, 0.8]])
# They do not commute.
COVARIANCES = jnp.array([[[0.5, 0.2], [0.2, 0.3]], [[0.2, -0.1], [-0.1, 0.6]]])
MIXTURE = gaussians.Mixture(WEIGHTS, MEANS, COVARIANCES)


@eqx.filter_jit
def in_mixture(context, x):
    """Field, potential and its gradient at each point."""
    potentials, gradients = jax.vmap(jax.value_and_grad(context.potential))(x)
    return jax.vmap(context)(x), potentials, gradients


@eqx.filter_jit
def among(attention, x, y, w):
    """Field and potential among weighted tokens."""
    return attention(x, y, w), attention.potential(x, y, w)


def nodes(mixture, count):
    """The mixture as weighted tokens: Gauss-Hermite quadrature of each component."""
    points, weights = np.polynomial.hermite_e.hermegauss(count)
    grid = np.stack(np.meshgrid(points, points), axis=-1).reshape(-1, 2)
    masses = np.outer(weights, weights).reshape(-1) / (2 * np.pi)
    roots = np.linalg.cholesky(mixture.covariances)
    tokens = [m + grid @ root.T for m, root in zip(np.asarray(mixture.means), roots, strict=True)]
    masses = np.outer(mixture.weights, masses).reshape(-1)
    return jnp.asarray(np.concatenate(tokens)), jnp.asarray(masses)


@every_mixing
def test_field_and_potential_of_a_mixture_are_those_of_its_quadrature(mixing):
    attention = att.Attention(Q, K, V, mixing)
    found = in_mixture(att.MixtureContext(attention, MIXTURE), X)
    # L2's integrand is the least smooth: these many nodes leave it 1e-10.
    expected = among(attention, X, *nodes(MIXTURE, 32))
    for one, other in zip(found, expected, strict=False):
        assert jnp.allclose(one, other, atol=1e-8, rtol=0)


@every_mixing
def test_the_field_of_a_mixture_is_a_gradient_if_values_are_queries_of_keys(mixing):
    for attention, same in (
        (att.gradient_attention(Q, K, mixing), True),
        (att.Attention(Q, K, V, mixing), False),
    ):
        field, _, gradient = in_mixture(att.MixtureContext(attention, MIXTURE), X)
        assert jnp.allclose(field, gradient, atol=1e-12) == same


@every_mixing
def test_components_without_spread_are_weighted_tokens(mixing):
    attention = att.Attention(Q, K, V, mixing)
    points = gaussians.Mixture(WEIGHTS, MEANS, jnp.zeros_like(COVARIANCES))
    found = in_mixture(att.MixtureContext(attention, points), X)
    for one, other in zip(found, among(attention, X, MEANS, WEIGHTS), strict=False):
        assert jnp.allclose(one, other, atol=1e-12)


@pytest.mark.parametrize("name", ["softmax", "l2", "linear"])
def test_one_component_is_a_gaussian_and_a_weight_of_zero_removes_the_other(name):
    attention = att.Attention(Q, K, V, MIXINGS[name])
    single = gaussians.Mixture(jnp.array([1.0, 0.0]), MEANS, COVARIANCES)
    field, _, _ = in_mixture(att.MixtureContext(attention, single), X)
    expected = jax.vmap(att.gaussian_field(attention, MEANS[0], COVARIANCES[0]))(X)
    assert jnp.allclose(field, expected, atol=1e-12)


@every_mixing
def test_negative_masses_of_components_are_nan(mixing):
    mixture = gaussians.Mixture(jnp.array([1.1, -0.1]), MEANS, COVARIANCES)
    context = att.MixtureContext(att.Attention(Q, K, V, mixing), mixture)
    assert all(jnp.all(jnp.isnan(part)) for part in in_mixture(context, X))


HEADS = tuple(jnp.asarray(0.7 * np.random.default_rng(8).normal(size=(3, 2, 3, 3))))
RADIUS = 1.5


def softmax_attention(temperature=1.2, causal=False):
    query, key, value = HEADS
    return att.Attention(query, key, value, att.Softmax(jnp.float64(temperature), causal=causal))


def directions(tree):
    """A direction for every array of a tree."""
    return jax.tree.map(lambda leaf: jnp.cos(5 * jnp.arange(leaf.size)).reshape(leaf.shape), tree)


def moved(tree, direction, step):
    return jax.tree.map(lambda leaf, move: leaf + step * move, tree, direction)


def paired(gradient, direction):
    return sum(jax.tree.leaves(jax.tree.map(lambda g, m: jnp.sum(g * m), gradient, direction)))


@eqx.filter_jit
def largest_singular_value(attention, tokens):
    """By LAPACK, of the whole Jacobian."""
    n, d = tokens.shape
    jacobian = jax.jacfwd(lambda x: attention(x, x))(tokens)
    return jnp.linalg.norm(jacobian.reshape(n * d, n * d), ord=2)


@eqx.filter_jit
def found_by_iteration(attention, tokens, key):
    """Value and gradients, with a residual that leaves the value 12 digits."""

    def value(both):
        attention, tokens = both
        found = att.local_lipschitz(lambda x: attention(x, x), tokens, key=key, tol=1e-7)
        return found.value, found

    (_, found), gradients = eqx.filter_value_and_grad(value, has_aux=True)((attention, tokens))
    return found, gradients


def in_ball(tokens, radius=RADIUS):
    norms = jnp.linalg.norm(tokens, axis=1, keepdims=True)
    return tokens * jnp.minimum(1, radius / norms)


TOKENS = in_ball(jnp.asarray(np.random.default_rng(9).normal(size=(6, 3))))


def test_power_iteration_finds_the_largest_singular_value_and_its_derivative():
    point, step = (softmax_attention(), TOKENS), 1e-5
    found, gradients = found_by_iteration(*point, jr.key(0))
    assert found.converged
    assert np.isclose(found.value, largest_singular_value(*point), rtol=1e-10)
    direction = directions(point)
    ends = [largest_singular_value(*moved(point, direction, s)) for s in (step, -step)]
    difference = (ends[0] - ends[1]) / (2 * step)
    assert np.isclose(paired(gradients, direction), difference, rtol=1e-6)


def test_power_iteration_says_how_it_ended():
    slow = jnp.array([1.0, 0.999, 0.3])

    @jax.jit
    def found(scales):
        return att.local_lipschitz(
            lambda x: scales * x, slow, key=jr.key(1), tol=1e-6, max_steps=20
        )

    short = found(slow)
    assert short.status == tx.Status.MAX_STEPS
    assert 0.99 < short.value <= 1
    assert short.num_steps == 20
    exact = found(jnp.array([0.1, 3.0, 0.0]))
    assert exact.converged
    assert np.isclose(exact.value, 3)
    flat = found(jnp.zeros(3))
    assert flat.converged
    assert flat.value == 0
    broken = found(slow.at[1].set(jnp.nan))
    assert broken.status == tx.Status.NON_FINITE
    assert jnp.isnan(broken.value)


@pytest.mark.parametrize("causal", [False, True])
def test_no_tokens_on_a_ball_exceed_the_bound_on_attention(causal):
    """Random ones of every size, hot and cold; then ones that gradients drive to the worst."""
    rng = np.random.default_rng(10)
    ratios = []
    for radius, temperature in itertools.product((0.3, 1.0, 3.0), (0.3, 3.0)):
        attention = softmax_attention(temperature, causal)
        for _ in range(5):
            tokens = in_ball(jnp.asarray(3 * radius * rng.normal(size=(6, 3))), radius)
            found = largest_singular_value(attention, tokens)
            for num in (6, jnp.inf):
                ratios.append(found / att.lipschitz_bound(attention, radius=radius, num_tokens=num))
    assert max(ratios) <= 1
    if causal:
        return
    attention, tokens = softmax_attention(), TOKENS
    bound = att.lipschitz_bound(attention, radius=RADIUS, num_tokens=6)
    values = []
    for _ in range(40):
        found, (_, uphill) = found_by_iteration(attention, tokens, jr.key(2))
        values.append(float(found.value))
        tokens = in_ball(tokens + 0.3 * uphill / jnp.linalg.norm(uphill))
    assert values[-1] > 1.3 * values[0]
    assert max(values) <= bound


def test_the_bound_on_the_field_is_attained_by_two_opposite_tokens():
    one, radius = jnp.eye(3), 1.4
    attention = att.Attention(one, one, one, att.Softmax(0.6))
    pair = radius * jnp.array([[0.6, 0.8, 0.0], [-0.6, -0.8, 0.0]])
    jacobian = jax.jit(jax.jacfwd(lambda x: attention(x[None], pair)[0]))(jnp.zeros(3))
    bound = att.field_lipschitz_bound(attention, radius=radius)
    assert np.isclose(np.linalg.norm(jacobian, ord=2), bound, rtol=1e-12)
    assert np.isclose(bound, radius**2 / 0.6, rtol=1e-12)


def test_the_root_of_the_number_of_tokens_is_attained_where_all_look_at_one():
    # The second head is silent.
    one = jnp.stack([jnp.eye(3), jnp.zeros((3, 3))])
    attention = att.Attention(one, one, one, att.Softmax(jnp.float64(0.01)))
    tokens = jnp.full((6, 3), 0.5).at[0].set(1.0) / 3**0.5
    found = largest_singular_value(attention, tokens)
    # Score gaps are 25 at least: what is left of the other tokens is e^-25 / tau.
    assert np.isclose(found, 6**0.5, rtol=1e-8)
    bound = att.lipschitz_bound(attention, radius=1.0, num_tokens=6)
    assert found < bound
    crowds = [att.lipschitz_bound(attention, radius=0.01, num_tokens=n) for n in (6, 1e6, jnp.inf)]
    assert crowds[0] == crowds[1] == crowds[2] < 1.1


SPHERE = att.normalise(jnp.asarray(RNG.normal(size=(4, 2))))
MASSES = jnp.array([0.1, 0.2, 0.3, 0.4])


def test_evolution_differentiates_both_ways_in_tokens_weights_matrices_and_depth():
    """By fixed steps, against differences."""

    def final(x, w, query, depth):
        field = att.TokenField(att.Attention(query, K, V), sphere=True)
        steps = tx.evolution.FixedSteps(4, diffrax.Heun())
        return att.evolve(field, x, w, depth=depth, steps=steps)

    check_derivatives(final, SPHERE, MASSES, Q, jnp.float64(0.8))


def brute_plateau(times, counts, least, most):
    """The longest run, by enumeration."""
    best, place = (0, np.nan, np.nan), 0
    for count, run in itertools.groupby(counts):
        size = len(list(run))
        start, end = times[place], times[place + size - 1]
        place += size
        longer = np.isnan(best[1]) or end - start > best[2] - best[1]
        if least <= count <= most and longer:
            best = count, start, end
    return best


def test_the_longest_plateau_is_that_of_enumeration():
    rng = np.random.default_rng(11)
    found = jax.jit(lambda times, counts: att.longest_plateau(times, counts, least=2, most=4))
    for _ in range(30):
        times = np.cumsum(rng.exponential(size=14))
        counts = np.repeat(rng.integers(1, 6, size=7), 2)
        rng.shuffle(counts[:5])
        plateau = found(jnp.asarray(times), jnp.asarray(counts))
        assert np.allclose(plateau, brute_plateau(times, counts, 2, 4), equal_nan=True)
    none = found(jnp.arange(14.0), jnp.full(14, 5))
    assert none.clusters == 0
    assert np.isnan(none.end)


def test_two_clusters_last_exponentially_long_in_beta_and_as_long_as_predicted():
    """An angle a closes at 2 p sin a, p = 1 / (1 + exp(beta (1 - cos a))); four tokens."""
    start, radius = 2.0, 0.5
    identity, records = jnp.eye(2), 301
    ends = jnp.array([[1.0, 0.0], [np.cos(start), np.sin(start)]])

    @jax.jit
    def plateau(beta, depth):
        attention = att.Attention(identity, identity, identity, att.Softmax(1 / beta))
        field, depths = att.TokenField(attention, sphere=True), jnp.linspace(0, depth, records)
        steps = tx.evolution.AdaptiveSteps(1e-8, 1e-8, derivatives="forward")
        tokens = ends[jnp.array([0, 1, 1, 0])]
        path = att.evolve(field, tokens, depth=depth, depths=depths, steps=steps)
        return att.longest_plateau(depths, att.cluster_counts(path, radius=radius))

    lasted = []
    for beta in (2.0, 4.0, 6.0):
        merging = 2 * np.arcsin(radius / 2)

        def slowness(a, beta=beta):
            return (1 + np.exp(beta * (1 - np.cos(a)))) / (2 * np.sin(a))

        expected, _ = quad(slowness, merging, start)
        found = plateau(jnp.float64(beta), jnp.float64(1.45 * expected))
        assert found.clusters == 2
        assert found.start == 0
        # Up to one gap between records, of 1.45 expected / 300.
        assert 0 <= expected - found.end <= 0.005 * expected
        lasted.append(expected)
    # In the limit e^(beta (1 - cos 2)) / beta.
    assert np.all(np.diff(np.log(lasted)) > 1.9)


def test_the_memory_command_says_its_peak():
    process = command("--num", 512, "--dim", 2, module="experiments.memory_attention")
    assert process.returncode == 0, process.stderr
    assert "jvp" in process.stdout
    assert "process peak" in process.stdout


CAUSAL = att.Softmax(causal=True)
GAUSSIAN = (MEANS[0], COVARIANCES[0])


def with_mixing(mixing: att.AbstractMixing = CAUSAL):
    return att.Attention(Q, K, V, mixing)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (
            lambda: att.MixtureContext(with_mixing(att.SinkhornAttention()), MIXTURE),
            "attention.mixing",
        ),
        (lambda: att.MixtureContext(with_mixing(), MIXTURE), "attention.mixing"),
        (lambda: att.MixtureContext(softmax_attention(), MIXTURE), "mixture"),
        (lambda: att.MixtureContext(with_mixing(att.L2()), MIXTURE)(X), "x"),
        (lambda: att.gaussian_field(with_mixing(), *GAUSSIAN), "attention.mixing"),
        (lambda: att.field_lipschitz_bound(with_mixing(), radius=-1.0), "radius"),
        (lambda: att.lipschitz_bound(with_mixing(), radius=1.0, num_tokens=0), "num_tokens"),
        (lambda: att.lipschitz_bound(with_mixing(att.L2()), radius=1.0), "attention.mixing"),
        (lambda: att.local_lipschitz(jnp.sin, jnp.arange(3), key=jr.key(0)), "x"),
        (lambda: att.local_lipschitz(jnp.sin, X, key=jr.key(0), tol=0.0), "tol"),
        (lambda: att.local_lipschitz(jnp.sin, X, key=jr.key(0), max_steps=0), "max_steps"),
        (lambda: att.longest_plateau(X[0], jnp.arange(3)), "counts"),
        (lambda: att.longest_plateau(X[0], jnp.arange(2), most=1), "most"),
        (lambda: att.evolve(with_mixing(), X, depth=1.0, steps=0), "steps"),
        (lambda: att.evolve(with_mixing(), X, depth=1.0, depths=X[:0, 0]), "depths"),
        (lambda: att.evolve(with_mixing(), X, depth=1.0, depths=-X[0]), "depths"),
    ],
)
def test_bad_input_is_refused_by_name(call, argument):
    with pytest.raises(ValueError, match=re.escape(f"`{argument}`")):
        call()
