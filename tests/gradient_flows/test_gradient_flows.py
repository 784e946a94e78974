"""Functionals, one battery over a table; particle flows against closed solutions."""

import functools
import inspect
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.linalg
from jax.flatten_util import ravel_pytree

import transportx as tx
import transportx.gradient_flows as gf
from tests.helpers import check_reverse, quick
from tests.tables import covariance
from transportx.evolution import AdaptiveSteps, FixedSteps
from transportx.geometry import _layout
from transportx.gradient_flows import _sums

X = jr.normal(jr.key(1), (6, 2))
# No sum of some of them is a multiple of 1/5: the steps of two quantile functions never tie.
WEIGHTS = jnp.array([0.11, 0.29, 0.153, 0.197, 0.052, 0.198])
TARGET = 0.7 * jr.normal(jr.key(2), (5, 2)) + 0.5
P, G = (covariance(jr.key(k), 2) for k in (3, 4))


def quadratic(x):
    return x @ P @ x / 2 + x[0]


def attraction(x, y):
    return (x - y) @ G @ (x - y) / 2


FUNCTIONALS = {
    "potential": gf.Potential(quadratic),
    "interaction": gf.Interaction(tx.geometry.Pointwise(attraction)),
    "smoothed_entropy": gf.SmoothedEntropy(0.8),
    "kl": gf.kl_divergence(lambda x: -quadratic(x), bandwidth=0.7),
    "mmd": gf.MMD(TARGET, gf.Gaussian(0.9)),
    "mmd_multiquadric": gf.MMD(TARGET, gf.InverseMultiquadric(0.9), WEIGHTS[:5] / 0.802),
    "energy_distance": gf.energy_distance_squared(TARGET),
    "sinkhorn": gf.SinkhornDivergenceTo(TARGET, 0.5, solver=tx.ot.Newton(tol=1e-12)),
    "sliced": gf.SlicedWasserstein(
        TARGET, gf.random_directions(key=jr.key(5), num=7, dim=2, dtype=jnp.float64)
    ),
    "sum": gf.Potential(quadratic) - 0.3 * gf.MMD(TARGET, gf.Gaussian(0.9)),
    "scaled": gf.Potential(quadratic) * jnp.array(0.3),
}
INTERNAL = {
    "entropy": gf.Entropy(0.2),
    "porous_medium": gf.PorousMedium(0.2, 2.5),
    "density_cap": gf.DensityCap(0.2, 3.0),
    "half_fisher": gf.HalfFisher(gf.CellBox((0.0,), (1.2,), (6,))),
}
# Its derivatives are not those of its value; in test_drifting.py.
ONE_SIDED = {"drifting": gf.Drifting(TARGET, gf.Laplace(0.9))}
every_functional = pytest.mark.parametrize("name", FUNCTIONALS)


def test_every_public_functional_is_in_a_table():
    public = {c for c in vars(gf).values() if inspect.isclass(c)}
    public = {c for c in public if issubclass(c, gf.AbstractFunctional)}
    tabled = {type(f) for f in (FUNCTIONALS | INTERNAL | ONE_SIDED).values()}
    assert {c for c in public if not inspect.isabstract(c)} == tabled


@functools.cache
def evaluate(name):
    """Value, and derivatives by points and weights, of eight points: one program each."""
    return quick(jax.value_and_grad(FUNCTIONALS[name].value, argnums=(0, 1)))


# Two more points, without weight, on which nothing may depend.
OUTSIDERS = jnp.array([[0.3, -2.0], [-0.4, 0.2]])


def at(name, x=X, weights=WEIGHTS, outsiders=OUTSIDERS, extra=(0.0, 0.0)):
    return evaluate(name)(jnp.concatenate([x, outsiders]), jnp.append(weights, jnp.array(extra)))


@pytest.mark.slow
@every_functional
def test_gradient_is_the_difference_quotient_over_the_weight(name):
    direction = jr.normal(jr.key(9), X.shape)
    ends = [at(name, X + step * direction)[0] for step in (1e-5, -1e-5)]
    slope = (ends[0] - ends[1]) / 2e-5
    _, (slopes, _) = at(name)
    assert jnp.allclose(jnp.sum(slopes[:-2] * direction), slope, rtol=1e-7, atol=1e-8)


def test_wasserstein_gradients_divide_by_the_weight():
    functional = FUNCTIONALS["mmd"]
    both = quick(lambda w: functional.value_and_gradient(X, w))
    value, gradient = both(WEIGHTS)
    expected, (slopes, _) = at("mmd")
    assert jnp.allclose(value, expected, rtol=1e-12)
    assert jnp.allclose(gradient, slopes[:-2] / WEIGHTS[:, None], rtol=1e-10, atol=1e-12)
    _, none = both(WEIGHTS.at[2].set(0.0))
    assert jnp.all(none[2] == 0)


