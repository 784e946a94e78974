"""Losses and laws of times in halves, of mixed dtypes, and of input that is wrong."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import transportx as tx

KEY = jr.key(180)
PATH = tx.interpolants.BrownianBridge(0.5)
X0, X1 = jr.normal(jr.key(181), (2, 500, 3))
HALVES = pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
LOSSES = {
    "flow_matching": tx.losses.flow_matching,
    "denoiser_matching": tx.losses.denoiser_matching,
    "noise_matching": tx.losses.noise_matching,
    "score_matching": tx.losses.score_matching,
    "sliced_score_matching": tx.losses.sliced_score_matching,
    "latent_noise_matching": tx.losses.latent_noise_matching,
}
LAWS = {
    "uniform": tx.losses.uniform_times,
    "logit_normal": tx.losses.LogitNormalTimes(0.5, 1.5),
    "beta": tx.losses.BetaTimes(2.0, 0.5),
    "importance": tx.losses.ImportanceTimes(jnp.array([4.0, 1.0, 0.0])),
}


def field(t, x, args):
    return jnp.sin(x) * (1 + t)


@HALVES
def test_losses_of_halves_are_those_of_float32(dtype):
    """The same times and noise; rounded inputs, and a rounded mean."""
    narrow = X0.astype(dtype), X1.astype(dtype)
    wide = tuple(x.astype(jnp.float32) for x in narrow)
    for name, loss in LOSSES.items():
        found, expected = (loss(field, PATH, *ends, key=KEY) for ends in (narrow, wide))
        assert found.dtype == dtype
        assert found == expected.astype(dtype), name


def test_a_network_of_another_dtype_is_promoted():
    """Points in float32, a network in float64: errors are in float64, and strictly promoted."""
    ends = X0.astype(jnp.float32), X1.astype(jnp.float32)

    def wider(t, x, args):
        return field(t, x, args).astype(jnp.float64)

    for loss in LOSSES.values():
        found, expected = (loss(f, PATH, *ends, key=KEY) for f in (wider, field))
        assert found.dtype == jnp.float64
        assert np.isclose(found, float(expected), rtol=1e-5)
    mixed = tx.losses.flow_matching(field, PATH, ends[0], X1, key=KEY)
    assert mixed.dtype == jnp.float64
    assert np.isclose(mixed, tx.losses.flow_matching(field, PATH, X0, X1, key=KEY), rtol=1e-5)


@HALVES
def test_times_of_halves_are_drawn_in_float32(dtype):
    for name, law in LAWS.items():
        found, wide = (law(4000, d, key=KEY) for d in (dtype, jnp.float32))
        assert found.dtype == dtype
        eps = float(jnp.finfo(dtype).eps)
        assert jnp.all((found > 0) & (found < 1)), name
        np.testing.assert_allclose(found.astype(jnp.float32), wide, atol=eps)


@HALVES
def test_a_law_kept_in_halves_counts_beyond_them(dtype):
    """2,000 losses of 0.5 in one bin: their mean square is a quarter."""
    law = tx.losses.ImportanceTimes(jnp.ones(2, dtype))
    found = law.updated(jnp.full(2000, 0.25, dtype), jnp.full(2000, 0.5, dtype), rate=1.0)
    assert np.array_equal(found.mean_squares.astype(jnp.float32), [0.25, 1.0])


def test_no_losses_at_all_are_a_uniform_law():
    law = tx.losses.ImportanceTimes(jnp.zeros(4))
    assert np.array_equal(jax.vmap(law.weight)(jnp.array([0.0, 0.3, 1.0])), np.ones(3))
    times = law(2000, jnp.float64, key=KEY)
    assert abs(float(times.mean()) - 0.5) < 4 / np.sqrt(12 * 2000)


def test_losses_that_are_not_finite_are_not_remembered():
    """Bins of halves: only 3 and 4 count, in the first."""
    law = tx.losses.ImportanceTimes(jnp.ones(2))
    t = jnp.array([0.1, 0.2, 0.3, 0.7, 0.8, -0.5, 1.5, jnp.nan])
    losses = jnp.array([3.0, 4.0, jnp.nan, jnp.inf, 1e200, 7.0, 7.0, 7.0])
    found = law.updated(t, losses, rate=0.5)
    assert np.array_equal(found.mean_squares, [0.5 + 0.5 * 12.5, 1.0])


def test_traced_nonsense_is_nan():
    def drawn(law):
        return law(5, jnp.float64, key=KEY)

    @jax.jit
    def laws(bad):
        return jnp.stack(
            [
                drawn(tx.losses.ImportanceTimes(jnp.ones(3), bad)),
                drawn(tx.losses.ImportanceTimes(jnp.ones(3).at[1].set(bad), 0.5)),
                drawn(tx.losses.LogitNormalTimes(0.0, bad)),
                drawn(tx.losses.BetaTimes(bad, 1.0)),
                jnp.full(5, LAWS["importance"].density(bad)),
                LAWS["importance"].updated(jnp.ones(5), jnp.ones(5), rate=bad).mean_squares[2:]
                + jnp.zeros(5),
            ]
        )

    for bad in (-1.0, jnp.nan, 2.5):
        found = np.isnan(np.asarray(laws(jnp.asarray(bad)))).all(axis=1)
        expected = [True] * 6
        if bad == 2.5:
            expected[1:4] = [False] * 3
        assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tx.losses.ImportanceTimes(jnp.ones(3), 2.5), "`uniform_share` is 2.5; give a"),
        (lambda: tx.losses.LogitNormalTimes(np.nan), "`mean` is nan"),
        (lambda: tx.losses.LogitNormalTimes(0.0, np.inf), "`deviation` is inf"),
        (lambda: tx.losses.BetaTimes(np.inf, 1.0), "`a` is inf"),
        (lambda: tx.losses.uniform_times(3, jnp.int32, key=KEY), "`dtype` is int32"),
        (
            lambda: tx.losses.flow_matching(
                field, PATH, X0, X1, key=KEY, weight=lambda t: jnp.ones(3)
            ),
            r"`weight` returns shape \(3,\); return one number",
        ),
        (
            lambda: tx.losses.flow_matching(
                field, PATH, X0, X1, key=KEY, times=lambda n, d, *, key: jnp.ones((n, 1), d)
            ),
            r"`times` returns shape \(500, 1\); return one time for each of 500 examples",
        ),
        (
            lambda: tx.losses.noise_matching(field, PATH, X0, X1, key=KEY, source_scale=-1.0),
            "`source_scale` is -1.0",
        ),
        (
            lambda: tx.losses.drop_labels(
                jnp.zeros(3, bool), null_label=3, probability=0.5, key=KEY
            ),
            "`labels` has dtype bool; ",
        ),
        (
            lambda: tx.losses.drop_labels(
                jnp.zeros(3, jnp.uint8), null_label=256, probability=0.5, key=KEY
            ),
            "`null_label` is 256, beyond 0 to 255; give labels of a wider dtype than uint8",
        ),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
