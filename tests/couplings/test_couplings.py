"""Couplings: every property over the table; each law against brute force or its plan."""

import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import ot
import pytest
import scipy.optimize
import scipy.stats

import transportx as tx
from tests.tables import COUPLINGS

KEY = jr.key(0)
every_coupling = pytest.mark.parametrize("coupling", COUPLINGS.values(), ids=COUPLINGS.keys())
one_to_one = pytest.mark.parametrize("name", ["independent", "assignment"])


def batches(b=6, shape=(2,), n=None, dtype=jnp.float64):
    keys = jr.split(jr.key(b), 2)
    n = b if n is None else n
    return jr.normal(keys[0], (n, *shape), dtype), 0.5 + jr.normal(keys[1], (b, *shape), dtype)


def squared_distances(x0, x1):
    x0, x1 = np.asarray(x0).reshape(len(x0), -1), np.asarray(x1).reshape(len(x1), -1)
    return np.sum((x0[:, None] - x1[None, :]) ** 2, axis=-1)


# Couplings whose indices are drawn at random.
DRAWN = (tx.couplings.Entropic, tx.couplings.Unbalanced)


def assert_targets(coupling, i1):
    """Every target once; of those that may leave some out, targets that exist."""
    if isinstance(coupling, tx.couplings.Unbalanced):
        assert set(i1.tolist()) <= set(range(i1.size))
    else:
        assert sorted(i1.tolist()) == list(range(i1.size))


# Every coupling


@every_coupling
@pytest.mark.parametrize("shape", [(2,), (1,), (3, 4), ()])
def test_targets_are_used_once_and_sources_are_in_range(coupling, shape):
    x0, x1 = batches(shape=shape)
    i0, i1 = coupling(x0, x1, key=jr.key(0))
    assert i0.shape == i1.shape == (6,)
    assert jnp.issubdtype(i0.dtype, jnp.integer)
    assert set(i0.tolist()) <= set(range(6))
    assert_targets(coupling, i1)


@one_to_one
def test_one_to_one_couplings_use_every_source_once(name):
    i0, _ = COUPLINGS[name](*batches(), key=jr.key(0))
    assert sorted(i0.tolist()) == list(range(6))


@every_coupling
def test_jit_vmap_and_loop_pair_alike(coupling):
    x0, x1 = (
        jnp.stack(parts) for parts in zip(batches(), (batches()[1], batches()[0]), strict=True)
    )
    keys = jr.split(jr.key(0), 2)
    loop = [coupling(x0[k], x1[k], key=keys[k]) for k in range(2)]
    batch = jax.jit(jax.vmap(lambda x0, x1, key: coupling(x0, x1, key=key)))(x0, x1, keys)
    for found, expected in zip(batch, zip(*loop, strict=True), strict=True):
        np.testing.assert_array_equal(found, jnp.stack(expected))


@every_coupling
def test_images_are_paired_as_their_flat_vectors(coupling):
    x0, x1 = batches(shape=(3, 4))
    images = coupling(x0, x1, key=jr.key(0))
    flat = coupling(x0.reshape(6, 12), x1.reshape(6, 12), key=jr.key(0))
    for one, other in zip(images, flat, strict=True):
        np.testing.assert_array_equal(one, other)


@every_coupling
def test_float32_batches_pair_as_float64_ones(coupling):
    x0, x1 = batches()
    single = coupling(x0.astype(jnp.float32), x1.astype(jnp.float32), key=jr.key(0))
    double = coupling(x0, x1, key=jr.key(0))
    if isinstance(coupling, DRAWN):  # draws differ with the dtype
        assert_targets(coupling, single[1])
    else:
        np.testing.assert_array_equal(single, double)


@every_coupling
def test_coupled_points_differentiate_and_indices_stand_still(coupling):
    x0, x1 = batches()
    i0, i1 = coupling(x0, x1, key=jr.key(0))

    def cost(x0, x1):
        i0, i1 = coupling(x0, x1, key=jr.key(0))
        return jnp.sum((x0[i0] - x1[i1]) ** 2)

    found = jax.jit(jax.grad(cost, argnums=(0, 1)))(x0, x1)
    gaps = 2 * (np.asarray(x0)[i0] - np.asarray(x1)[i1])
    expected = np.zeros((6, 2)), np.zeros((6, 2))
    np.add.at(expected[0], np.asarray(i0), gaps)
    np.add.at(expected[1], np.asarray(i1), -gaps)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-13)
    # Forward mode, which goes through the callback and the loop: x0 moves, indices do not.
    _, tangent = jax.jit(lambda x0: jax.jvp(lambda x0: cost(x0, x1), (x0,), (jnp.ones_like(x0),)))(
        x0
    )
    np.testing.assert_allclose(tangent, gaps.sum(), rtol=1e-12)


