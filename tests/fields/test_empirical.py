"""Fields of a data set: the law at the end, and what the source has to do with gradients."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.stats

import transportx as tx

WIDTH = 0.1
PATH = tx.interpolants.Linear(WIDTH)
LINE = jnp.array([[-1.3], [-0.2], [0.1], [1.7]])
PLANE = jr.normal(jr.key(130), (7, 2))
LAWS = {"gaussian": scipy.stats.norm, "logistic": scipy.stats.logistic, "student": scipy.stats.t(3)}


def normal(x):
    return -jnp.sum(x**2) / 2


def logistic(x):
    return jnp.sum(-x - 2 * jax.nn.softplus(-x))


def student(x):
    return -2 * jnp.sum(jnp.log1p(x**2 / 3))


DENSITIES = {"gaussian": normal, "logistic": logistic, "student": student}


def test_from_a_gaussian_it_is_the_empirical_field():
    x = jr.normal(jr.key(131), (2,))
    general = tx.fields.SourcedEmpiricalField(PLANE, normal, PATH)
    for t in (0.0, 0.4, 1.0):
        t = jnp.asarray(t)
        expected = tx.fields.EmpiricalField(PLANE, PATH)(t, x)
        assert jnp.allclose(general(t, x), expected, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", DENSITIES)
def test_the_law_at_the_end_is_the_kernel_density_estimate(name):
    """In one dimension a flow keeps ranks: F_1(T(x)) = F_0(x), both from scipy."""
    field = tx.fields.SourcedEmpiricalField(LINE, DENSITIES[name], PATH)
    x0 = jnp.linspace(-2.5, 2.5, 21)[:, None]
    x1 = np.asarray(
        tx.sampling.flow(
            field, x0, steps=tx.evolution.AdaptiveSteps(1e-11, 1e-11, max_steps=50_000)
        )
    )
    law = LAWS[name]
    smoothed = np.mean(law.cdf((x1 - np.asarray(LINE).T) / WIDTH), axis=1)
    assert np.allclose(smoothed, law.cdf(np.asarray(x0)[:, 0]), atol=1e-8)


@pytest.mark.slow
def test_it_memorises():
    """At a narrow end every particle is within a few widths of a data point."""
    field = tx.fields.EmpiricalField(PLANE, tx.interpolants.Linear(1e-3))
    x1 = tx.sampling.flow(
        field, jr.normal(jr.key(132), (50, 2)), steps=tx.evolution.AdaptiveSteps(1e-7, 1e-7)
    )
    nearest = jnp.min(tx.geometry.PointCloud(x1, PLANE).matrix(), axis=1)
    # The 50 largest of that many Gaussians of two dimensions are within five widths.
    assert jnp.max(jnp.sqrt(nearest)) < 5e-3


@pytest.mark.parametrize("name", DENSITIES)
def test_only_a_gaussian_source_makes_a_gradient(name):
    field = tx.fields.SourcedEmpiricalField(PLANE, DENSITIES[name], PATH)
    x = jnp.array([0.3, -0.4])
    found = [float(tx.fields.asymmetry(field, jnp.asarray(t), x)) for t in (0.2, 0.6)]
    if name == "gaussian":
        assert max(found) < 1e-12
    else:
        assert min(found) > 1e-4


def test_asymmetry_is_one_for_a_rotation_and_half_the_odd_share():
    turn = jnp.array([[0.0, 1.0], [-1.0, 0.0]])
    x, t = jnp.ones(2), jnp.array(0.5)
    assert np.isclose(float(tx.fields.asymmetry(lambda t, x, args: turn @ x, t, x)), 1)
    shear = jnp.array([[0.0, 1.0], [0.0, 0.0]])
    # Half symmetric, half odd: |J - J^T| = sqrt 2 and |J| = 1.
    assert np.isclose(
        float(tx.fields.asymmetry(lambda t, x, args: shear @ x, t, x)), np.sqrt(2) / 2
    )


def test_no_array_of_all_pairs_and_coordinates():
    """50,000 points, d = 64, batch 256: (b, n) scores are 51 MB, an (n, b, d) array 3.3 GB."""
    shapes = (
        jax.ShapeDtypeStruct((50_000, 64), jnp.float32),
        jax.ShapeDtypeStruct((256, 64), jnp.float32),
    )

    def velocities(data, x):
        field = tx.fields.EmpiricalField(data, PATH)
        return jax.vmap(lambda x: field(jnp.float32(0.7), x))(x)

    memory = jax.jit(velocities).lower(*shapes).compile().memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 6 * 256 * 50_000 * 4


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="`path`"):
        tx.fields.SourcedEmpiricalField(PLANE, normal, tx.interpolants.BrownianBridge(1.0))
    with pytest.raises(ValueError, match="`data`"):
        tx.fields.SourcedEmpiricalField(PLANE[:0], normal)
    with pytest.raises(ValueError, match="`x`"):
        tx.fields.SourcedEmpiricalField(PLANE, normal)(jnp.array(0.1), jnp.zeros(3))