@every_functional
def test_first_variation_is_what_added_mass_changes(name):
    value, (_, variation) = at(name)
    mean = jnp.sum(WEIGHTS * variation[:-2])
    step = 1e-6
    for k, extra in enumerate(((step, 0.0), (0.0, step))):
        # Mass s at a point in place of s of the whole; the error is of first order in s.
        moved, _ = at(name, weights=(1 - step) * WEIGHTS, extra=extra)
        assert jnp.allclose(variation[6 + k] - mean, (moved - value) / step, rtol=1e-4, atol=1e-4)


# Where points share their mass out, the potential of sliced transport has a kink at each.
@pytest.mark.parametrize("name", sorted(FUNCTIONALS.keys() - {"sliced"}))
def test_gradient_is_that_of_the_first_variation(name):
    # Two of the outsiders stand on either side of the first point.
    step, along = 1e-4, jnp.array([0.6, -0.8])
    near = X[:1] + step * jnp.array([1.0, -1.0])[:, None] * along[None, :]
    _, (slopes, variation) = at(name, outsiders=near)
    slope = (variation[6] - variation[7]) / (2 * step)
    assert jnp.allclose(slopes[0] @ along / WEIGHTS[0], slope, rtol=1e-5, atol=1e-6)


@every_functional
def test_order_and_points_of_weight_zero_do_not_count(name):
    value, (slopes, _) = at(name)
    order = jnp.array([3, 1, 0, 5, 4, 2])
    permuted, (moved, _) = at(name, X[order], WEIGHTS[order])
    assert jnp.allclose(permuted, value, rtol=1e-9)
    assert jnp.allclose(moved[:-2], slopes[order], rtol=1e-7, atol=1e-8)
    assert jnp.all(slopes[-2:] == 0)
    elsewhere, (others, _) = at(name, outsiders=OUTSIDERS + 1.0)
    assert jnp.allclose(elsewhere, value, rtol=1e-9)
    assert jnp.allclose(others, slopes, rtol=1e-7, atol=1e-8)


# The others hold a float64 matrix in a closure.
NARROWABLE = (FUNCTIONALS | INTERNAL).keys() - {"potential", "interaction", "kl", "sum", "scaled"}


@pytest.mark.parametrize("name", sorted(NARROWABLE))
def test_values_have_the_dtype_of_the_points(name):
    def narrow(tree):
        return jax.tree.map(
            lambda leaf: leaf.astype(jnp.float32) if eqx.is_inexact_array(leaf) else leaf, tree
        )

    functional = narrow((FUNCTIONALS | INTERNAL)[name])
    gradient = jax.eval_shape(functional.gradient, *narrow((X, WEIGHTS)))
    assert gradient.dtype == jnp.float32


def test_sums_and_multiples_are_those_of_the_values():
    mmd, potential = FUNCTIONALS["mmd"], FUNCTIONALS["potential"]
    mixed = 2.0 * mmd + (potential - 0.5 * mmd)
    both = quick(lambda x, weights: mixed(x, weights))(X, WEIGHTS)
    expected = 1.5 * at("mmd")[0] + at("potential")[0]
    assert jnp.allclose(both, expected, rtol=1e-13)


def test_discrepancies_equal_the_metrics():
    y = TARGET

    @quick
    def pairs():
        line = gf.SlicedWasserstein(y[:, :1], jnp.ones((1, 1)))(X[:, :1])
        mmd, distance = gf.MMD(y, gf.Gaussian(0.9))(X), gf.energy_distance_squared(y)(X)
        roots = (
            tx.ot.wasserstein_1d(X[:, 0], y[:, 0]),
            tx.metrics.mmd(X, y, bandwidth=0.9),
            tx.metrics.energy_distance(X, y),
        )
        return jnp.stack([line, mmd, distance]), jnp.stack(roots)

    squares, roots = pairs()
    assert jnp.allclose(squares, roots**2, rtol=1e-12)


def test_sums_over_pairs_do_not_depend_on_tiles(monkeypatch):
    functional = gf.MMD(TARGET, gf.NegativeDistance()) + gf.SmoothedEntropy(0.5)
    dense = quick(lambda: functional.value_and_gradient(X, WEIGHTS))()
    monkeypatch.setattr(_layout, "_HELD_ENTRIES", 8)
    monkeypatch.setattr(_layout, "_TILE_ENTRIES", 12)
    assert tx.geometry.PointCloud(X, X).streams
    streamed = quick(lambda: functional.value_and_gradient(X, WEIGHTS))()
    for one, other in zip(dense, streamed, strict=True):
        assert jnp.allclose(one, other, rtol=1e-12, atol=1e-13)


