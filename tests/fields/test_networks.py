"""Learnt fields: what conditions them, and which pixel answers for which."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import transportx as tx
from tests.tables import in_float64

T = jnp.array(0.4)
SHAPE, PATCH = (4, 6, 2), 2


@pytest.fixture(scope="module")
def dit():
    # Compiled: one by one, the operations of a new network take seconds.
    @eqx.filter_jit
    def make():
        return tx.fields.DiT(
            SHAPE, patch=PATCH, width=16, depth=2, heads=4, num_labels=3, key=jr.key(40)
        )

    return in_float64(make())


@pytest.fixture(scope="module")
def trained(dit):
    """All parameters moved away from the initialisation, as training would."""
    arrays, static = eqx.partition(dit, eqx.is_inexact_array)
    flat, unravel = ravel_pytree(arrays)
    return eqx.combine(unravel(flat + 0.3 * jr.normal(jr.key(41), flat.shape)), static)


def image(seed):
    return jr.normal(jr.key(seed), SHAPE)


def swap_patches(x):
    """Exchange the first two patches of the first row."""
    return x.at[:PATCH, : 2 * PATCH].set(jnp.roll(x[:PATCH, : 2 * PATCH], PATCH, axis=1))


def influence(field, label=1):
    """Whether output pixel p depends on input pixel q, shape (h, w, h, w)."""
    jacobian = jax.jit(jax.jacfwd(lambda x: field(T, x, jnp.array(label))))(image(42))
    return np.asarray(jnp.max(jnp.abs(jacobian), axis=(2, 5)) > 0)


def patch_of(row, column):
    return row // PATCH, column // PATCH


def test_mlp_follows_its_condition_and_time():
    field = in_float64(tx.fields.MLP(2, 8, 2, condition_dim=3, num_frequencies=2, key=jr.key(0)))
    x, condition = jnp.ones(2), jnp.arange(3.0)
    rate = jax.jacfwd(lambda c: field(T, x, c))(condition)
    assert jnp.linalg.matrix_rank(rate) == 2
    assert jnp.all(jax.jacfwd(lambda t: field(t, x, condition))(T) != 0)


def test_mlp_without_condition_ignores_args():
    field = in_float64(tx.fields.MLP(2, 8, 1, key=jr.key(0)))
    assert jnp.array_equal(field(T, jnp.ones(2), jnp.arange(7.0)), field(T, jnp.ones(2)))


def test_mlp_depth_counts_hidden_layers():
    """Squaring in each hidden layer makes a polynomial of degree 2^depth in every input."""
    for depth in (1, 2, 3):
        field = tx.fields.MLP(1, 5, depth, activation=jnp.square, key=jr.key(0))
        values = jax.vmap(lambda x: in_float64(field)(T, x))(jnp.linspace(-1, 1, 20)[:, None])  # noqa: B023
        coefficients = np.polynomial.chebyshev.chebfit(np.linspace(-1, 1, 20), values[:, 0], 16)
        assert np.flatnonzero(np.abs(coefficients) > 1e-10).max() == 2**depth


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_mlp_activates_by_selu_to_a_few_roundings(dtype):
    """Against NumPy's `expm1`, near zero and where tanh saturates too; and its derivatives."""
    sizes = np.logspace(-30, 2, 500)
    x = jnp.asarray(np.concatenate([-sizes, [0.0], sizes]), dtype)
    selu = tx.fields.MLP(1, 1, 1, key=jr.key(0)).activation
    scale, slope = 1.0507009873554805, 1.7580993408473766
    # One-sided at the kink, from below.
    below, exact = np.asarray(x <= 0), np.asarray(x, np.float64)
    value = np.where(below, slope * np.expm1(np.minimum(exact, 0)), scale * exact)
    rate = np.where(below, slope * np.exp(np.minimum(exact, 0)), scale)
    curvature = np.where(below, rate, 0)
    eps = float(jnp.finfo(dtype).eps)
    first, second = jax.grad(selu), jax.grad(jax.grad(selu))
    assert selu(x).dtype == dtype
    np.testing.assert_allclose(selu(x), value, rtol=8 * eps)
    np.testing.assert_allclose(jax.vmap(first)(x), rate, atol=8 * eps)
    np.testing.assert_allclose(jax.vmap(second)(x), curvature, atol=8 * eps)


def test_networks_differ_between_keys_and_repeat_for_one():
    first, again, other = (tx.fields.MLP(2, 8, 1, key=jr.key(k)) for k in (0, 0, 1))
    assert eqx.tree_equal(first, again)
    assert not jnp.allclose(first.layers[0].weight, other.layers[0].weight)


def test_dit_starts_as_the_zero_field(dit):
    assert jnp.array_equal(dit(T, image(43), jnp.array(1)), jnp.zeros(SHAPE))


def test_dit_at_zero_still_learns(dit):
    """The zero field must not be a stationary point."""

    def loss(field):
        return jnp.sum((field(T, image(43), jnp.array(1)) - 1) ** 2)

    assert jnp.any(eqx.filter_grad(loss)(dit).project.weight != 0)


def test_dit_follows_label_time_and_the_absence_of_a_label(trained):
    call = eqx.filter_jit(trained)
    outputs = [call(T, image(43), jnp.array(label)) for label in range(4)]
    outputs.append(call(T + 0.1, image(43), jnp.array(0)))
    for i, first in enumerate(outputs):
        for second in outputs[i + 1 :]:
            assert jnp.max(jnp.abs(first - second)) > 1e-3


