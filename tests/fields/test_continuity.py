"""Fields of a curve of densities on a grid: closed forms, least energy, what all share."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.linalg
import scipy.stats

import transportx as tx
from tests.helpers import check_derivatives

LINE = tx.fields.Box((400,), (16.0,))
SQUARE = tx.fields.Box((24, 20), (12.0, 10.0))


def gaussian_curve(box, mean, covariance, mean_rate, covariance_rate):
    """A Gaussian's density in the cells and its rate, by forward-mode autodiff in time."""
    points = box.centres().reshape(-1, len(box.shape))

    def density(t):
        law = mean + t * mean_rate, covariance + t * covariance_rate
        logs = jax.vmap(tx.gaussians.log_density, (0, None, None))(points, *law)
        return jnp.exp(logs).reshape(box.shape)

    return jax.jvp(density, (0.0,), (1.0,))


def smooth_curve(box):
    """A density with no symmetry, far from zero, and a rate of total zero."""
    keys = jr.split(jr.key(120))
    density, rate = (box.solve_poisson(jr.normal(key, box.shape)) for key in keys)
    return jnp.exp(density / jnp.max(jnp.abs(density))), rate


def least_squares(box, density, rate):
    return tx.fields.least_squares(box, density, rate, rtol=1e-11)


def inner(box, density, one, other):
    return box.volume * sum(
        jnp.sum(w * a * b) for w, a, b in zip(box.on_faces(density), one, other, strict=True)
    )


def plus(one, other):
    return tuple(a + b for a, b in zip(one, other, strict=True))


def test_in_one_dimension_all_fields_coincide_with_the_cumulated_rate():
    density, rate = smooth_curve(LINE)
    rate = rate - jnp.mean(rate)
    cumulated = -jnp.cumsum(rate)[:-1] * LINE.volume / LINE.on_faces(density)[0]
    flux_gradient = tx.fields.dacorogna_moser(LINE, density, rate)[0]
    assert jnp.allclose(flux_gradient, cumulated, atol=1e-10)
    # Four hundred cells have a condition of about 1e5, which rounding is multiplied by.
    least = tx.fields.least_squares(LINE, density, rate, rtol=1e-9)[0]
    assert jnp.allclose(least, cumulated, atol=1e-6)


def test_a_moving_gaussian_on_the_line_has_its_affine_field():
    errors = []
    for size in (200, 400):
        box = tx.fields.Box((size,), (16.0,))
        one = jnp.ones((1, 1))
        density, rate = gaussian_curve(box, 0.3 * one[0], 1.4 * one, 0.7 * one[0], 0.5 * one)
        faces = (box.centres()[1:, 0] + box.centres()[:-1, 0]) / 2
        exact = 0.7 + 0.5 / (2 * 1.4) * (faces - 0.3)
        # Where there is mass: elsewhere a quotient of tiny numbers.
        seen = jnp.abs(faces) < 3
        found = tx.fields.dacorogna_moser(box, density, rate)[0]
        errors.append(float(jnp.max(jnp.abs(jnp.where(seen, found - exact, 0)))))
    assert np.isclose(np.log2(errors[0] / errors[1]), 2, atol=0.1)
    assert errors[1] < 2e-3


def test_the_least_field_of_a_gaussian_is_the_symmetric_solution_of_lyapunov():
    """A S + S A = S', by scipy, on the faces across the first axis; error of second order."""
    covariance = jnp.array([[1.0, 0.3], [0.3, 0.7]])
    growth = jnp.array([[0.4, -0.2], [-0.2, 0.1]])
    matrix = scipy.linalg.solve_continuous_lyapunov(np.asarray(covariance), np.asarray(growth))
    errors = []
    for size in (32, 64):
        box = tx.fields.Box((size, size), (12.0, 12.0))
        density, rate = gaussian_curve(box, jnp.zeros(2), covariance, jnp.zeros(2), growth)
        velocity = least_squares(box, density, rate)[0]
        faces = (box.centres()[1:] + box.centres()[:-1]) / 2
        weights = box.on_faces(density)[0]
        miss = velocity - faces @ matrix[0]
        errors.append(float(jnp.sum(weights * jnp.abs(miss)) / jnp.sum(weights)))
    assert np.isclose(np.log2(errors[0] / errors[1]), 2, atol=0.15)


@pytest.mark.parametrize("make", [tx.fields.dacorogna_moser, least_squares])
def test_fields_of_one_curve_solve_its_continuity_equation(make):
    density, rate = smooth_curve(SQUARE)
    found = tx.fields.diagnose_field(SQUARE, density, rate, make(SQUARE, density, rate))
    assert found.residual < 1e-8 * SQUARE.volume * jnp.sum(jnp.abs(rate))


def test_each_field_has_what_it_is_made_for():
    density, rate = smooth_curve(SQUARE)
    stream = jr.normal(jr.key(121), (23, 19))
    flux_gradient = tx.fields.dacorogna_moser(SQUARE, density, rate)
    least = least_squares(SQUARE, density, rate)
    swirl = tx.fields.flux_null(SQUARE, density, stream)
    swirled = plus(least, swirl)
    first, second, third = (
        tx.fields.diagnose_field(SQUARE, density, rate, v) for v in (flux_gradient, least, swirled)
    )
    assert first.flux_curl < 1e-12 < 1e-3 < first.curl
    assert second.curl < 1e-12 < 1e-3 < second.flux_curl
    assert second.energy < first.energy
    # The least field is orthogonal to every swirl: energies add.
    alone = inner(SQUARE, density, swirl, swirl)
    assert np.isclose(float(third.energy), float(second.energy + alone), rtol=1e-9)
    assert third.residual < 1e-8 * SQUARE.volume * jnp.sum(jnp.abs(rate))


