"""What every field keeps, the divergence, guidance, and refusals."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import transportx as tx
from tests import tables
from tests.helpers import check_derivatives


def away_from_zero(field):
    """The field with its parameters moved: a new DiT is zero, which would hide everything."""
    arrays, static = eqx.partition(field, eqx.is_inexact_array)
    flat, unravel = ravel_pytree(arrays)
    noise = 0.1 * jr.normal(jr.key(30), flat.shape)
    return eqx.combine(unravel(flat + noise), static)


CASES = {name: (field, jr.normal(jr.key(31), (3,)), None) for name, field in tables.FIELDS.items()}
CASES |= {
    name: (away_from_zero(field) if name == "dit" else field, x, args)
    for name, (field, x, args) in tables.CONDITIONED_FIELDS.items()
}
T = jnp.array(0.4)

every_field = pytest.mark.parametrize(("field", "x", "args"), CASES.values(), ids=CASES.keys())


def in_float32(tree):
    return jax.tree.map(
        lambda leaf: leaf.astype(jnp.float32) if eqx.is_inexact_array(leaf) else leaf, tree
    )


@every_field
def test_jit_changes_nothing(field, x, args):
    assert jnp.allclose(eqx.filter_jit(field)(T, x, args), field(T, x, args), atol=1e-12)


@every_field
def test_vmap_is_a_loop(field, x, args):
    points = jnp.stack([x, 2 * x, x - 1])
    times = jnp.array([0.2, 0.5, 0.8])
    labels = None if args is None else jnp.stack([args, args - 1, args + 1])
    batched = jax.jit(jax.vmap(lambda t, x, a: field(t, x, a)))(times, points, labels)
    alone = eqx.filter_jit(field)
    for i in range(3):
        label = None if labels is None else labels[i]
        assert jnp.allclose(batched[i], alone(times[i], points[i], label), atol=1e-12)


@every_field
def test_field_differentiates_in_time_and_point(field, x, args):
    # A small step: few of selu's kinks are crossed.
    check_derivatives(lambda t, x: field(t, x, args), T, x, step=1e-5)


@every_field
def test_field_differentiates_in_its_parameters(field, x, args):
    arrays, static = eqx.partition(field, eqx.is_inexact_array_like)
    arrays = jax.tree.map(jnp.asarray, arrays)
    # A small step keeps covariances positive and weights non-negative.
    check_derivatives(lambda a: eqx.combine(a, static)(T, x, args), arrays, step=1e-5)


@every_field
def test_float32_gives_the_float64_answer_without_promotion(field, x, args):
    single = eqx.filter_jit(in_float32(field))(jnp.float32(0.4), in_float32(x), args)
    assert single.dtype == jnp.float32
    double = field(T, x, args)
    assert jnp.allclose(single.astype(jnp.float64), double, atol=5e-5, rtol=5e-5)


@every_field
def test_divergence_is_the_trace_of_the_jacobian(field, x, args):
    jacobian = jax.jit(jax.jacrev(lambda y: field(T, y, args)))(x)
    trace = jnp.trace(jacobian.reshape(x.size, x.size))
    exact = jax.jit(lambda x: tx.fields.divergence(field, T, x, args))(x)
    assert jnp.isclose(exact, trace, atol=1e-10, rtol=1e-10)


@every_field
def test_hutchinson_averages_to_the_divergence(field, x, args):
    def estimate(key):
        return tx.fields.hutchinson_divergence(field, T, x, args, key=key)

    estimates = jax.jit(lambda keys: jax.lax.map(estimate, keys, batch_size=64))(
        jr.split(jr.key(32), 512)
    )
    error = jnp.mean(estimates) - tx.fields.divergence(field, T, x, args)
    # Rounding, for fields with a diagonal Jacobian, whose every estimate is exact.
    assert abs(error) <= 4 * jnp.std(estimates) / jnp.sqrt(512) + 1e-12


def test_hutchinson_has_its_documented_variance_and_averages_its_probes():
    matrix = jr.normal(jr.key(33), (4, 4))

    def estimates(num_probes):
        def one(key):
            return tx.fields.hutchinson_divergence(
                lambda t, x, args: matrix @ x, T, jnp.ones(4), key=key, num_probes=num_probes
            )

        return jax.vmap(one)(jr.split(jr.key(34), 20_000))

    symmetric = np.asarray(matrix + matrix.T) / 2
    variance = 2 * np.sum((symmetric - np.diag(np.diag(symmetric))) ** 2)
    # The variance of 20,000 estimates with normal-like tails is known to 1 per cent.
    assert np.isclose(float(jnp.var(estimates(1))), variance, rtol=0.05)
    assert np.isclose(float(jnp.var(estimates(5))), variance / 5, rtol=0.05)


def test_fourier_features_are_the_powers_of_one_rotation():
    t = jnp.array(0.37)
    features = np.asarray(tx.fields.fourier_features(t, 4))
    powers = np.exp(1j * np.pi * 0.37) ** np.arange(1, 5)
    expected = np.concatenate([[0.37], powers.real, powers.imag])
    assert np.allclose(np.sort(features), np.sort(expected), atol=1e-14)


def labelled(t, x, label):
    """A field whose label is easy to see: label 3 means none."""
    return jnp.array([[1.0, 2.0], [-4.0, 0.5], [3.0, 3.0], [10.0, 20.0]])[label] * x + t


@pytest.mark.parametrize(("strength", "weights"), [(0.0, (0, 1)), (1.0, (1, 0)), (2.0, (2, -1))])
def test_guidance_extrapolates_from_no_label_to_the_label(strength, weights):
    field = tx.fields.Guided(labelled, strength=strength, null_label=3)
    x, label = jnp.array([0.3, -0.7]), jnp.array(1)
    conditional, plain = labelled(T, x, label), labelled(T, x, jnp.array(3))
    expected = weights[0] * conditional + weights[1] * plain
    assert jnp.allclose(field(T, x, label), expected, atol=1e-14)


def test_guidance_scale_may_be_traced_and_differentiated():
    x, label = jnp.array([0.3, -0.7]), jnp.array(1)

    def guided(strength):
        return tx.fields.Guided(labelled, strength=strength, null_label=3)(T, x, label)

    check_derivatives(guided, jnp.array(1.7))
    assert guided(jnp.float32(1.7)).dtype == jnp.float64


def bad_mixture_coupling():
    mixture = tables.mixture(jr.key(3), [0.5, 0.5], 2)
    return tx.fields.MixtureField(mixture, mixture, coupling=jnp.ones((2, 3)) / 6)


def mixtures_of_two_dimensions():
    source, target = (tables.mixture(jr.key(3), [0.5, 0.5], dim) for dim in (2, 3))
    return tx.fields.MixtureField(source, target)


def gaussian_with_bad_cross():
    ends = (jnp.zeros(2), jnp.eye(2), jnp.zeros(2), jnp.eye(2))
    return tx.fields.GaussianField(*ends, cross=jnp.zeros((3, 3)))


def mlp(**changes):
    sizes = {"dim": 2, "width": 4, "depth": 1, "key": jr.key(0)} | changes
    return tx.fields.MLP(**sizes)


def dit(**changes):
    sizes = {"shape": (4, 6, 2), "patch": 2, "width": 8, "depth": 1, "heads": 2} | changes
    # Compiled: one by one, the operations of a new network take seconds.
    return eqx.filter_jit(lambda: tx.fields.DiT(**sizes, key=jr.key(0)))()


IMAGE = jnp.zeros((4, 6, 2))


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mlp(width=-4), "`width` is -4; give an integer of at least 1"),
        (lambda: mlp(depth=1.5), "`depth` is .*; give an integer"),
        (lambda: mlp()(T, jnp.zeros(3)), r"`x` has shape \(3,\); give one point of shape \(2,\)"),
        (lambda: mlp()(T, jnp.zeros((5, 2))), r"`x` has shape .*; give shape \(d,\), and batch"),
        (lambda: mlp(condition_dim=3)(T, jnp.zeros(2)), "`args` has shape None; give a vector"),
        (lambda: dit(patch=3), "`patch` is 3 .*; give a divisor of both sides"),
        (lambda: dit(heads=3), "`heads` is 3 for width 8; give a divisor"),
        (lambda: dit(shape=(4, 6, 0)), "`shape`.*; give"),
        (lambda: dit(shape=(4, 6)), "`shape`.*; give"),
        (lambda: dit(num_labels=2)(T, IMAGE), "`args` is None .*; give a label below 3"),
        (lambda: dit()(T, IMAGE[0]), r"`x` has shape .*; give shape \(h, w, c\)"),
        (
            lambda: tx.fields.EmpiricalField(jnp.zeros((4, 2)), source_scale=0),
            "`source_scale` is 0; give a posi",
        ),
        (lambda: tx.fields.EmpiricalField(jnp.zeros((0, 2))), "`data` has shape .*; give at least"),
        (
            lambda: tx.fields.EmpiricalField(jnp.zeros((4, 2)), weights=jnp.ones(3) / 3),
            r"`weights` has shape .*; give shape \(n,\)",
        ),
        (
            lambda: tx.fields.EmpiricalField(jnp.zeros((4, 2)))(T, jnp.zeros(3)),
            r"`x` has shape \(3,\); give one point of shape \(2,\)",
        ),
        (bad_mixture_coupling, r"`coupling` has shape \(2, 3\); give one weight per pair"),
        (mixtures_of_two_dimensions, "`target` has examples of shape .*; give examples of one"),
        (gaussian_with_bad_cross, r"`cross` has shape .*; give shape \(d, d\)"),
        (
            lambda: tables.FIELDS["gaussian"](T, jnp.zeros(2)),
            r"`x` has shape \(2,\) but `m0` has shape \(3,\); give both the same",
        ),
        (
            lambda: tables.FIELDS["mixture"](T, jnp.zeros(2)),
            r"`x` has shape \(2,\).*; give",
        ),
        (
            lambda: tx.fields.hutchinson_divergence(
                labelled, T, jnp.zeros(2), jnp.array(0), key=jr.key(0), num_probes=0
            ),
            "`num_probes` is 0; give an integer of at least 1",
        ),
        (
            lambda: tx.fields.divergence(lambda t, x, a: x, T, jnp.arange(3)),
            "`x` has dtype int64; convert it",
        ),
        (
            lambda: tx.fields.divergence(lambda t, x, a: x[:1], T, jnp.zeros(3)),
            r"`field` returns shape \(1,\) at a point of shape \(3,\); return dx/dt",
        ),
    ],
)
def test_bad_input_is_named_with_a_cure(call, message):
    with pytest.raises(ValueError, match=message):
        call()