KERNELS = {
    "gaussian": gf.Gaussian(jnp.array(0.8)),
    "multiquadric": gf.InverseMultiquadric(jnp.array(0.8)),
    "distance": gf.NegativeDistance(),
    "laplace": gf.Laplace(jnp.array(0.8)),
}


@pytest.mark.parametrize("name", KERNELS)
def test_sums_of_radial_kernels_have_the_derivatives_of_their_matrices(name):
    """Of first and second order, in the kernel, both clouds and both weights."""
    arguments = KERNELS[name], X, WEIGHTS, TARGET, WEIGHTS[:5]
    flat, unravel = ravel_pytree(arguments)

    def one_pass(flat):
        kernel, x, a, y, b = unravel(flat)
        return _sums.between_sum(kernel, x, a, y, b) + _sums.within_sum(kernel, x, a)

    def dense(flat):
        kernel, x, a, y, b = unravel(flat)
        return a @ (kernel.matrix(x, y) @ b + kernel.matrix(x, x) @ a)

    @quick
    def derivatives(flat, direction):
        made = (jax.jvp(jax.grad(f), (flat,), (direction,)) for f in (one_pass, dense))
        return tuple(map(jnp.stack, made))

    ours, expected = derivatives(flat, jr.normal(jr.key(7), flat.shape))
    assert jnp.allclose(ours, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", KERNELS)
def test_sums_in_many_dimensions_are_those_of_the_pairs(name):
    x, y = 0.3 * jr.normal(jr.key(12), (2, 5, 12)) + 7

    def over_pairs(x):
        def mean(one, other):
            kernels = jax.vmap(jax.vmap(KERNELS[name], (None, 0)), (0, None))
            return jnp.mean(kernels(one, other))

        return mean(x, x) + mean(y, y) - 2 * mean(x, y)

    ways = gf.MMD(y, KERNELS[name]), over_pairs
    (ours, slopes), (value, expected) = quick(lambda x: [jax.value_and_grad(w)(x) for w in ways])(x)
    assert jnp.allclose(ours, value, rtol=1e-9, atol=1e-12)
    assert jnp.allclose(slopes, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["energy_distance", "sinkhorn", "sliced", "smoothed_entropy"])
def test_points_that_meet_have_finite_gradients(name):
    met = jnp.concatenate([TARGET[:3], TARGET[:3]])
    _, (slopes, variation) = at(name, met)
    assert jnp.all(jnp.isfinite(slopes))
    assert jnp.all(jnp.isfinite(variation))


# Particle flows against closed solutions.

PRECISE: dict[str, Any] = {"steps": AdaptiveSteps(1e-10, 1e-10, diffrax.Dopri8())}
T = 0.7


@functools.cache
def _program(*options):
    def run(functional, dynamics, x, weights, t1):
        return gf.flow(functional, x, weights, t1=t1, dynamics=dynamics, **dict(options))

    return quick(run)


def carried(
    functional,
    x0,
    weights=None,
    *,
    t1=T,
    dynamics: gf.AbstractDynamics = gf.Wasserstein(),  # noqa: B008
    **options,
):
    options = PRECISE | options
    made = _program(*options.items())(functional, dynamics, x0, weights, jnp.asarray(t1))
    assert made.completed, tx.Status[made.status]
    return made


CENTRE = jnp.array([1.0, -0.5])


def well(x):
    return (x - CENTRE) @ P @ (x - CENTRE) / 2


WHITE = jnp.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]]) * jnp.sqrt(2.0)


def squared_product(x, y):
    return jnp.sum(x * y) ** 2


def combined(*factors):
    """Multiples of three energies: one program serves each of them."""
    parts = gf.Potential(well), FUNCTIONALS["interaction"]
    parts = *parts, gf.MMD(WHITE, squared_product)
    return gf.FunctionalSum(tuple(gf.Scaled(*pair) for pair in zip(factors, parts, strict=True)))


def test_quadratic_potentials_contract_at_their_rates():
    centre = CENTRE
    made = carried(combined(1.0, 0.0, 0.0), X, WEIGHTS)
    shrunk = scipy.linalg.expm(-T * np.asarray(P))
    expected = centre[None, :] + (X - centre[None, :]) @ shrunk
    assert jnp.allclose(made.x[-1], expected, atol=1e-8)
    assert jnp.all(made.weights == WEIGHTS[None, :])


