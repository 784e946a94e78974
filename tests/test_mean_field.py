"""Networks as measures: the risk and its calculus, flows against closed solutions, widths."""

import functools

import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.special
from jax import Array

import transportx.mean_field as mf
from tests.test_gradient_flows_grid import check_reverse, quick

KEYS = jr.split(jr.key(0), 6)
N, M, D, E = 9, 14, 3, 2
X = jr.normal(KEYS[0], (M, D))
Y = jr.normal(KEYS[1], (M, E))
WEIGHTS = jnp.array([0.11, 0.29, 0.153, 0.097, 0.052, 0.148, 0.03, 0.07, 0.05])
SIGNS = jnp.sign(Y)
CLASSES = jnp.array([[0.3, 0.7], [1.0, 0.0]])[jnp.arange(M) % 2]
RISKS = {
    "square": mf.Risk(X, Y, ridge=0.1),
    "logistic": mf.Risk(X, SIGNS, mf.logistic_loss),
    "softmax": mf.Risk(X, CLASSES, mf.softmax_loss, 0.2),
}
ACTIVATIONS = (mf.Linear(), mf.Relu(), mf.Power(2), mf.Power(2.5), mf.Tanh())
every_risk = pytest.mark.parametrize("name", RISKS)


def network(
    activation: mf.AbstractActivation = mf.Tanh(),  # noqa: B008
    weights: Array | None = WEIGHTS,
    *,
    tile: int | None = None,
):
    made = mf.random_network(N, dim=D, num_outputs=E, key=KEYS[2], activation=activation)
    return mf.Network(made.inner, made.outer, weights, activation, tile)


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
        name: mf.Risk(X, risk.y, risk.loss)(network(mf.Relu())) for name, risk in RISKS.items()
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
        at = network(tile=tile).with_neurons(neurons, weights)
        return risk(at), *risk.derivatives(at), risk.first_variation(probes, at)

    return quick(evaluate)


PROBES = mf.Neurons(jr.normal(KEYS[4], (3, D)), jr.normal(KEYS[5], (3, E)))


@every_risk
def test_gradients_are_difference_quotients_over_the_weights(name):
    evaluate, start = calculus(name), network().neurons
    value, again, slopes, _, _ = evaluate(start, WEIGHTS, PROBES)
    assert jnp.allclose(value, again, rtol=1e-14)
    for key in jr.split(KEYS[3], 3):
        along = [jr.normal(k, part.shape) for k, part in zip(jr.split(key), start, strict=True)]
        ends = (
            evaluate(
                mf.Neurons(*(p + h * v for p, v in zip(start, along, strict=True))), WEIGHTS, PROBES
            )[0]
            for h in (1e-5, -1e-5)
        )
        expected = sum(WEIGHTS @ jnp.sum(g * v, axis=1) for g, v in zip(slopes, along, strict=True))
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
    probes = mf.Neurons(inner, jnp.tile(start.outer[:1], (3, 1)))
    there, ahead, behind = evaluate(start, WEIGHTS, probes)[-1]
    assert jnp.allclose(there, variation[0], rtol=1e-13)
    assert jnp.allclose((ahead - behind) / (2 * step), slopes.inner[0, 1], rtol=1e-6, atol=1e-9)


@every_risk
def test_order_and_tiles_do_not_count(name):
    start = network().neurons
    order = jr.permutation(KEYS[3], N)
    shuffled = mf.Neurons(*(part[order] for part in start))
    value, _, slopes, variation, probed = calculus(name)(start, WEIGHTS, PROBES)
    moved = calculus(name, None)(shuffled, WEIGHTS[order], PROBES)
    expected = value, value, mf.Neurons(*(s[order] for s in slopes)), variation[order], probed
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14), moved, expected
    )