def test_a_swirl_of_a_gaussian_is_a_rotation_of_its_score():
    """s = c rho gives v = c J grad log rho, which leaves every level set where it is."""
    box = tx.fields.Box((60, 60), (6.0, 6.0))
    points = box.centres()
    density = jnp.exp(-jnp.sum(points**2, axis=-1) / 2)
    corners = (points[1:, 1:] + points[:-1, :-1]) / 2
    stream = jnp.exp(-jnp.sum(corners**2, axis=-1) / 2)
    velocity = tx.fields.flux_null(box, density, stream)[0]
    faces = (points[1:] + points[:-1]) / 2
    # grad log rho = -x; J turns it, so that the first component is -x_2. Second order.
    assert jnp.allclose(velocity[:, 1:-1], -faces[:, 1:-1, 1], atol=0.03)
    assert (
        jnp.max(
            jnp.abs(
                box.divergence(
                    tuple(
                        w * v
                        for w, v in zip(
                            box.on_faces(density),
                            tx.fields.flux_null(box, density, stream),
                            strict=True,
                        )
                    )
                )
            )
        )
        < 1e-13
    )


def test_projection_keeps_gradients_and_takes_away_swirls():
    density, rate = smooth_curve(SQUARE)
    least = least_squares(SQUARE, density, rate)
    swirl = tx.fields.flux_null(SQUARE, density, jr.normal(jr.key(122), (23, 19)))
    for velocity in (least, plus(least, swirl)):
        projected = tx.fields.project_onto_gradients(SQUARE, density, velocity, rtol=1e-11)
        for one, other in zip(projected, least, strict=True):
            assert jnp.allclose(one, other, atol=1e-7)


def test_poisson_is_inverse_to_the_laplacian():
    source = jr.normal(jr.key(123), SQUARE.shape)
    potential = SQUARE.solve_poisson(source)
    laplacian = SQUARE.divergence(SQUARE.gradient(potential))
    assert jnp.allclose(laplacian, source - jnp.mean(source), atol=1e-12)
    assert abs(float(jnp.mean(potential))) < 1e-13


def test_upwind_steps_keep_mass_and_sign_and_follow_the_flow():
    """A Gaussian carried by its exact field; first order in space and time."""
    errors = []
    for size in (100, 200):
        box = tx.fields.Box((size,), (16.0,))
        x = box.centres()[:, 0]
        faces = (x[1:] + x[:-1]) / 2
        count = 2 * size

        def step(density, n, box=box, faces=faces, count=count):
            # x' = 1 - x / 2, whose flow takes N(0, 1) to N(2 (1 - e^-t/2), e^-t).
            velocity = (1 - faces / 2,)
            return tx.fields.upwind_step(box, density, velocity, 1.0 / count), density.min()

        start = jnp.asarray(scipy.stats.norm.pdf(np.asarray(x)))
        end, least = jax.lax.scan(step, start, length=count)
        assert np.isclose(float(jnp.sum(end)), float(jnp.sum(start)), rtol=1e-13)
        assert jnp.all(least >= 0)
        exact = scipy.stats.norm.pdf(np.asarray(x), 2 * (1 - np.exp(-0.5)), np.exp(-0.5))
        errors.append(float(box.volume * jnp.sum(jnp.abs(end - exact))))
    assert 0.8 < np.log2(errors[0] / errors[1]) < 1.2


def test_fields_differentiate_in_density_and_rate():
    box = tx.fields.Box((4, 5), (2.0, 3.0))
    density, rate = smooth_curve(box)
    for make in (tx.fields.dacorogna_moser, least_squares):
        check_derivatives(lambda d, r, make=make: make(box, d, r), density, rate)


def test_float32_solves_to_what_its_rounding_allows():
    density, rate = (part.astype(jnp.float32) for part in smooth_curve(SQUARE))
    single = tx.fields.least_squares(SQUARE, density, rate, rtol=1e-4)
    double = least_squares(SQUARE, *smooth_curve(SQUARE))
    for one, other in zip(single, double, strict=True):
        assert one.dtype == jnp.float32
        assert jnp.allclose(
            one.astype(jnp.float64), other, atol=2e-3 * float(jnp.max(jnp.abs(other)))
        )


def test_few_steps_of_conjugate_gradients_are_not_passed_off_as_an_answer():
    density, rate = smooth_curve(SQUARE)
    found = tx.fields.least_squares(SQUARE, density, rate, max_steps=2)
    assert all(jnp.all(jnp.isnan(v)) for v in found)


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (lambda: tx.fields.Box((4, 4, 4), (1.0, 1.0, 1.0)), "shape"),
        (lambda: tx.fields.Box((4, 4), (1.0,)), "shape"),
        (lambda: tx.fields.Box((4, 1), (1.0, 1.0)), "shape"),
        (lambda: tx.fields.Box((4,), (0.0,)), "lengths"),
        (lambda: tx.fields.dacorogna_moser(LINE, jnp.ones(3), jnp.ones(400)), "density"),
        (lambda: tx.fields.least_squares(LINE, jnp.ones(400), jnp.ones(3)), "rate"),
        (lambda: tx.fields.flux_null(LINE, jnp.ones(400), jnp.ones((2, 2))), "stream"),
        (lambda: tx.fields.flux_null(SQUARE, jnp.ones((24, 20)), jnp.ones((24, 20))), "stream"),
    ],
)
def test_bad_arguments_are_named(call, argument):
    with pytest.raises(ValueError, match=f"`{argument}`"):
        call()