def test_quadratic_interactions_keep_the_mean_and_contract_the_rest():
    made = carried(combined(0.0, 1.0, 0.0), X, WEIGHTS)
    mean = WEIGHTS @ X
    expected = mean[None, :] + (X - mean[None, :]) @ scipy.linalg.expm(-T * np.asarray(G))
    assert jnp.allclose(made.x[-1], expected, atol=1e-8)
    assert jnp.allclose(
        made.energy[-1], jnp.trace(G @ jnp.cov(expected.T, aweights=WEIGHTS, bias=True)) / 2
    )


def test_mmd_of_squared_products_moves_second_moments_by_a_logistic_law():
    x0 = X / 2
    # Eigenvalues of C' = 8 (C - C^2) follow c / (c + (1 - c) e^{-8t}); T / 4 has them on the way.
    made = carried(combined(0.0, 0.0, 1.0), x0, jnp.full_like(WEIGHTS, 1 / 6), t1=T / 4)
    values, vectors = np.linalg.eigh(x0.T @ x0 / 6)
    values = values / (values + (1 - values) * np.exp(-8 * T / 4))
    expected = vectors @ np.diag(values) @ vectors.T
    assert jnp.allclose(made.x[-1].T @ made.x[-1] / 6, expected, atol=1e-8)


def test_energy_distance_to_the_unit_interval_places_quantiles_at_rate_four():
    def to_uniform(x):
        return jnp.sum(x**2 + (1 - x) ** 2)  # 2 E|x - Y|, Y uniform, inside the interval

    functional = gf.Potential(to_uniform) + 2.0 * gf.Interaction(gf.NegativeDistance())
    x0 = jnp.array([[0.1], [0.15], [0.2], [0.4], [0.9]])
    made = carried(functional, x0)
    levels = (jnp.arange(5.0)[:, None] + 0.5) / 5
    assert jnp.allclose(made.x[-1], levels + jnp.exp(-4 * T) * (x0 - levels), atol=1e-8)


SHIFT = jnp.array([1.5, -0.4])


def test_sinkhorn_divergence_pulls_translates_of_the_target_rigidly():
    outsiders, even = jnp.zeros((3, 2)), jnp.full(5, 0.2)
    slopes = at("sinkhorn", TARGET + SHIFT[None, :], even, outsiders, (0.0,) * 3)[1][0]
    assert jnp.allclose(slopes[:5] / 0.2, 2 * SHIFT[None, :], atol=1e-8)


def test_translates_of_the_target_move_rigidly_under_sliced_transport():
    directions = gf.random_directions(key=jr.key(6), num=3, dim=2, dtype=jnp.float64)
    made = carried(gf.SlicedWasserstein(TARGET, directions), TARGET + SHIFT[None, :])
    spread = np.asarray(directions.T @ directions / 3)
    left = scipy.linalg.expm(-2 * T * spread) @ SHIFT
    assert jnp.allclose(made.x[-1] - TARGET, left[None, :], atol=1e-8)


@pytest.fixture(scope="module")
def towards():
    """A program of the flow of any multiples of three discrepancies."""
    parts = tuple(FUNCTIONALS[name] for name in DISCREPANCIES)
    options = {"steps": FixedSteps(60, diffrax.Midpoint()), "t1": 3.0}

    @quick
    def run(factors, weights):
        functional = gf.FunctionalSum(
            tuple(gf.Scaled(*pair) for pair in zip(factors, parts, strict=True))
        )
        return gf.flow(functional, TARGET[:, ::-1] + 0.3, weights, **options)

    return run


DISCREPANCIES = ("mmd_multiquadric", "energy_distance", "sliced")


@pytest.mark.parametrize("name", DISCREPANCIES)
def test_discrepancies_fall_far_towards_their_target(name, towards):
    factors = jnp.array([float(name == other) for other in DISCREPANCIES])
    weights = FUNCTIONALS[name].weights
    made = towards(factors, jnp.full_like(WEIGHTS[:5], 0.2) if weights is None else weights)
    assert made.energy[-1] < 0.02 * made.energy[0]
    assert jnp.all(made.energy > -1e-12)


def test_momentum_oscillates_and_loses_what_friction_takes():
    stiffness, friction = 4.0, 0.6
    functional = gf.Potential(lambda x: stiffness / 2 * jnp.sum(x**2))
    made = carried(functional, X, dynamics=gf.Kinetic(friction), t1=2.0)
    decay, pulse = friction / 2, np.sqrt(stiffness - friction**2 / 4)
    t = made.times[:, None, None]
    expected = (
        jnp.exp(-decay * t) * (jnp.cos(pulse * t) + decay / pulse * jnp.sin(pulse * t)) * X[None]
    )
    assert jnp.allclose(made.x[-1], expected[-1], atol=1e-8)
    # Between steps the solver interpolates, less precisely.
    assert jnp.allclose(made.x, expected, atol=1e-4)