def test_the_velocity_of_linear_neurons_is_that_of_the_facts():
    made, risk = network(mf.Linear()), mf.Risk(X, Y)
    u, w, a = (np.asarray(part) for part in (made.outer, made.inner, WEIGHTS))
    sigma, cross = np.asarray(X).T @ X / M, np.asarray(Y).T @ X / M
    force = (a[:, None] * u).T @ w @ sigma - cross
    slopes = quick(lambda made: risk.gradient(made))(made)
    np.testing.assert_allclose(slopes.inner, u @ force, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(slopes.outer, w @ force.T, rtol=1e-11, atol=1e-13)


# Training as a flow.

PRECISE = {"rtol": 1e-10, "atol": 1e-10, "solver": diffrax.Dopri8()}


def trained(risk, start, **options):
    made = quick(lambda risk, start: mf.train(risk, start, **options))(risk, start)
    assert made.completed, mf.TrainingStatus[made.status]
    return made


def drift_of_invariants(made):
    kept = jax.vmap(mf.invariants)(made.networks)
    return jnp.max(jnp.abs(kept - kept[:1]))


def test_relu_neurons_keep_their_invariants_over_the_whole_training():
    # The velocity jumps where a neuron meets a datum, so the order of a solver is lost there.
    options = {"t1": 3.0, "num_steps": 20_000, "solver": diffrax.Heun()}
    made = trained(mf.Risk(X, Y), network(mf.Relu()), **options)
    assert made.risk[-1] < 0.8 * made.risk[0]
    assert drift_of_invariants(made) < 1e-6


def test_powers_keep_theirs_and_a_ridge_lets_them_decay_at_its_rate():
    ridge, t1 = 0.3, 2.0
    times = jnp.linspace(0, t1, 3)
    run = quick(lambda risk: mf.train(risk, network(mf.Power(2.5)), t1=t1, times=times, **PRECISE))
    free, held = (run(mf.Risk(X, SIGNS, mf.logistic_loss, level)) for level in (0.0, ridge))
    assert free.completed
    assert held.completed
    assert jnp.max(jnp.abs(free.final.inner - free.networks.inner[0])) > 0.1
    assert drift_of_invariants(free) < 1e-8
    before, _, after = jax.vmap(mf.invariants)(held.networks)
    assert jnp.allclose(after, jnp.exp(-2 * ridge * t1) * before, atol=1e-8)


DYNAMICS = {"wasserstein": mf.Wasserstein(), "birth_death": mf.BirthDeath(3.0)}


@pytest.mark.parametrize("name", DYNAMICS)
def test_risk_falls_at_the_rate_of_the_dissipation(name):
    step = 0.005
    options = {"times": step * jnp.arange(5.0), "dynamics": DYNAMICS[name]}
    made = trained(
        RISKS["softmax"], network(), t1=4 * step, num_steps=4, solver=diffrax.Dopri5(), **options
    )
    before, near, _, behind, after = made.risk
    slope = (before - 8 * near + 8 * behind - after) / (12 * step)
    assert jnp.allclose(slope, -made.dissipation[2], rtol=1e-6)
    if name == "wasserstein":
        positions = jnp.concatenate(made.networks.neurons, axis=2)
        weights = jnp.array([1.0, -8.0, 0.0, 8.0, -1.0]) / (12 * step)
        speed = WEIGHTS @ jnp.sum(jnp.tensordot(weights, positions, 1) ** 2, axis=1)
        assert jnp.allclose(made.dissipation[2], speed, rtol=1e-6)


def test_weights_react_as_the_integral_of_the_first_variation_says():
    # Without data the first variation is the ridge's, and neurons shrink exponentially.
    ridge, rate, t1 = 0.7, 1.5, 2.0
    start = network(mf.Relu())
    empty = mf.Risk(jnp.zeros((1, D)), jnp.zeros((1, E)), ridge=ridge)
    made = trained(empty, start, t1=t1, dynamics=mf.BirthDeath(rate), **PRECISE)
    squares = sum(jnp.sum(part**2, axis=1) for part in start.neurons)
    expected = WEIGHTS * jnp.exp(-rate * squares * (1 - jnp.exp(-2 * ridge * t1)) / 4)
    expected = expected / jnp.sum(expected) * jnp.sum(WEIGHTS)
    assert jnp.allclose(made.final.masses, expected, atol=1e-9)
    assert jnp.allclose(made.final.inner, jnp.exp(-ridge * t1) * start.inner, atol=1e-9)


# Linear neurons.


@functools.cache
def closed():
    """A program of the equation of moments: of a risk, moments, a time and a temperature."""

    def run(risk, moments, t1, temperature):
        return mf.linear_training(risk, moments, t1=t1, temperature=temperature)

    return quick(run)


@functools.cache
def linear():
    """A program of precise training: of a risk, linear neurons and a time."""
    return quick(lambda risk, start, t1: mf.train(risk, start, t1=t1, **PRECISE))


def test_moments_of_linear_neurons_obey_their_own_equation():
    risk, start, t1 = RISKS["square"], network(mf.Linear()), 2.0
    expected = closed()(risk, mf.second_moments(start), t1, 0.0)
    assert expected.completed
    made = linear()(risk, start, t1)
    assert made.completed
    assert jnp.allclose(mf.second_moments(made.final), expected.moments[-1], atol=1e-8)
    assert jnp.allclose(made.risk[-1], expected.risk[-1], atol=1e-8)
    # Between steps the solver interpolates, less precisely.
    assert jnp.allclose(made.risk, expected.risk, atol=1e-4)


def test_balanced_scalar_neurons_learn_by_a_logistic_law():
    # In the first coordinate of input and output; the others are zero, and stay so.
    slope, t1 = 1.7, 1.3
    x, theta = X.at[:, 1:].set(0), jnp.linspace(-0.3, 0.5, N)[:, None]
    start = mf.Network(theta * jnp.eye(1, D), theta * jnp.eye(1, E), WEIGHTS, mf.Linear())
    made = linear()(mf.Risk(x, slope * x[:, :E], ridge=0.0), start, t1)
    # q' = 2 sigma q (slope - q) for q the product of the layers.
    sigma, q0 = jnp.mean(x[:, 0] ** 2), WEIGHTS @ theta[:, 0] ** 2
    expected = slope / (1 + (slope / q0 - 1) * jnp.exp(-2 * sigma * slope * t1))
    found = mf.second_moments(made.final)[D, 0]
    assert jnp.allclose(found, expected, atol=1e-8)
    assert jnp.allclose(made.risk[-1], sigma * (expected - slope) ** 2 / 2, atol=1e-8)


def wide_linear(weight, n=2000):
    made = mf.random_network(n, dim=D, num_outputs=E, activation=mf.Linear(), key=KEYS[3])
    return made.with_neurons(made.neurons, jnp.full(n, weight))


@functools.cache
def noisy():
    """A program of Langevin training: of a network, a temperature and a key."""
    risk = mf.Risk(X, Y, ridge=0.5)

    def run(start, temperature, key):
        dynamics = mf.Langevin(temperature)
        return mf.train(risk, start, t1=1.0, num_steps=50, dynamics=dynamics, key=key)

    return jax.jit(run)


def test_langevin_has_the_moments_of_the_noisy_equation():
    risk, temperature, n = mf.Risk(X, Y, ridge=0.5), jnp.array(0.2), 2000
    start = wide_linear(jnp.array(1 / n))
    made = noisy()(start, temperature, KEYS[4])
    assert made.completed
    law = mf.second_moments(start)
    with_noise, without = (closed()(risk, law, 1.0, T).moments[-1] for T in (0.2, 0.0))
    # Five standard errors of a second moment, and what 50 Euler-Maruyama steps leave.
    slack = 5 * jnp.max(jnp.diag(with_noise)) * jnp.sqrt(2 / n) + 0.02
    assert jnp.max(jnp.abs(mf.second_moments(made.final) - with_noise)) < slack
    # The noise is felt: without it the moments are further away.
    assert jnp.max(jnp.abs(without - with_noise)) > 1.5 * slack


# Descent in jumps.


@functools.cache
def euler():
    """A program of twenty Euler steps: of weights and a time."""

    def run(weights, t1):
        return mf.train(RISKS["square"], network(weights=weights), t1=t1, num_steps=20)

    return quick(run)


@functools.cache
def jumping(num_steps, batch_size):
    """A program of SGD: of weights and a key."""

    def run(weights, key):
        options = {"num_steps": num_steps, "batch_size": batch_size, "key": key}
        return mf.sgd(RISKS["square"], network(weights=weights), t1=1.0, **options)

    return quick(run)


def test_sgd_on_full_batches_is_the_euler_flow_and_small_batches_approach_it():
    flow = euler()(WEIGHTS, 1.0)
    assert flow.completed
    full = jumping(20, M)(WEIGHTS, KEYS[3])
    assert full.completed
    for one, other in zip(jax.tree.leaves(full)[:-2], jax.tree.leaves(flow)[:-2], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-13)

    # The noise of batches is of the order of the root of the step.
    ends = [jumping(320, 2)(WEIGHTS, key).final.outer for key in jr.split(KEYS[4], 8)]
    moved = jnp.linalg.norm(flow.final.outer - network().outer)
    strayed = [jnp.linalg.norm(end - flow.final.outer) for end in ends]
    assert max(strayed) < 0.25 * moved
    assert min(strayed) > 1e-3 * moved


def test_resampling_draws_by_weight_and_is_unbiased():
    weights = WEIGHTS.at[2].set(0.0)
    start = network(weights=weights)
    share = (N * weights / jnp.sum(weights))[None, :]

    @quick
    def drawn(key):
        made = mf.resample(start, key=key)
        same = jnp.all(made.inner[:, None] == start.inner[None], axis=-1)
        return jnp.sum(jnp.where(same, 1.0, 0.0), axis=0), made(X), made.masses

    counts, outputs, masses = jax.vmap(drawn)(jr.split(KEYS[3], 2000))
    assert jnp.all((counts >= jnp.floor(share)) & (counts <= jnp.ceil(share)))
    assert jnp.allclose(masses, jnp.sum(weights) / N, rtol=1e-14)
    error = jnp.mean(outputs, axis=0) - start(X)
    assert jnp.all(jnp.abs(error) < 4.5 * jnp.std(outputs, axis=0) / np.sqrt(2000))


# Widths.

WIDTHS = (100, 1_000, 10_000)
COPIES = 8


def risks_at_widths(activation):
    """Risks of independent networks at one time, a row for each width.

    Neurons of weight zero count for nothing: one program serves every width.
    """
    risk, widest = mf.Risk(X, Y), max(WIDTHS)
    options = {"t1": 1.0, "num_steps": 10, "solver": diffrax.Heun(), "times": jnp.array([0, 1.0])}

    @jax.jit
    def run(key, n):
        made = mf.random_network(widest, dim=D, num_outputs=E, key=key, activation=activation)
        kept = jnp.arange(float(widest)) < n
        start = made.with_neurons(made.neurons, jnp.where(kept, 1 / n, 0))
        return mf.train(risk, start, **options).risk[-1]

    keys = jr.split(KEYS[5], (len(WIDTHS), COPIES))
    rows = zip(WIDTHS, keys, strict=True)
    return np.array([[float(run(key, jnp.float64(n))) for key in row] for n, row in rows])


def rate(errors):
    """Exponent of the width, by least squares."""
    return np.polyfit(np.log(WIDTHS), np.log(errors), 1)[0]


def test_risks_of_wide_linear_networks_approach_the_exact_limit_at_rate_one_half():
    limit = closed()(mf.Risk(X, Y), jnp.eye(D + E), 1.0, 0.0).risk[-1]
    risks = risks_at_widths(mf.Linear())
    errors = np.sqrt(np.mean((risks - float(limit)) ** 2, axis=1))
    assert errors[-1] < 0.02 * limit
    assert -0.65 < rate(errors) < -0.35


@pytest.fixture(scope="module")
def taught():
    """A teacher of three neurons, and sixty students, that also react."""
    angles = 2 * jnp.pi * (jnp.arange(3.0) + 0.25) / 3
    directions = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
    teacher = mf.Network(directions, jnp.array([[2.0], [-2.0], [2.0]]), jnp.ones(3))
    x = jr.normal(KEYS[3], (256, 2))
    start = mf.random_network(60, dim=2, scale=0.1, key=KEYS[4])
    risk, solver = mf.Risk(x, teacher(x)), diffrax.Heun()
    plain = trained(risk, start, t1=40.0, num_steps=2000, solver=solver)
    options = {"t1": 40.0, "rate": 4.0, "num_rounds": 10, "num_steps": 200, "solver": solver}
    run = quick(lambda share: mf.birth_death(risk, start, threshold=share, key=KEYS[5], **options))
    return teacher, plain, run(0.0), run(0.5)


def test_students_meet_their_teachers(taught):
    teacher, made, _, _ = taught
    assert made.risk[-1] < 1e-4 * made.risk[0]

    @quick
    def describe(students):
        ones = (mf.Network(teacher.inner[i : i + 1], teacher.outer[i : i + 1]) for i in range(3))
        along = jnp.stack([mf.alignment(students, one) for one in ones])
        unseen = jr.normal(KEYS[0], (2000, 2))
        return along, mf.strengths(students), mf.Risk(unseen, teacher(unseen))(students)

    along, strengths, risk = describe(made.final)
    assert risk < 1e-4 * made.risk[0]
    assert strengths @ jnp.max(along, axis=0) > 0.99 * jnp.sum(strengths)
    # Each teacher is met, by as much as it is itself.
    assert jnp.allclose(jnp.where(along > 0.95, 1.0, 0.0) @ strengths, 2, rtol=0.01)


def test_birth_and_death_speed_the_descent_from_far_and_at_the_end(taught):
    _, plain, reacting, drawn = taught
    # Times 4 and 40.
    for record in (1, -1):
        assert reacting.risk[record] < 0.5 * plain.risk[record]
    assert reacting.completed
    assert drawn.completed
    np.testing.assert_allclose(drawn.risk, reacting.risk, rtol=0.05)


def test_draws_keep_the_mass_and_leave_half_of_the_neurons_or_more(taught):
    _, _, reacting, drawn = taught
    masses = drawn.networks.weights
    assert jnp.allclose(jnp.sum(masses, axis=1), 1, rtol=1e-12)
    assert jnp.all(jnp.sum(masses**2, axis=1) <= 1 / 30)
    assert jnp.sum(reacting.final.masses**2) > 1 / 30


# Endings.


ENDINGS = {
    "rose": (mf.TrainingStatus.RISK_ROSE, 8.0),
    "blew_up": (mf.TrainingStatus.NON_FINITE, 1e30),
    "nan": (mf.TrainingStatus.NON_FINITE, jnp.nan),
    "negative": (mf.TrainingStatus.NON_FINITE, -1.0),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_failures_end_in_a_status_and_in_nothing_that_looks_right(name):
    status, factor = ENDINGS[name]
    made = euler()(factor * WEIGHTS, 20.0)
    assert made.status == status
    assert not made.completed
    if name != "rose":
        check_lost(made)


def check_lost(made):
    assert all(jnp.all(jnp.isnan(leaf)) for leaf in (made.risk[-1], made.dissipation[-1]))
    assert all(jnp.all(jnp.isnan(leaf)) for leaf in made.final.neurons)
    alive = jnp.isfinite(made.risk)
    assert jnp.all(jnp.isfinite(made.networks.inner) == alive[:, None, None])


def test_noise_and_batches_that_blow_up_are_not_finite():
    heavy = wide_linear(jnp.array(1e30))
    for made in (
        noisy()(heavy, jnp.array(0.2), KEYS[4]),
        jumping(20, M)(1e30 * WEIGHTS, KEYS[3]),
    ):
        assert made.status == mf.TrainingStatus.NON_FINITE
        check_lost(made)


def test_too_few_steps_are_a_status_that_does_not_spoil_the_rest_of_a_batch():
    options = {"t1": 3.0, "rtol": 1e-4, "atol": 1e-4, "max_steps": 60}

    @quick
    @jax.vmap
    def run(factor):
        return mf.train(RISKS["square"], network(weights=factor * WEIGHTS), **options)

    made = run(jnp.array([1.0, 300.0, 0.5]))
    assert made.completed.tolist() == [True, False, True]
    assert jnp.all(jnp.isfinite(made.risk[::2]))
    stopped = jax.tree.map(lambda leaf: leaf[1], made)
    assert stopped.status == mf.TrainingStatus.MAX_STEPS
    assert jnp.isfinite(stopped.risk[0])
    check_lost(stopped)


def test_moments_that_fail_say_so():
    risk, law = mf.Risk(X, Y), jnp.eye(D + E)
    options = {"max_steps": 3, "solver": diffrax.Heun()}
    made = quick(lambda m: mf.linear_training(risk, m, t1=5.0, **options))(law)
    assert made.status == mf.TrainingStatus.MAX_STEPS
    assert jnp.all(jnp.isnan(made.moments[-1]))
    assert jnp.isnan(made.risk[-1])


# Derivatives, memory, dtypes, refusals.


def test_trainings_differentiate_in_everything():
    def end(inner, weights, y, ridge, t1):
        start = mf.Network(inner, network().outer, weights, mf.Tanh(), 4)
        made = mf.train(
            mf.Risk(X, y, ridge=ridge),
            start,
            t1=t1,
            num_steps=2,
            dynamics=DYNAMICS["birth_death"],
            times=t1 * jnp.array([0.0, 1.0]),
        )
        return made.risk[-1], made.final.inner, made.final.masses

    check_reverse(end, network().inner, WEIGHTS, Y, jnp.float64(0.1), jnp.float64(1.2))


@pytest.mark.parametrize("what", ["gradient", "through_training"])
def test_a_hundred_thousand_neurons_need_memory_for_neurons_and_data_alone(what):
    m, d = 2_000, 10

    def gradient(network, x, y):
        risk = mf.Risk(x, y)
        return risk(network), risk.derivatives(network)

    def through_training(network, x, y):
        times = jnp.array([0.0, 1.0])
        return jax.grad(
            lambda w: mf.train(mf.Risk(x, y), w, t1=1.0, num_steps=2, times=times).risk[-1]
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
            narrow(RISKS["softmax"]), narrow(network()), t1=1.0, dynamics=mf.BirthDeath(1.0)
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
    "degree": lambda: mf.Power(0.5),
    "num": lambda: mf.random_network(0, dim=2, key=KEYS[0]),
    "scale": lambda: mf.random_network(3, dim=2, scale=0.0, key=KEYS[0]),
    "x": lambda: START(X[:, :2]),
    "y": lambda: mf.Risk(X, Y[:3]),
    "ridge": lambda: mf.Risk(X, Y, ridge=-1.0),
    "temperature": lambda: mf.Langevin(-1.0),
    "rate": lambda: mf.BirthDeath(-1.0),
    "network.activation": lambda: mf.invariants(START),
    "risk.x": lambda: mf.train(mf.Risk(X[:, :2], Y), START, t1=1.0),
    "risk.y": lambda: mf.train(mf.Risk(X, Y[:, :1]), START, t1=1.0),
    "t1": lambda: mf.train(RISKS["square"], START, t1=0.0),
    "num_steps": lambda: mf.sgd(
        RISKS["square"], START, t1=1.0, num_steps=7, batch_size=2, key=KEYS[0]
    ),
    "batch_size": lambda: mf.sgd(
        RISKS["square"], START, t1=1.0, num_steps=10, batch_size=M + 1, key=KEYS[0]
    ),
    "num_rounds": lambda: mf.birth_death(RISKS["square"], START, t1=1.0, num_rounds=0, key=KEYS[0]),
    "rtol": lambda: mf.train(RISKS["square"], START, t1=1.0, atol=1e-3),
    "key": lambda: mf.train(RISKS["square"], START, t1=1.0, dynamics=mf.Langevin(1.0)),
    "times": lambda: mf.train(RISKS["square"], START, t1=1.0, times=jnp.array([0.0, 2.0])),
    "risk.loss": lambda: mf.linear_training(RISKS["softmax"], jnp.eye(D + E), t1=1.0),
    "moments": lambda: mf.linear_training(RISKS["square"], jnp.eye(D), t1=1.0),
    "teacher.inner": lambda: mf.alignment(START, mf.random_network(2, dim=2, key=KEYS[0])),
}


@pytest.mark.parametrize("argument", REFUSED)
def test_what_does_not_fit_is_refused_by_name(argument, without_type_checks):
    with pytest.raises(ValueError, match=f"^`{argument}` "):
        REFUSED[argument]()