def test_dit_without_labels_ignores_args():
    def outputs(x):
        field = tx.fields.DiT(SHAPE, patch=2, width=8, depth=1, heads=2, key=jr.key(0))
        field = eqx.tree_at(lambda f: f.project.weight, in_float64(field), jnp.ones((8, 8)))
        return field(T, x, jnp.array(2)), field(T, x)

    labelled, plain = jax.jit(outputs)(image(43))
    assert jnp.array_equal(labelled, plain)
    assert jnp.any(plain != 0)


def test_without_attention_each_patch_answers_for_its_own_pixels(dit, trained):
    """Blocks start as the identity, so a trained read-out sees one patch at a time."""
    field = eqx.tree_at(lambda f: f.project, dit, trained.project)
    mask = influence(field)
    for row, column, other_row, other_column in np.ndindex(mask.shape):
        same = patch_of(row, column) == patch_of(other_row, other_column)
        assert mask[row, column, other_row, other_column] == same


def test_attention_lets_every_patch_see_every_other(trained):
    assert influence(trained).all()


def test_patches_without_positions_are_a_set(trained):
    """Exchanging two patches exchanges their outputs, unless positions tell them apart."""
    placeless = eqx.tree_at(lambda f: f.positions, trained, jnp.zeros_like(trained.positions))
    for field, equal in ((placeless, True), (trained, False)):
        call = eqx.filter_jit(field)
        moved = call(T, swap_patches(image(44)), jnp.array(1))
        expected = swap_patches(call(T, image(44), jnp.array(1)))
        assert bool(jnp.allclose(moved, expected, atol=1e-12)) == equal


def test_compile_size_of_a_dit_does_not_grow_with_depth():
    def size(depth):
        def make_and_call(x):
            field = tx.fields.DiT(SHAPE, patch=2, width=8, depth=depth, heads=2, key=jr.key(0))
            return in_float64(field)(T, x)

        return len(str(jax.make_jaxpr(make_and_call)(jnp.zeros(SHAPE))).splitlines())

    assert size(2) == size(8)


def rebuilt(trained, dtype, **options):
    """The same parameters in a transformer with other options."""
    sizes = {"patch": PATCH, "width": 16, "depth": 2, "heads": 4, "num_labels": 3}
    make = eqx.Partial(tx.fields.DiT, SHAPE, **sizes, **options, key=jr.key(40))
    leaves = jax.tree.leaves(eqx.filter(trained, eqx.is_inexact_array))
    shapes = eqx.filter_eval_shape(make)
    shapes, rest = eqx.partition(shapes, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
    leaves = [leaf.astype(dtype) for leaf in leaves]
    return eqx.combine(jax.tree.unflatten(jax.tree.structure(shapes), leaves), rest)


def energy(field, x):
    """Half the squared velocities of two images, and the velocities."""
    t, labels = T.astype(x.dtype), jnp.array([1, 2])
    velocity = jax.vmap(field, (None, 0, 0))(t, x, labels)
    return jnp.sum(velocity**2) / 2, velocity


GRADIENT = eqx.filter_jit(eqx.filter_grad(energy, has_aux=True))


def flat(tree):
    return ravel_pytree(eqx.filter(tree, eqx.is_inexact_array))[0]


def test_bfloat16_rounds_factors_and_nothing_else(trained):
    x = jnp.stack([image(45), image(46)])
    gradient, velocity = GRADIENT(trained, x)
    single = x.astype(jnp.float32)
    rounded = rebuilt(trained, jnp.float32, bfloat16=True)
    found_gradient, found = GRADIENT(rounded, single)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves((found, found_gradient))}
    assert dtypes == {jnp.dtype(jnp.float32)}
    # Half a unit of 8 bits a factor: far above float32's rounding, and a few of them in all.
    for one, other in ((found, velocity), (flat(found_gradient), flat(gradient))):
        error = np.linalg.norm(np.asarray(one) - np.asarray(other)) / np.linalg.norm(other)
        assert 2.0**-12 < error < 2.0**-6
    with pytest.raises(ValueError, match="`x` has dtype float64; `bfloat16` needs float32"):
        rounded(T, image(45), jnp.array(1))


def test_products_of_tokens_and_their_derivatives_are_all_in_bfloat16(trained):
    """Accelerators then multiply in bfloat16; the condition's layers alone do not."""
    field = rebuilt(trained, jnp.float32, bfloat16=True)
    x = jnp.zeros((2, *SHAPE), jnp.float32)
    jaxpr, _, _ = eqx.filter_make_jaxpr(eqx.filter_grad(energy, has_aux=True))(field, x)
    text = str(jaxpr)
    # Embedding, six of a block and the read-out have two derivatives each, save for that of
    # the images; two of time and two modulations have two, save for that of time's features.
    assert text.count("precision=BF16_BF16_F32") == 3 * 8 - 1
    assert text.count("dot_general[") == 3 * 12 - 2


def test_what_is_kept_changes_memory_and_no_derivative(trained):
    x = jnp.stack([image(45), image(46)])

    def residuals(field):
        """Numbers that wait for the derivatives."""
        parameters, rest = eqx.partition(field, eqx.is_inexact_array)

        def pull(parameters):
            return jax.vjp(lambda p: energy(eqx.combine(p, rest), x)[0], parameters)[1]

        return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(pull, parameters)))

    policies = jax.checkpoint_policies
    everything, products, nothing = (
        rebuilt(trained, x.dtype, keep=policy)
        for policy in (
            policies.everything_saveable,
            policies.dots_with_no_batch_dims_saveable,
            policies.nothing_saveable,
        )
    )
    assert residuals(everything) > residuals(products) > residuals(nothing)
    expected = flat(GRADIENT(everything, x)[0])
    for field in (products, nothing):
        np.testing.assert_allclose(flat(GRADIENT(field, x)[0]), expected, rtol=1e-12, atol=1e-12)
