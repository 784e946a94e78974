"""Free energies from populations: the first-order condition of JKO steps."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from transportx import _checks, ot
from transportx.gradient_flows import AbstractFunctional
from transportx.learned_energies._displacements import transport_displacements
from transportx.learned_energies._equations import Unknowns, pooled_noise
from transportx.learned_energies._fit import EnergyFit, as_fit
from transportx.learned_energies._least_squares import least_squares
from transportx.learned_energies._snapshots import Populations, as_snapshots

Features = Callable[[Array], Array]


@_checks.gate
def fit_first_order(
    snapshots: Populations,
    times: Float[Array, " k"],
    features: Features,
    *,
    epsilon: ScalarLike,
    at: ScalarLike = 0.5,
    terms: Sequence[AbstractFunctional] = (),
    entropy: bool = True,
    tests: Features | None = None,
    threshold: ScalarLike = 0.0,
    ridge: ScalarLike = 1e-6,
    solver: ot.AbstractSolver = ot.Newton(),
) -> EnergyFit:
    r"""Learn the free energy of populations from the transport between them.

    $E\,\nabla\psi\cdot(v + \nabla\delta F) = T\,E\,\Delta\psi$ for all tests, where v are
    `transport_displacements`: the weak form of JKO's first-order condition, linear in the
    coefficients. Against `fit_weak_form` it needs two plans a step, and errs by the length of
    the steps; its velocities also serve `fit_network`.

    Args:
        snapshots: As in `fit_weak_form`.
        times: Rising.
        features: As in `fit_weak_form`.
        epsilon: As in `transport_displacements`.
        at: As in `transport_displacements`.
        terms: As in `fit_weak_form`.
        entropy: As in `fit_weak_form`.
        tests: As in `fit_weak_form`.
        threshold: As in `fit_weak_form`.
        ridge: As in `fit_weak_form`.
        solver: Of the plans.

    Returns:
        As `fit_weak_form`; NOT_TRANSPORTED where a plan did not converge.

    Raises:
        ValueError: As `fit_weak_form`.

    Differentiation:
        As `fit_weak_form`, through the plans.

    References:
        Terpin, Lanzetti, Gadea and Dorfler, Learning diffusion at lightspeed, 2024.
    """
    _checks.not_negative("threshold", threshold)
    _checks.positive("ridge", ridge)
    given = as_snapshots(snapshots, times)
    unknowns = Unknowns(features, tuple(terms), entropy, features if tests is None else tests)
    moved = transport_displacements(snapshots, times, epsilon=epsilon, at=at, solver=solver)

    def describe(step):
        x, velocities, weights, tau = step
        slopes, laplacians = unknowns.derivatives(x)
        change = jnp.einsum("n,nad,nd->a", weights, slopes, velocities, precision="highest")
        return tau * change, tau * unknowns.rates(slopes, laplacians, x, weights)

    steps = *moved[:3], jnp.diff(given.times)
    changes, rates = jax.lax.map(describe, steps)
    noise = pooled_noise(given, jax.lax.map(jax.vmap(unknowns.tests), given.x))
    # A change is the difference of two means.
    unit = jnp.sqrt(1 / (1 / given.counts[1:] + 1 / given.counts[:-1]))[:, None, None]
    matrix, values = noise.whiten(rates * unit), noise.whiten(changes[:, :, None] * unit)[:, 0]
    solved = least_squares(matrix, values, 0, entropy, ridge, threshold)
    return as_fit(solved, unknowns, jnp.all(moved.converged))