@every_coupling
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_a_bad_point_stays_visible(coupling, bad, side):
    batch = list(batches())
    batch[side] = batch[side].at[4, 1].set(bad)
    i0, i1 = coupling(*batch, key=jr.key(0))
    pairs = batch[0][i0], batch[1][i1]
    assert not jnp.isfinite(pairs[side]).all()
    assert jnp.isfinite(pairs[1 - side]).all()


@every_coupling
def test_a_batch_of_one_pairs_with_itself(coupling):
    i0, i1 = coupling(*batches(b=1), key=jr.key(0))
    np.testing.assert_array_equal(i0, [0])
    np.testing.assert_array_equal(i1, [0])


@every_coupling
def test_coinciding_points_pair_without_failing(coupling):
    x = jnp.ones((4, 2))
    i0, i1 = coupling(x, x, key=jr.key(0))
    assert set(i0.tolist()) <= set(range(4))
    assert_targets(coupling, i1)


# Assignment


@pytest.mark.parametrize("shape", [(2,), (1,), (2, 2)])
def test_assignment_has_the_least_cost_of_all_permutations(shape):
    x0, x1 = batches(shape=shape)
    i0, i1 = tx.couplings.Assignment()(x0, x1, key=jr.key(0))
    costs = squared_distances(x0, x1)
    least = min(costs[list(p), range(6)].sum() for p in itertools.permutations(range(6)))
    np.testing.assert_allclose(costs[i0, i1].sum(), least, rtol=1e-12)


def test_assignment_minds_which_point_is_the_source_of_an_asymmetric_cost():
    x0, x1 = batches(b=5, shape=(1,))
    cost = tx.geometry.Pointwise(lambda x, y: jnp.sum(jnp.exp(x - 2 * y) + (x + y) ** 2))
    i0, i1 = tx.couplings.Assignment(cost)(x0, x1, key=jr.key(0))
    costs = np.array([[cost(x, y) for y in x1] for x in x0])
    totals = [costs[list(p), range(5)].sum() for p in itertools.permutations(range(5))]
    np.testing.assert_allclose(costs[i0, i1].sum(), min(totals), rtol=1e-12)


def test_assignment_on_the_line_is_monotone():
    x0, x1 = batches(b=20, shape=(1,))
    i0, i1 = tx.couplings.Assignment()(x0, x1, key=jr.key(0))
    np.testing.assert_array_equal(jnp.argsort(x0[i0, 0]), jnp.argsort(x1[i1, 0]))


# Exact and entropic


def draws(coupling, x0, x1, num):
    """How often each source went with each target, over many keys."""
    pair = jax.jit(jax.vmap(lambda key: coupling(x0, x1, key=key)))
    i0, i1 = (np.asarray(index) for index in pair(jr.split(jr.key(0), num)))
    counts = np.zeros((len(x0), len(x1)))
    np.add.at(counts, (i0, i1), 1)
    return counts


@pytest.mark.parametrize("sizes", [(8, 5), (4, 6)])
def test_entropic_draws_sources_from_the_plan_given_the_target(sizes):
    n, b = sizes
    x0, x1 = batches(b=b, n=n)
    solver = tx.ot.Sinkhorn(tol=1e-8)
    coupling = tx.couplings.Entropic(0.7, relative=False, solver=solver)
    num = 4000
    found = draws(coupling, x0, x1, num) / num
    plan = tx.ot.solve(tx.geometry.PointCloud(x0, x1), epsilon=0.7, solver=solver).matrix()
    expected = np.asarray(plan / jnp.sum(plan, axis=0, keepdims=True))
    # Five binomial standard deviations, and one draw for probabilities near zero.
    deviation = np.sqrt(expected * (1 - expected) / num)
    assert (np.abs(found - expected) <= 5 * deviation + 1 / num).all()


