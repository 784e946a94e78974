"""Labels out of range, shapes that would broadcast, and fields of halves."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import transportx as tx
from tests import tables

DIT, IMAGE, _ = tables.CONDITIONED_FIELDS["dit"]
T = jnp.array(0.4)
X = jr.normal(jr.key(190), (3,))
DATA = jr.normal(jr.key(191), (5, 3))
PATH = tx.interpolants.Linear()


def still(t, x, args):
    return x


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint8, jnp.int64])
def test_labels_that_do_not_exist_are_nan_and_never_another_label(dtype):
    """Of 3 classes 0 to 3 are labels, 3 for none; at run time the others are not clamped."""
    labels = jnp.array([0, 1, 2, 3, 4, 7, 255], dtype)
    condition = jax.jit(jax.vmap(lambda label: DIT._condition(T, label)))(labels)
    assert np.array_equal(np.isnan(condition).any(axis=1), np.arange(7) > 3)
    assert np.isnan(condition[4:]).all()
    apart = np.linalg.norm(condition[:4, None] - condition[None, :4], axis=-1)
    assert np.all(apart[~np.eye(4, dtype=bool)] > 1e-3)
    if dtype != jnp.uint8:
        for label in (-1, -4):
            assert np.isnan(
                jax.jit(lambda label: DIT._condition(T, label))(jnp.asarray(label, dtype))
            ).all()


@pytest.mark.usefixtures("without_type_checks")
def test_guidance_by_labels_of_eight_bits():
    """A null label that they can hold is the one that the field sees."""

    def labelled(t, x, label):
        return x * label.astype(x.dtype)

    field = tx.fields.Guided(labelled, 2.0, null_label=255)
    found = field(T, X, jnp.array(3, jnp.uint8))
    np.testing.assert_allclose(found, X * (255 + 2 * (3 - 255)), rtol=1e-14)


NARROW = {
    name: tables.FIELDS[name]
    for name in ("mlp", "gaussian", "mixture", "empirical", "sourced_empirical", "velocity_from")
} | {"score_of": tables.FIELDS["score_of"], "energy_guided": tables.FIELDS["energy_guided"]}


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_fields_of_halves_are_computed_in_float32(dtype):
    """Fields, points and times rounded to a half: the answer of float32, rounded once."""

    def cast(tree, to):
        return jax.tree.map(
            lambda leaf: (
                leaf.astype(to)
                if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.floating)
                else leaf
            ),
            tree,
        )

    for name, field in NARROW.items():
        narrow = cast((field, T, X), dtype)
        found, expected = (
            jax.jit(lambda t, x, field=field: field(t, x))(t, x)
            for field, t, x in (narrow, cast(narrow, jnp.float32))
        )
        assert found.dtype == dtype
        # Of float32 too the last bit depends on how the program was fused.
        eps = float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(found.astype(jnp.float32), expected, rtol=eps, err_msg=name)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_an_image_network_of_halves_is_computed_in_float32(dtype):
    def cast(tree, to):
        return jax.tree.map(
            lambda leaf: leaf.astype(to) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf,
            tree,
        )

    arrays, static = tables.eqx.partition(DIT, tables.eqx.is_array)
    moved = jax.tree.map(lambda leaf: leaf + 0.1, arrays)
    narrow = cast((moved, T, IMAGE), dtype)
    found, expected = (
        tables.eqx.combine(arrays, static)(t, x, jnp.array(1))
        for arrays, t, x in (narrow, cast(narrow, jnp.float32))
    )
    assert found.dtype == dtype
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(found.astype(jnp.float32), expected, rtol=eps, atol=1e-4)


def test_divergence_of_a_half_is_summed_in_float32():
    """3,000 coordinates of slope one: in bfloat16 a running sum stops at 256."""
    x = jnp.ones(3000, jnp.bfloat16)
    found = tx.fields.hutchinson_divergence(still, T.astype(jnp.bfloat16), x, key=jr.key(0))
    assert found.dtype == jnp.bfloat16
    assert float(found) == float(jnp.asarray(3000, jnp.bfloat16))


BOX = tx.fields.Box((3, 4), (1.0, 1.0))
CELLS = jnp.ones((3, 4))
FACES = jnp.zeros((2, 4)), jnp.zeros((3, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DIT(T, IMAGE, jnp.array(4)), "`args` is 4; give a label from 0 to 3"),
        (lambda: DIT(T, IMAGE, jnp.array(-1)), "`args` is -1; give a label from 0 to 3"),
        (lambda: DIT(T, IMAGE, jnp.array(True)), "`args` has dtype bool; convert it to an integer"),
        (
            lambda: DIT(T, IMAGE, jnp.array(1.0)),
            "`args` has dtype float64; convert it to an integer",
        ),
        (
            lambda: tx.fields.Guided(still, 1.0, null_label=256)(T, X, jnp.array(0, jnp.uint8)),
            "`null_label` is 256, beyond 0 to 255",
        ),
        (
            lambda: tx.fields.Guided(still, 1.0, null_label=1)(T, X, jnp.array(True)),
            "`args` has dtype bool",
        ),
        (lambda: tx.fields.Guided(still, np.nan, null_label=1), "`strength` is nan"),
        (
            lambda: tx.fields.EmpiricalField(DATA, weights=jnp.ones((5, 1))),
            r"`weights` has shape \(5, 1\); give shape \(n,\)",
        ),
        (
            lambda: tx.fields.SourcedEmpiricalField(DATA, lambda x: -(x**2))(T, X),
            r"`source_log_density` returns shape \(3,\); return one number",
        ),
        (
            lambda: tx.fields.EnergyGuided(still, PATH, lambda x1, args: x1)(T, X),
            r"`energy` returns shape \(3,\); return one number",
        ),
        (
            lambda: tx.fields.ClassifierGuided(still, PATH, lambda t, x, args: x)(T, X),
            r"`log_likelihood` returns shape \(3,\); return one number",
        ),
        (
            lambda: tx.fields.EnergyGuided(still, PATH, lambda x1, args: x1, source_scale=0.0),
            "`source_scale` is 0.0",
        ),
        (
            lambda: tx.fields.ScoreOf(lambda t, x, args: x[:1], PATH)(T, X),
            r"`field` returns shape \(1,\) at a point of shape \(3,\)",
        ),
        (
            lambda: tx.fields.upwind_step(BOX, CELLS, (FACES[0][:1], FACES[1]), 0.1),
            r"`velocity` has shapes .*\(1, 4\).*give one number per inner face",
        ),
        (
            lambda: tx.fields.upwind_step(BOX, CELLS, FACES, jnp.ones((3, 4))),
            r"`duration` has .*shape \(3, 4\); give a number",
        ),
        (lambda: tx.fields.upwind_step(BOX, CELLS, FACES, -1.0), "`duration` is -1.0"),
        (
            lambda: tx.fields.diagnose_field(BOX, CELLS, CELLS, FACES[::-1]),
            "`velocity` has shapes",
        ),
        (
            lambda: tx.fields.least_squares(BOX, CELLS, CELLS, rtol=np.inf),
            "`rtol` is inf",
        ),
        (
            lambda: tx.fields.dacorogna_moser(BOX, CELLS.astype(jnp.bfloat16), CELLS),
            "`density` has dtype bfloat16; convert it to float32",
        ),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_traced_nonsense_is_nan():
    @jax.jit
    def poisoned(bad):
        return jnp.stack(
            [
                tx.fields.EmpiricalField(DATA, PATH, bad)(T, X)[0],
                tx.fields.EmpiricalField(DATA, weights=jnp.ones(5).at[2].set(bad))(T, X)[0],
                tx.fields.ObservationGuided(still, PATH, lambda x: x, X, bad)(T, X)[0],
                tx.fields.ObservationGuided(
                    still, PATH, lambda x: x, X, 0.1, variance=lambda t: bad * jnp.ones_like(t)
                )(T, X)[0],
                tx.fields.upwind_step(BOX, CELLS, FACES, bad)[0, 0],
            ]
        )

    for bad in (-1.0, np.nan):
        assert np.isnan(poisoned(jnp.asarray(bad))).all()