def test_fisher_rao_weights_are_the_softmax_of_the_potential():
    functional = FUNCTIONALS["potential"]
    start = jnp.append(WEIGHTS[:-1], 0.0)
    made = carried(functional, X, start, dynamics=gf.WassersteinFisherRao(0.0), t1=2.0)
    expected = start * jnp.exp(-2.0 * jax.vmap(quadratic)(X))
    expected = expected / jnp.sum(expected) * jnp.sum(start)
    assert jnp.allclose(made.weights[-1], expected, atol=1e-9)
    assert jnp.all(made.x == X[None])
    assert made.weights[-1, -1] == 0


def test_fisher_rao_with_an_entropy_of_cells_follows_the_geometric_path():
    cells = jnp.linspace(-2, 2, 9)[:, None]
    functional = gf.Potential(lambda x: x[0] ** 2 - x[0]) + gf.Entropy(0.5)
    start = jnp.full(9, 1 / 9)
    dynamics = gf.WassersteinFisherRao(0.0, 2.0)
    made = quick(lambda w: gf.flow(functional, cells, w, t1=T, dynamics=dynamics, **PRECISE))(start)
    assert made.completed
    rest = jnp.exp(-2 * T)
    expected = jnp.exp((1 - rest) * (cells[:, 0] - cells[:, 0] ** 2))
    assert jnp.allclose(made.weights[-1], expected / jnp.sum(expected), atol=1e-9)


def test_reaction_keeps_the_mass_and_speeds_the_descent():
    start = 3 * WEIGHTS
    made = {
        reaction: carried(
            gf.MMD(TARGET, gf.Gaussian(0.9), jnp.full(5, 0.6)),
            X,
            start,
            dynamics=gf.WassersteinFisherRao(1.0, reaction),
            steps=AdaptiveSteps(1e-8, 1e-8),
        )
        for reaction in (0.0, 1.0)
    }
    assert jnp.allclose(jnp.sum(made[1.0].weights, axis=1), 3, rtol=1e-14)
    assert jnp.all(made[1.0].weights > 0)
    assert made[1.0].energy[-1] < made[0.0].energy[-1]
    assert jnp.allclose(made[0.0].weights, start[None, :], rtol=1e-14)


def test_stein_descent_with_a_linear_kernel_ends_at_the_moments_of_the_target():
    centre = jnp.array([0.5, 1.0])
    functional = gf.Potential(lambda x: (x - centre) @ P @ (x - centre) / 2)
    stein = gf.Stein(lambda x, y: 1 + jnp.sum(x * y))
    made = carried(functional, X, WEIGHTS, dynamics=stein, t1=40.0, steps=AdaptiveSteps(1e-9, 1e-9))
    end = made.x[-1]
    assert jnp.allclose(WEIGHTS @ end, centre, atol=1e-7)
    spread = jnp.cov(end.T, aweights=WEIGHTS, bias=True)
    assert jnp.allclose(spread, jnp.linalg.inv(P), atol=1e-7)


def test_langevin_has_the_moments_of_ornstein_uhlenbeck():
    precision, centre, count = 2.0, 1.0, 2000
    functional = gf.Potential(lambda x: precision / 2 * jnp.sum((x - centre) ** 2))
    x0 = jnp.full((count, 1), -1.0)
    made = quick(
        lambda key: gf.flow(functional, x0, t1=0.4, dynamics=gf.Langevin(), steps=50, key=key)
    )(jr.key(8))
    assert made.completed
    mean = centre - 2 * np.exp(-0.8)
    variance = (1 - np.exp(-1.6)) / precision
    end = made.x[-1]
    # Four standard errors, and what 50 Euler-Maruyama steps leave.
    assert abs(jnp.mean(end) - mean) < 4 * np.sqrt(variance / count) + 1e-2
    assert abs(jnp.var(end) - variance) < (4 * np.sqrt(2 / count) + 2e-2) * variance