def test_exact_draws_sources_from_the_exact_plan_between_unequal_batches():
    x0, x1 = batches(b=4, n=6)
    found = draws(tx.couplings.Exact(), x0, x1, 2000) / 2000
    costs = np.asarray(tx.geometry.PointCloud(x0, x1).matrix())
    expected = 4 * ot.emd([], [], costs)
    np.testing.assert_array_equal(found > 0, expected > 1e-12)
    np.testing.assert_allclose(found, expected, atol=5 * np.sqrt(0.25 / 2000))


def test_entropic_with_a_huge_epsilon_is_independent():
    x0, x1 = batches(n=5)
    counts = draws(tx.couplings.Entropic(1e6), x0, x1, 500)
    # With a fixed key this is one draw: it fails for one key in a thousand.
    assert scipy.stats.chisquare(counts.ravel()).pvalue > 1e-3


def test_entropic_with_a_small_epsilon_is_the_assignment():
    x0, x1 = batches(b=8)
    solver = tx.ot.Sinkhorn(tol=1e-6, max_steps=20_000)
    i0, i1 = tx.couplings.Entropic(1e-3, solver=solver)(x0, x1, key=jr.key(0))
    j0, j1 = tx.couplings.Assignment()(x0, x1, key=jr.key(0))
    assert dict(zip(i1.tolist(), i0.tolist(), strict=True)) == dict(
        zip(j1.tolist(), j0.tolist(), strict=True)
    )


@pytest.mark.parametrize("cost", [tx.geometry.SquaredEuclidean(), tx.geometry.Dot()])
def test_relative_epsilon_is_in_units_of_the_mean_size_of_the_costs(cost):
    x0, x1 = batches(n=4)
    scale = float(np.mean(np.abs(tx.geometry.PointCloud(x0, x1, cost).matrix())))
    relative = tx.couplings.Entropic(0.3, cost=cost)
    absolute = tx.couplings.Entropic(0.3 * scale, relative=False, cost=cost)
    for seed in range(5):
        key = jr.key(seed)
        np.testing.assert_array_equal(relative(x0, x1, key=key)[0], absolute(x0, x1, key=key)[0])
    # Scaling both clouds scales the costs: relative draws stay as they are.
    np.testing.assert_array_equal(
        relative(10 * x0, 10 * x1, key=jr.key(0))[0], relative(x0, x1, key=jr.key(0))[0]
    )


def test_epsilon_of_entropic_may_be_traced():
    x0, x1 = batches()
    traced = jax.jit(lambda e: tx.couplings.Entropic(e)(x0, x1, key=jr.key(3)))(jnp.array(0.4))
    fixed = tx.couplings.Entropic(0.4)(x0, x1, key=jr.key(3))
    np.testing.assert_array_equal(traced[0], fixed[0])


