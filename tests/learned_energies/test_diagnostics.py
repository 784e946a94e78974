"""Diagnostics of paired updates: on updates that are gradients, and on some that are not."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.stats

import transportx.gradient_flows as gf
import transportx.learned_energies as le
from tests.helpers import check_derivatives, quick

X = jr.normal(jr.key(0), (40, 3))
ROTATION = jnp.asarray(scipy.stats.ortho_group.rvs(3, random_state=1))
TURN = jnp.array([[0.0, 1.0], [-1.0, 0.0]])


def bowl(x):
    return jnp.sum(jnp.arange(1.0, x.size + 1) * x**2) / 2 + jnp.sum(x) ** 4 / 8


def test_alignment_is_that_of_the_similarities_of_examples():
    y = jnp.column_stack([jnp.sin(X), X[:, :1] * X[:, 1:2]])
    centring = np.eye(40) - 1 / 40
    first, second = (centring @ np.asarray(z @ z.T) @ centring for z in (X, y))
    exact = np.sum(first * second) / np.sqrt(np.sum(first**2) * np.sum(second**2))
    assert jnp.allclose(quick(le.linear_cka)(X, y), exact, rtol=1e-12)


def test_a_rotated_scaled_and_moved_copy_is_the_same_to_it():
    assert jnp.allclose(quick(le.linear_cka)(X, 3 * X @ ROTATION + 1), 1, rtol=1e-12)


def test_layers_without_relation_align_by_chance_only():
    x, y = jr.normal(jr.key(1), (2, 5000, 4))
    # |X'Y|^2 has mean n d^2, |X'X| is n sqrt(d).
    assert quick(le.linear_cka)(x, y) < 5 * 4 / 5000


def test_a_flow_falls_along_minus_its_gradient():
    energy = gf.Potential(bowl)
    made = quick(lambda x: gf.flow(energy, x, t1=0.02, steps=40))(X)
    along = quick(lambda states: le.energy_along(energy, states))(made.x)
    assert jnp.allclose(along.energy, made.energy, rtol=1e-12)
    assert along.falls == 1
    assert jnp.all(along.alignment > 0.99)
    back = le.energy_along(energy, made.x[::-1])
    assert back.falls == 0
    assert jnp.all(back.alignment < -0.99)


def test_a_rotation_neither_raises_nor_aligns():
    states = jnp.stack([X[:, :2] @ jax.scipy.linalg.expm(1e-4 * k * TURN) for k in range(4)])
    along = le.energy_along(gf.Potential(lambda x: jnp.sum(x**2)), states)
    assert jnp.allclose(along.energy, along.energy[0], rtol=1e-12)
    assert jnp.all(jnp.abs(along.alignment) < 1e-3)


def test_asymmetry_of_an_update_is_that_of_its_jacobian_less_one():
    matrix = jr.normal(jr.key(2), (3, 3))
    exact = jnp.linalg.norm(matrix - matrix.T) / (2 * jnp.linalg.norm(matrix))
    found = quick(lambda x: le.update_asymmetry(lambda x: x + matrix @ x, x))(X[:4])
    assert jnp.allclose(found, exact, rtol=1e-12)
    step = quick(lambda x: le.update_asymmetry(lambda x: x - 0.1 * jax.grad(bowl)(x), x))(X[:4])
    assert jnp.all(step < 1e-12)
    turn = le.update_asymmetry(lambda x: x + TURN @ x, X[:4, :2])
    assert jnp.allclose(turn, 1, rtol=1e-12)


@pytest.fixture(scope="module")
def share():
    features = le.Monomials(2, 3)
    return quick(lambda x, updates: le.gradient_share(x, updates, features))


def test_gradients_are_told_from_turns_by_their_updates_alone(share):
    x = X[:, :2]
    slopes = jax.vmap(jax.grad(lambda x: x[0] ** 3 - x[0] * x[1] + x[1] ** 2))(x)
    for part in share(x, -slopes):
        assert jnp.allclose(part, 1, rtol=1e-9)
    # On a circle, all of whose points stand for each other, no gradient turns.
    angles = 2 * jnp.pi * jnp.arange(40.0) / 40
    circle = jnp.column_stack([jnp.cos(angles), jnp.sin(angles)])
    whole = jnp.concatenate([0.5 * circle[::2], circle[1::2]])
    turned = share(whole, whole @ TURN)
    assert jnp.allclose(turned.any, 1, rtol=1e-9)
    assert turned.gradient < 1e-12


def test_shares_are_those_of_least_squares(share):
    x, updates = X[:, :2], jnp.column_stack([X[:, 2], jnp.sin(3 * X[:, 0])])
    slopes = np.asarray(jax.vmap(jax.jacfwd(le.Monomials(2, 3)))(x))
    joint = np.concatenate([slopes[:, :, 0], slopes[:, :, 1]])
    u = np.concatenate(np.asarray(updates).T)
    left = u - joint @ np.linalg.lstsq(joint, u, rcond=None)[0]
    found = share(x, updates)
    assert jnp.allclose(found.gradient, 1 - left @ left / (u @ u), rtol=1e-9)
    # The slopes of cubics in one coordinate: all squares and less.
    x, y = np.asarray(x).T
    powers = np.stack([np.ones(40), x, y, x * x, x * y, y * y], axis=1)
    rest = np.asarray(updates)
    rest = rest - powers @ np.linalg.lstsq(powers, rest, rcond=None)[0]
    assert jnp.allclose(found.any, 1 - np.sum(rest**2) / (u @ u), rtol=1e-9)


def test_rates_by_scale_are_eigenvalues_and_blind_to_turns():
    centred = X - jnp.mean(X, axis=0)[None, :]
    root = jnp.linalg.inv(jnp.linalg.cholesky(centred.T @ centred / 40))
    x = centred @ root.T * jnp.array([[2.0, 1.0, 1.0]]) @ ROTATION.T
    stiff = ROTATION @ jnp.diag(jnp.array([0.1, 3.0, 3.0])) @ ROTATION.T
    turn = jnp.zeros((3, 3)).at[1:, 1:].set(TURN)
    turn = ROTATION @ turn @ ROTATION.T
    spectrum = quick(le.update_spectrum)
    calm, turned = spectrum(x, -x @ stiff), spectrum(x, -x @ stiff + x @ turn)
    for made in (calm, turned):
        assert jnp.allclose(made.variance, jnp.array([4.0, 1.0, 1.0]), rtol=1e-9)
        assert jnp.allclose(made.rate, jnp.array([0.1, 3.0, 3.0]), rtol=1e-9)
    assert jnp.allclose(calm.power, jnp.array([0.04, 9.0, 9.0]), rtol=1e-9)
    # The rotation is no gradient, and only the power knows.
    assert jnp.allclose(turned.power, jnp.array([0.04, 10.0, 10.0]), rtol=1e-9)
    given = le.update_spectrum(x, -x @ stiff, ROTATION)
    assert jnp.allclose(given.rate, calm.rate, rtol=1e-9)


def test_diagnostics_differentiate():
    def both(x):
        along = le.energy_along(gf.Potential(bowl), jnp.stack([x, 0.9 * x]))
        return le.linear_cka(x, jnp.sin(x)), along.energy, along.alignment

    check_derivatives(both, X[:6])


@pytest.mark.parametrize(
    ("named", "call"),
    [
        ("states", lambda: le.energy_along(gf.Potential(bowl), X)),
        ("states", lambda: le.energy_along(gf.Potential(bowl), X[None])),
        ("x", lambda: le.update_asymmetry(lambda x: x, X[0])),
        ("update", lambda: le.update_asymmetry(lambda x: x[:2], X)),
        ("updates", lambda: le.gradient_share(X, X[:, :2], le.Monomials(3, 2))),
        ("updates", lambda: le.update_spectrum(X, X[:5])),
        ("directions", lambda: le.update_spectrum(X, X, TURN)),
        ("y", lambda: le.linear_cka(X, X[:5])),
        ("degree", lambda: le.Monomials(2, 0)),
        ("bandwidth", lambda: le.Bumps(X, 0.0)),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_bad_input_is_refused_by_name(named, call):
    with pytest.raises(ValueError, match=f"`{named}"):
        call()


def test_monomials_are_all_products_of_powers():
    x = jnp.array([0.7, -1.3, 0.0])
    powers = le.Monomials(3, 3)
    exact = [np.prod(np.asarray(x) ** row) for row in powers.exponents]
    assert len({tuple(row) for row in powers.exponents}) == 19
    assert jnp.allclose(powers(x), jnp.array(exact), rtol=1e-14)
    check_derivatives(powers, x, order=2)


def test_bumps_are_gaussians_around_their_centres():
    bumps = le.Bumps(jnp.array([[0.0, 0.0], [1.0, 2.0]]), 0.5)
    assert jnp.allclose(bumps(jnp.array([1.0, 2.0])), jnp.array([jnp.exp(-10.0), 1.0]))