def test_smoothed_entropy_spreads_quantiles_as_heat_does():
    count = 120
    levels = (np.arange(count) + 0.5) / count
    x0 = jnp.asarray(scipy.stats.norm.ppf(levels))[:, None]
    made = quick(
        lambda x: gf.flow(gf.SmoothedEntropy(0.2), x, t1=0.5, steps=FixedSteps(60, diffrax.Heun()))
    )(x0)
    assert made.completed
    growth = jnp.var(made.x[-1]) - jnp.var(x0)
    # Heat adds 2 t = 1; a width of 0.2 and the missing tails take a few percent off.
    assert abs(growth - 1) < 0.06
    assert abs(jnp.mean(made.x[-1])) < 1e-9


def monomials(x):
    return jnp.stack([x[0], x[1], x[0] ** 2, x[0] * x[1], x[1] ** 2])


def test_gaussians_diffuse_without_noise_by_a_fitted_score():
    temperature = jnp.array(0.6)
    score = gf.FittedScore(monomials, temperature, ridge=1e-14)
    made = carried(gf.Potential(well), X, WEIGHTS, dynamics=score)
    shrunk = scipy.linalg.expm(-T * np.asarray(P))
    mean, rest = WEIGHTS @ X, temperature * jnp.linalg.inv(P)
    spread = (X - mean[None, :]).T @ (WEIGHTS[:, None] * (X - mean[None, :]))
    end = made.x[-1]
    assert jnp.allclose(WEIGHTS @ end, CENTRE + shrunk @ (mean - CENTRE), atol=1e-8)
    expected = rest + shrunk @ (spread - rest) @ shrunk
    assert jnp.allclose(jnp.cov(end.T, aweights=WEIGHTS, bias=True), expected, atol=1e-8)


DYNAMICS = {
    "wasserstein": gf.Wasserstein(),
    "stein": gf.Stein(gf.Gaussian(1.0), 0.3),
    "stein_of_any_kernel": gf.Stein(lambda x, y: jnp.exp(-jnp.sum((x - y) ** 2) / 2), 0.3),
    "kinetic": gf.Kinetic(0.5),
    "reaction": gf.WassersteinFisherRao(0.7, 1.3),
    "score": gf.FittedScore(monomials, 0.3),
}
MIXED = FUNCTIONALS["mmd"] + 0.2 * FUNCTIONALS["interaction"] + FUNCTIONALS["potential"]


@functools.cache
def falling(name):
    """The derivative of the energy along the rates at a state on the way, and minus it."""
    dynamics = DYNAMICS[name]

    @quick
    def run(x):
        moved = dynamics.rates(MIXED, dynamics.start(x), WEIGHTS)
        state = jax.tree.map(lambda s, r: s + 0.3 * r, dynamics.start(x), moved)
        rates = dynamics.rates(MIXED, state, WEIGHTS)

        def described(state):
            return dynamics.energy_and_dissipation(MIXED, state, WEIGHTS)

        (_, dissipation), (slope, _) = jax.jvp(described, (state,), (rates,))
        return slope, dissipation, rates

    return run(X)


@pytest.mark.parametrize("name", DYNAMICS)
def test_dissipation_is_minus_the_derivative_of_the_energy_along_the_rates(name):
    slope, dissipation, _ = falling(name)
    assert jnp.allclose(slope, -dissipation, rtol=1e-10)
    assert abs(dissipation) > 0.01


def test_radial_kernels_repel_in_one_pass_as_any_kernel_does():
    (_, _, one), (_, _, other) = falling("stein"), falling("stein_of_any_kernel")
    assert jnp.allclose(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["wasserstein", "reaction"])
def test_energy_falls_at_the_rate_of_the_dissipation(name):
    functional = MIXED
    step = 0.01
    made = quick(
        lambda x: gf.flow(
            functional,
            x,
            WEIGHTS,
            t1=4 * step,
            steps=FixedSteps(4, diffrax.Dopri5()),
            times=step * jnp.arange(5.0),
            dynamics=DYNAMICS[name],
        )
    )(X)
    before, near, _, behind, after = made.energy
    slope = (before - 8 * near + 8 * behind - after) / (12 * step)
    assert jnp.allclose(slope, -made.dissipation[2], rtol=1e-6)
    if name == "wasserstein":
        velocity = (made.x[0] - 8 * made.x[1] + 8 * made.x[3] - made.x[4]) / (12 * step)
        speed = WEIGHTS @ jnp.sum(velocity**2, axis=1)
        assert jnp.allclose(made.dissipation[2], speed, rtol=1e-6)