@every_coupling
def test_keys_matter_to_couplings_that_draw_alone(coupling):
    x0, x1 = batches(b=30)
    first, again, other = (coupling(x0, x1, key=jr.key(seed))[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert bool((first != other).any()) == isinstance(coupling, DRAWN)


# Unbalanced


def test_unbalanced_draws_pairs_from_its_plan_and_leaves_outliers_out():
    x0, x1 = batches(b=5, n=8)
    x1 = x1.at[2].set(30.0)
    coupling = tx.couplings.Unbalanced(0.7, rho=1.0, relative=False)
    num = 2000
    pair = jax.jit(jax.vmap(lambda key: coupling(x0, x1, key=key)))
    i0, i1 = (np.asarray(index).ravel() for index in pair(jr.split(jr.key(0), num)))
    found = np.zeros((8, 5))
    np.add.at(found, (i0, i1), 1 / i0.size)
    plan = tx.ot.solve(tx.geometry.PointCloud(x0, x1), epsilon=0.7, rho_a=1.0, rho_b=1.0)
    expected = np.asarray(plan.matrix() / jnp.sum(plan.matrix()))
    # Five binomial standard deviations, one draw, and the coupling's solver tolerance.
    deviation = np.sqrt(expected * (1 - expected) / i0.size)
    assert (np.abs(found - expected) <= 5 * deviation + 1 / i0.size + 0.01 * expected).all()
    assert not (i1 == 2).any()


# Conditional


def test_conditional_pairs_within_labels_and_keeps_noise_independent_of_them():
    x0, x1 = batches(b=60)
    labels = jnp.arange(60) % 3
    x1 = x1 + 4.0 * labels[:, None].astype(x1.dtype)
    marks = jax.nn.one_hot(labels, 3, dtype=jnp.float64)
    coupling = tx.couplings.Conditional(tx.couplings.Assignment(), 1e4)
    i0, i1 = jax.jit(coupling)(x0, x1, marks, key=jr.key(0))
    # Source i was given label i before it was looked at.
    np.testing.assert_array_equal(labels[i0], labels[i1])
    for label in range(3):
        of = np.flatnonzero(np.asarray(labels) == label)
        alone = tx.couplings.Assignment()(x0[of], x1[of], key=jr.key(0))
        costs = squared_distances(x0[of], x1[of])
        chosen = np.asarray(labels[i1]) == label
        together = squared_distances(x0, x1)[np.asarray(i0)[chosen], np.asarray(i1)[chosen]]
        np.testing.assert_allclose(together.sum(), costs[alone].sum(), rtol=1e-10)
    blind, targets = tx.couplings.Assignment()(x0, x1, key=jr.key(0))
    assert float(jnp.mean(labels[blind] == labels[targets])) < 0.9


def test_conditional_weighs_continuous_conditions():
    x0, x1 = batches(b=8)
    conditions = jr.normal(jr.key(5), (8,))
    coupling = tx.couplings.Conditional(tx.couplings.Assignment(), 0.7)
    i0, i1 = coupling(x0, x1, conditions, key=jr.key(0))
    costs = squared_distances(x0, x1) + 0.7 * squared_distances(conditions, conditions)
    rows, columns = scipy.optimize.linear_sum_assignment(costs)
    np.testing.assert_allclose(costs[i0, i1].sum(), costs[rows, columns].sum(), rtol=1e-12)


# Diagnostics


def test_diagnostics_are_those_of_one_device_also_over_a_mesh():
    x0, x1 = batches(b=8)
    mesh = jax.make_mesh((4,), ("over",), axis_types=(jax.sharding.AxisType.Auto,))
    layouts = tx.geometry.Layout(), tx.geometry.Layout(mesh=mesh)
    one, shared = (
        tx.couplings.diagnose(tx.couplings.Entropic(0.3, layout=layout).plan(x0, x1))
        for layout in layouts
    )
    # Both solves end within their tolerance of 1e-2.
    np.testing.assert_allclose(one[:3], shared[:3], rtol=1e-2)
    assert one.status == shared.status == tx.Status.CONVERGED


def test_diagnostics_span_independence_and_a_map():
    x0, x1 = batches(b=8)

    def diagnose(epsilon):
        coupling = tx.couplings.Entropic(epsilon, solver=tx.ot.Newton(tol=1e-8))
        return tx.couplings.diagnose(coupling.plan(x0, x1))

    loose, tight = diagnose(1e5), diagnose(1e-4)
    np.testing.assert_allclose(loose.information, 0, atol=1e-6)
    np.testing.assert_allclose(loose.spread**2, np.var(np.asarray(x1), axis=0).sum(), rtol=1e-4)
    np.testing.assert_allclose(tight.information, np.log(8), rtol=1e-6)
    np.testing.assert_allclose(tight.normalized_information, 1, rtol=1e-6)
    assert float(tight.spread) < 1e-3


def test_information_is_the_relative_entropy_of_the_plan():
    x0, x1 = batches(b=6, n=9)
    plan = tx.couplings.Entropic(0.3, solver=tx.ot.Newton(tol=1e-10)).plan(x0, x1)
    matrix = np.asarray(plan.matrix())
    entropy = np.sum(matrix * np.log(matrix * 54))
    np.testing.assert_allclose(tx.couplings.diagnose(plan).information, entropy, atol=1e-8)


def test_a_plan_warm_started_from_its_own_potentials_needs_no_steps():
    x0, x1 = batches(b=6)
    coupling = tx.couplings.Entropic(0.1)
    plan = coupling.plan(x0, x1)
    again = coupling.plan(x0, x1, init=plan.potentials)
    assert plan.num_steps > 0
    assert again.num_steps == 0
    assert again.converged


# Failures


ENTROPIC = tx.couplings.Entropic(0.3)
UNBALANCED = tx.couplings.Unbalanced(0.3, rho=1.0)
FAILURES = {
    "overflow": lambda x0, x1: ENTROPIC(1e200 * x0, 1e200 * x1, key=KEY),
    "overflow unbalanced": lambda x0, x1: UNBALANCED(1e200 * x0, 1e200 * x1, key=KEY),
    "overflow exact": lambda x0, x1: tx.couplings.Assignment()(1e200 * x0, 1e200 * x1, key=KEY),
    "epsilon": lambda x0, x1: tx.couplings.Entropic(-jnp.sum(x0**2))(x0, x1, key=KEY),
    "rho": lambda x0, x1: tx.couplings.Unbalanced(0.3, -jnp.sum(x0**2))(x0, x1, key=KEY),
    "weight": lambda x0, x1: tx.couplings.Conditional(ENTROPIC, -jnp.sum(x0**2))(
        x0, x1, x1, key=KEY
    ),
    "conditions": lambda x0, x1: tx.couplings.Conditional(tx.couplings.Independent(), 1.0)(
        x0, x1, x1 / 0, key=KEY
    ),
    "overflow between any sizes": lambda x0, x1: tx.couplings.Exact()(
        1e200 * x0, 1e200 * x1, key=KEY
    ),
    "no partner": lambda x0, x1: tx.couplings.Assignment(
        tx.geometry.Pointwise(lambda x, y: jnp.where(x[0] > -1, 1.0, jnp.inf))
    )(x0, x1, key=KEY),
    "marginals": lambda x0, x1: tx.couplings.Entropic(1e-3, solver=tx.ot.Sinkhorn(max_steps=2))(
        x0, x1, key=KEY
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_what_could_not_be_paired_poisons_and_says_why(name):
    x0, x1 = batches()
    pairs = FAILURES[name](x0.at[2, 0].set(-2), x1)
    i0, i1 = pairs
    assert not pairs.converged
    assert pairs.status == (
        tx.Status.MAX_STEPS
        if name == "marginals"
        else tx.Status.INFEASIBLE
        if name == "no partner" or name.startswith("overflow")
        else tx.Status.NON_FINITE
    )
    np.testing.assert_array_equal(i0, 6)
    assert jnp.isnan(tx.couplings.take(x0, i0)).all()
    # Targets stay what they are, each once, or are out of range where they would be drawn.
    assert (sorted(i1.tolist()) == list(range(6))) or (i1 == 6).all()


def test_rows_out_of_range_are_nan_or_the_extreme_integer():
    index = jnp.array([1, -1, 3, 0])
    rows = {
        "points": jnp.arange(6.0).reshape(3, 2),
        "labels": jnp.arange(3, dtype=jnp.int32) + 5,
        "bytes": jnp.arange(3, dtype=jnp.uint8),
        "flags": jnp.zeros(3, bool),
    }
    taken = jax.jit(tx.couplings.take)(rows, index)
    np.testing.assert_array_equal(taken["points"][jnp.array([0, 3])], [[2, 3], [0, 1]])
    assert jnp.isnan(taken["points"][1:3]).all()
    least = jnp.iinfo(jnp.int32).min
    np.testing.assert_array_equal(taken["labels"], [6, least, least, 5])
    np.testing.assert_array_equal(taken["bytes"], [1, 255, 255, 0])
    np.testing.assert_array_equal(taken["flags"], [False, True, True, False])


def test_one_failed_problem_of_a_batch_poisons_its_pairs_alone():
    x0, x1 = batches()
    scaled = jnp.stack([x0, 1e200 * x0, 2 * x0])
    pairs = jax.jit(jax.vmap(lambda x: ENTROPIC(x, x1, key=KEY)))(scaled)
    np.testing.assert_array_equal(pairs.converged, [True, False, True])
    np.testing.assert_array_equal(jnp.any(pairs[0] == 6, axis=1), [False, True, False])
    np.testing.assert_array_equal(pairs[0][0], ENTROPIC(x0, x1, key=KEY)[0])


def test_training_stops_at_the_step_whose_pairs_failed():
    path, coupling = tx.interpolants.Linear(), tx.couplings.Assignment()

    def draw_batch(*, key):
        x0, x1 = jr.normal(key, (2, 6, 2))
        far = jnp.where(jr.uniform(key) < 0.2, 1e200, 1.0)
        i0, i1 = coupling(x0 * far, x1, key=key)
        return tx.couplings.take(x0, i0), tx.couplings.take(x1, i1)

    def loss(field, batch, *, key):
        return tx.losses.flow_matching(field, path, *batch, key=key)

    optimizer = optax.sgd(1e-3)
    state = tx.training.init(tx.fields.MLP(2, 4, 1, key=KEY), optimizer)
    step = tx.training.make_step(loss, optimizer)
    with pytest.raises(tx.training.NonFiniteLossError):
        tx.training.fit(state, step, draw_batch, num_steps=30, key=KEY)


def test_a_plan_a_little_short_of_its_tolerance_still_pairs_and_says_so():
    x0, x1 = batches()
    solver = tx.ot.Sinkhorn(tol=1e-12, max_steps=10)
    pairs = tx.couplings.Entropic(0.1, solver=solver)(x0, x1, key=KEY)
    assert pairs.status == tx.Status.MAX_STEPS
    assert set(pairs[0].tolist()) <= set(range(6))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_halves_draw_from_all_sources_alike(dtype):
    x0, x1 = batches(b=400, shape=(64,), dtype=dtype)
    # Sums of 64 squares times 160,000 pairs are beyond float16.
    pairs = jax.jit(tx.couplings.Entropic(1e4))(10 * x0, 10 * x1, key=KEY)
    assert pairs.converged
    counts, _ = np.histogram(pairs[0], bins=10, range=(0, 400))
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


@every_coupling
def test_couplings_compile_once(coupling, caplog):
    x0, x1 = batches(b=6)
    coupling(x0, x1, key=KEY)
    with jax.log_compiles():
        coupling(x1, x0, key=jr.key(1))
    assert not [record for record in caplog.records if "ompil" in record.getMessage()]


# Refusals

B = jnp.ones((3, 2))


@pytest.mark.usefixtures("without_type_checks")
@every_coupling
@pytest.mark.parametrize(
    ("x0", "x1", "message"),
    [
        (B, jnp.ones((3, 4)), "`x1`.*`x0`.*one shape"),
        (B, jnp.ones((3, 2, 1)), "`x1`.*`x0`.*one shape"),
        (jnp.ones((0, 2)), B, "`x0`.*at least one example"),
        (B, jnp.ones((0, 2)), "`x1`.*at least one example"),
        (jnp.array(1.0), B, "`x0`.*at least one example"),
        (jnp.ones((3, 2), jnp.int32), B, "`x0` has dtype int32.*convert"),
        (B, jnp.ones((3, 2), bool), "`x1` has dtype bool.*convert"),
    ],
)
def test_bad_batches_are_refused_with_their_cure(coupling, x0, x1, message):
    with pytest.raises(ValueError, match=message):
        coupling(x0, x1, key=KEY)


@pytest.mark.usefixtures("without_type_checks")
@one_to_one
def test_one_to_one_couplings_refuse_unequal_sizes(name):
    with pytest.raises(ValueError, match="`x1` has 3 examples but `x0` has 4.*as many"):
        COUPLINGS[name](jnp.ones((4, 2)), B, key=KEY)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("epsilon", [0.0, -1, float("nan")])
def test_entropic_refuses_an_epsilon_that_is_not_positive(epsilon):
    with pytest.raises(ValueError, match=f"`epsilon` is {epsilon}.*number"):
        tx.couplings.Entropic(epsilon)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tx.couplings.Unbalanced(0.1, rho=0.0), "`rho` is 0.0.*positive number"),
        (lambda: tx.couplings.Unbalanced(-1.0, rho=1.0), "`epsilon` is -1.0.*positive number"),
        (
            lambda: tx.couplings.Conditional(tx.couplings.Independent(), -1.0),
            "`weight` is -1.0.*positive number",
        ),
        (
            lambda: tx.couplings.Conditional(tx.couplings.Independent(), 1.0)(
                B, B, jnp.arange(3), key=KEY
            ),
            "`conditions` has dtype int.*convert",
        ),
        (
            lambda: tx.couplings.Conditional(tx.couplings.Independent(), 1.0)(
                B, B, jnp.ones(4), key=KEY
            ),
            r"`conditions` has shape .*; give shape \(b, \*k\)",
        ),
    ],
)
def test_bad_settings_are_refused_with_their_cure(call, message):
    with pytest.raises(ValueError, match=message):
        call()
