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
    """Velocities of populations by optimal transport from each one to the next, for k - 1 steps.

    Attributes:
        x: Points to which the velocities belong, shape (k - 1, n, d).
        velocities: Displacement over the time between the populations, shape (k - 1, n, d).
        weights: Weights of the points, shape (k - 1, n), of total one in each step; zero where a
            smaller population is filled up.
        status: How the plans of each step ended, shape (k - 1,): `CONVERGED`, or the status of the
            plan that did not converge.

    Example:
        >>> x = jnp.array([[0.0], [1.0], [2.0]])
        >>> made = tx.learned_energies.transport_displacements(
        ...     jnp.stack([x, x + 0.5]), jnp.array([0.0, 1.0]), epsilon=0.05
        ... )
        >>> made.x.shape, made.converged.tolist()
        ((1, 3, 1), [True])
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
        snapshots: Populations of any sizes, two or more: an array (k, n, d), or a sequence of
            arrays (n_j, d).
        times: Rising times of the populations, shape (k,).
        epsilon: Regularisation of the plans, in squared units of the points; a hundredth of
            their variance, say.
        at: Place of a velocity on its way: 1 is the later population, where the
            first-order condition of a JKO step $(y - S(y))/\tau = -\nabla\,\delta F(y)$ holds,
            with an error of first order in the time step; 1/2, midway, has second order.
        solver: Solver of the plans.

    Raises:
        ValueError: Populations, times or a number do not fit.

    Differentiation:
        With respect to the points and epsilon, implicitly, as for `ot.solve`.

    Example:
        >>> x = jnp.array([[0.0], [1.0], [2.0]])
        >>> made = tx.learned_energies.transport_displacements(
        ...     jnp.stack([x, x + 0.5]), jnp.array([0.0, 0.5]), epsilon=0.05
        ... )
        >>> round(float(jnp.mean(made.velocities)), 1)
        1.0
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
    `fit_network`. The condition number of its equations is the square root of that of
    `fit_first_order`, so it bears large dictionaries, such as `Bumps`, with few points; it finds
    no temperature.

    Args:
        displacements: Velocities from `transport_displacements`. Where a population is left out,
            those of its neighbours pass over it.
        features: Dictionary of potentials, `features(x) -> (p,)` of one point, such as `Monomials`.
        terms: Functionals F_l with a Wasserstein gradient, such as an `Interaction` for each
            kernel; their coefficients are fitted.
        threshold: In standard errors, as if points erred independently: while the weakest
            coefficient is below, it is set to zero and the rest fitted again. Zero keeps all.
        ridge: Number added to the diagonal of the Gram matrix, which is one; positive. Larger
            ones shrink the velocities.

    Returns:
        The energy with status, rank, condition and misfit. The misfit is in units of the
        velocities: the root mean square, per coordinate, of the residual.

    Raises:
        ValueError: A number does not fit, or there are fewer coordinates of points than unknowns.

    Differentiation:
        Forward and reverse, with respect to the displacements and parameters of features and
        terms; the choice of dropped coefficients counts as given.

    Example:
        >>> le = tx.learned_energies
        >>> x = jnp.array([[-1.0], [0.5], [2.0], [3.0]])
        >>> times = jnp.array([0.0, 0.1, 0.2, 0.3])
        >>> snapshots = x * jnp.exp(-times)[:, None, None]  # the flow of V(x) = x^2 / 2
        >>> moved = le.transport_displacements(snapshots, times, epsilon=0.01)
        >>> fit = le.fit_displacements(moved, le.Monomials(1, 2))
        >>> bool(fit.determined), round(float(fit.energy.potential.coefficients[1]), 1)
        (True, 0.5)
    """
    _checks.not_negative("threshold", threshold)
    _checks.positive("ridge", ridge)
    x, velocities, weights, _ = displacements
    unknowns = Unknowns(features, tuple(terms), entropy=False, tests=features)
    forces = jax.lax.map(lambda step: unknowns.forces(*step), (x, weights))
    # Rows in units of the velocities, so that the misfit is.
    size = jnp.sqrt(weights * x.shape[1])[:, :, None]
    matrix = -jnp.moveaxis(forces * size[:, :, None], 2, 3).reshape(-1, forces.shape[2])
    values = (velocities * size).reshape(-1)
    solved = least_squares(matrix, values, ridge=ridge, threshold=threshold)
    return as_fit(solved, unknowns, transported=jnp.all(displacements.converged))