@pytest.mark.parametrize(("solver", "order"), [(diffrax.Euler(), 1), (diffrax.Heun(), 2)])
def test_equal_steps_converge_at_the_order_of_the_solver(solver, order):
    functional = FUNCTIONALS["interaction"]
    mean = jnp.mean(X, axis=0)
    exact = mean[None, :] + (X - mean[None, :]) @ scipy.linalg.expm(-T * np.asarray(G))
    run = quick(lambda x, t1: gf.flow(functional, x, t1=t1, steps=FixedSteps(40, solver)).x[-1])
    # Forty steps, and twice as many of half the length.
    ends = run(X, T), run(run(X, T / 2), T / 2)
    errors = [float(jnp.max(jnp.abs(end - exact))) for end in ends]
    assert 1.9 < (errors[0] / errors[1]) ** (1 / order) < 2.1


# Derivatives, transforms, failures.


def test_flows_differentiate_in_points_weights_and_parameters():
    def end(x0, weights, bandwidth, factor, t1):
        functional = gf.MMD(TARGET, gf.Gaussian(bandwidth)) + factor * gf.Potential(quadratic)
        made = gf.flow(functional, x0, weights, t1=t1, steps=4)
        return made.x[-1], made.energy[-1]

    arguments = X, WEIGHTS, jnp.array(0.9), jnp.array(0.3), jnp.array(0.5)
    check_reverse(end, *arguments)


@pytest.mark.slow
def test_a_parameter_is_fitted_through_an_adaptive_flow():
    def make(stiffness):
        functional = gf.Potential(lambda x: stiffness / 2 * jnp.sum(x**2))
        return gf.flow(functional, X, t1=1.0, steps=AdaptiveSteps(1e-6, 1e-8, max_steps=64))

    seen = X * jnp.exp(-0.8)

    @quick
    @jax.value_and_grad
    def loss(stiffness):
        return jnp.mean((make(stiffness).x[-1] - seen) ** 2)

    stiffness = jnp.array(0.2)
    for _ in range(8):
        value, slope = loss(stiffness)
        # Newton's step of Gauss: the loss is a square with root of slope -(stiffness - 0.8).
        stiffness = stiffness - 2 * value / slope
    assert jnp.allclose(stiffness, 0.8, atol=1e-4)


def test_a_score_alone_moves_points_and_owns_to_no_energy():
    class Score(eqx.Module):
        precision: jax.Array

        def __call__(self, x):
            return -self.precision * x

    def functional(precision):
        return gf.Potential(gf.potential_from_score(Score(precision)))

    made = carried(functional(jnp.array(2.0)), X)
    assert jnp.all(jnp.isnan(made.energy))
    assert jnp.allclose(made.x[-1], X * jnp.exp(-2 * T), atol=1e-8)
    assert jnp.allclose(made.dissipation[0], 4 * jnp.mean(jnp.sum(X**2, axis=1)))
    slopes = quick(jax.jacobian(lambda p: functional(p).gradient(X)))(jnp.array(2.0))
    assert jnp.allclose(slopes, X, rtol=1e-12)


def test_one_failure_in_a_batch_leaves_the_others_alone():
    functional = gf.Potential(lambda x: -jnp.sum(x**4))
    starts = jnp.stack([0.1 * X, 3.0 * X])
    made = quick(
        jax.vmap(
            lambda x: gf.flow(functional, x, t1=0.5, steps=AdaptiveSteps(1e-6, 1e-6, max_steps=200))
        )
    )(starts)
    assert jnp.array_equal(made.completed, jnp.array([True, False]))
    assert (made.status == tx.Status.MAX_STEPS)[1]
    # x' = 4 x^3 has x(t) = x / sqrt(1 - 8 t x^2).
    exact = starts[0] / jnp.sqrt(1 - 4 * starts[0] ** 2)
    assert jnp.allclose(made.x[0, -1], exact, atol=1e-5)
    # Each cubic blows up at its own time; what was not reached is NaN.
    assert jnp.all(jnp.isnan(made.x[1, -1]))
    assert jnp.isnan(made.energy[1, -1])


@quick
def ten_steps(stiffness, x):
    functional = gf.Potential(lambda x: stiffness * jnp.sum(x**2))
    return gf.flow(functional, x, t1=1.0, steps=10)


