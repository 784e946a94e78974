"""Free energies from populations: the first-order condition of JKO steps."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, ScalarLike

from transportx import _checks, ot
from transportx.geometry import PointCloud
from transportx.gradient_flows._equations import Unknowns, pooled_noise
from transportx.gradient_flows._functional import AbstractFunctional
from transportx.gradient_flows._learned import EnergyFit, as_fit
from transportx.gradient_flows._least_squares import least_squares
from transportx.gradient_flows._snapshots import Populations, as_snapshots

Features = Callable[[Array], Array]


class Displacements(NamedTuple):
    """How optimal transport moves each population to the next, for all k - 1 steps.

    Attributes:
        x: Where the velocities are taken.
        velocities: Displacement over the time between the populations.
        weights: Of total one in each step; zero where a smaller population is filled up.
        converged: Whether every transport of a step met its tolerance.
    """

    x: Float[Array, "k n d"]
    velocities: Float[Array, "k n d"]
    weights: Float[Array, "k n"]
    converged: Bool[Array, " k"]


def transport_displacements(
    snapshots: Populations,
    times: Float[Array, " k"],
    *,
    epsilon: ScalarLike,
    at: ScalarLike = 0.5,
    solver: ot.AbstractSolver = ot.Newton(),
) -> Displacements:
    r"""Velocities between successive populations, by entropic transport.

    Each point y of the later population came from $S(y)$, the barycentric map of the plan to the
    earlier one, less the bias $S'(y) - y$ of the plan to itself.

    Args:
        snapshots: Populations of any sizes, two or more.
        times: Rising.
        epsilon: Of the plans, in squared units of the points; a hundredth of their variance.
        at: Where on its way a velocity belongs: 1 is the later population, where the
            first-order condition of a JKO step $(y - S(y))/\tau = -\nabla\,\delta F(y)$ holds,
            with an error of first order in the time step; 1/2, midway, has second.
        solver: Of the plans.

    Raises:
        ValueError: Populations, times or a number do not fit.

    Differentiation:
        As `ot.solve`.
    """
    _checks.positive("epsilon", epsilon)
    given = as_snapshots(snapshots, times)
    at = jnp.asarray(at, given.x.dtype)

    def step(pair):
        earlier, a, later, b, tau = pair
        back = ot.solve(PointCloud(later, earlier), b, a, epsilon=epsilon, solver=solver)
        own = ot.solve_symmetric(PointCloud(later, later), b, epsilon=epsilon, solver=solver)
        moved = own.barycentric_map() - back.barycentric_map()
        return later - (1 - at) * moved, moved / tau, back.converged & own.converged

    x, weights = given.x, given.weights
    pairs = x[:-1], weights[:-1], x[1:], weights[1:], jnp.diff(given.times)
    middles, velocities, converged = jax.lax.map(step, pairs)
    return Displacements(middles, velocities, weights[1:], converged)


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
