"""Velocities between populations, by transport, and the energy that descends by them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, ScalarLike

from transportx import _checks, ot
from transportx._status import Status, judge
from transportx.geometry import PointCloud
from transportx.gradient_flows import AbstractFunctional
from transportx.learned_energies._equations import Unknowns
from transportx.learned_energies._fit import EnergyFit, as_fit
from transportx.learned_energies._least_squares import least_squares
from transportx.learned_energies._snapshots import Populations, as_snapshots

Features = Callable[[Array], Array]


class Displacements(NamedTuple):
    """How optimal transport moves each population to the next, for all k - 1 steps.

    Attributes:
        x: Where the velocities are taken.
        velocities: Displacement over the time between the populations.
        weights: Of total one in each step; zero where a smaller population is filled up.
        status: How the plans of each step ended, shape (k,): `CONVERGED`, or the status of the
            plan that did not converge.
    """

    x: Float[Array, "k n d"]
    velocities: Float[Array, "k n d"]
    weights: Float[Array, "k n"]
    status: Status

    @property
    def converged(self) -> Bool[Array, " k"]:
        """Whether both plans of each step met their tolerance."""
        return self.status == Status.CONVERGED


@_checks.gate
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
        return (
            later - (1 - at) * moved,
            moved / tau,
            judge((back.converged, own.status), otherwise=back.status),
        )

    x, weights = given.x, given.weights
    pairs = x[:-1], weights[:-1], x[1:], weights[1:], jnp.diff(given.times)
    middles, velocities, status = jax.lax.map(step, pairs)
    return Displacements(middles, velocities, weights[1:], status)


@_checks.gate
def fit_displacements(
    displacements: Displacements,
    features: Features,
    *,
    terms: Sequence[AbstractFunctional] = (),
    threshold: ScalarLike = 0.0,
    ridge: ScalarLike = 1e-6,
) -> EnergyFit:
    r"""Learn the free energy without entropy whose descent is nearest to given velocities.

    Minimises $E\,|v + \nabla\delta F(x)|^2$, in which every step counts alike: the linear form of
    `fit_network`. Its equations have the root of the condition of `fit_first_order`'s, so that it
    bears large dictionaries, such as `Bumps`, with few points; it knows no temperature.

    Args:
        displacements: Of `transport_displacements`. Where a population is left out, those of
            its neighbours pass over it.
        features: As in `fit_weak_form`.
        terms: As in `fit_weak_form`.
        threshold: As in `fit_weak_form`, as if points erred independently.
        ridge: As in `fit_weak_form`; larger ones shrink the velocities towards none.

    Returns:
        As `fit_first_order`, but with a misfit in units of the velocities: the root mean square
        of what no energy sought explains, of one coordinate.

    Raises:
        ValueError: A number does not fit, or there are fewer coordinates of points than unknowns.

    Differentiation:
        As `fit_weak_form`, in the displacements.
    """
    _checks.not_negative("threshold", threshold)
    _checks.positive("ridge", ridge)
    x, velocities, weights, _ = displacements
    unknowns = Unknowns(features, tuple(terms), False, features)
    forces = jax.lax.map(lambda step: unknowns.forces(*step), (x, weights))
    # Rows in units of the velocities, so that the misfit is.
    size = jnp.sqrt(weights * x.shape[1])[:, :, None]
    matrix = -jnp.moveaxis(forces * size[:, :, None], 2, 3).reshape(-1, forces.shape[2])
    solved = least_squares(matrix, (velocities * size).reshape(-1), 0, False, ridge, threshold)
    return as_fit(solved, unknowns, jnp.all(displacements.converged))