FAILURES = {
    "large steps": (15.0, X, "ROSE"),
    "far too large ones": (15e60, X, "NON_FINITE"),
    "NaN input": (1.0, X.at[0, 0].set(jnp.nan), "NON_FINITE"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_failures_end_in_a_status(name):
    stiffness, x, status = FAILURES[name]
    assert ten_steps(stiffness, x).status == getattr(tx.Status, status)
    assert ten_steps(1.0, X).completed


@pytest.mark.parametrize(
    ("named", "call"),
    [
        ("x0", lambda: gf.flow(FUNCTIONALS["mmd"], X[0], t1=1.0)),
        ("x0", lambda: gf.flow(FUNCTIONALS["mmd"], jnp.ones((2, 2), int), t1=1.0)),
        ("x", lambda: gf.flow(FUNCTIONALS["mmd"], X[:, :1], t1=1.0)),
        ("weights", lambda: gf.flow(FUNCTIONALS["mmd"], X, WEIGHTS[:3], t1=1.0)),
        ("t1", lambda: gf.flow(FUNCTIONALS["mmd"], X, t1=0.0)),
        ("steps", lambda: gf.flow(FUNCTIONALS["mmd"], X, t1=1.0, steps=0)),
        ("times", lambda: gf.flow(FUNCTIONALS["mmd"], X, t1=1.0, times=jnp.array([0.0, 0.5]))),
        ("key", lambda: gf.flow(FUNCTIONALS["mmd"], X, t1=1.0, dynamics=gf.Langevin())),
        ("key", lambda: gf.flow(FUNCTIONALS["mmd"], X, t1=1.0, key=jr.key(0))),
        ("functional", lambda: gf.flow(2.0 * gf.Entropy(0.1), X, t1=1.0)),
        ("bandwidth", lambda: gf.Gaussian(0.0)),
        ("bandwidth", lambda: gf.SmoothedEntropy(-1.0)),
        ("epsilon", lambda: gf.SinkhornDivergenceTo(TARGET, 0.0)),
        ("weights", lambda: gf.MMD(TARGET, gf.Gaussian(1.0), WEIGHTS)),
        ("directions", lambda: gf.SlicedWasserstein(TARGET, jnp.ones((3, 3)))),
        ("num", lambda: gf.random_directions(key=jr.key(0), num=0, dim=2)),
        ("temperature", lambda: gf.Langevin(-1.0)),
        ("friction", lambda: gf.Kinetic(-1.0)),
        ("exponent", lambda: gf.PorousMedium(0.1, 1.0)),
        ("cap", lambda: gf.DensityCap(0.1, 0.0)),
        ("reference", lambda: gf.HalfFisher(gf.CellBox((0.0,), (1.0,), (4,)), WEIGHTS)),
        ("weights", lambda: gf.HalfFisher(gf.CellBox((0.0,), (1.0,), (4,)))(X)),
        ("functional", lambda: gf.flow(INTERNAL["half_fisher"], X, t1=1.0)),
        ("ridge", lambda: gf.FittedScore(monomials, ridge=0.0)),
        ("z", lambda: FUNCTIONALS["mmd"].first_variation(X[:, :1], X)),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_bad_input_is_refused_by_name(named, call):
    with pytest.raises(ValueError, match=f"`{named}`"):
        call()


# Numbers that do not fit, known at run time.


def test_negative_weights_give_no_energy_and_no_flow():
    x, weights = jnp.array([[0.0, 1.0], [2.0, -1.0]]), jnp.array([-0.5, 1.5])
    well = gf.Potential(lambda x: jnp.sum(x**2))
    assert jnp.isnan(well(x, weights))
    assert jnp.isnan(well.first_variation(x, x, weights) * well(x, weights)).all()
    made = gf.flow(well, x, weights, t1=1.0)
    assert not made.completed
    assert jnp.isnan(made.energy).all()
    with pytest.raises(ValueError, match="`weights`"):
        well(x, weights[:, None])


@pytest.mark.parametrize("bad", [-1.0, jnp.inf, jnp.nan])
def test_parameters_that_do_not_fit_give_nan_where_they_are_traced(bad):
    bad, x = jnp.asarray(bad), jnp.array([[0.0, 1.0], [2.0, -1.0]])
    weights, slopes = jnp.full(2, 0.5), jnp.ones((2, 2))
    answers = [
        gf.SmoothedEntropy(bad)(x),
        gf.Interaction(gf.Gaussian(bad))(x),
        gf.Interaction(gf.InverseMultiquadric(bad))(x),
        gf.MMD(x + 1, gf.Gaussian(bad))(x),
        gf.Entropy(bad)(x, weights),
        gf.PorousMedium(0.1, bad)(x, weights) if bad < 0 else jnp.nan,
        gf.DensityCap(0.1, bad)(x, weights),
        gf.Stein(gf.Gaussian(1.0), bad).velocities(slopes, x, weights),
        gf.FittedScore(lambda x: x, bad).velocities(slopes, x, weights),
        gf.Kinetic(bad).rates(gf.Potential(jnp.sum), (x, x), weights)[1],
        gf.WassersteinFisherRao(bad).rates(gf.Potential(jnp.sum), (x, x[:, 0]), weights)[0],
    ]
    assert all(jnp.isnan(answer).all() for answer in answers)
