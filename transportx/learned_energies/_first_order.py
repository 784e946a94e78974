"""Free energies from populations: the first-order condition of JKO steps."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from transportx import _checks
from transportx.gradient_flows import AbstractFunctional
from transportx.learned_energies._displacements import Displacements
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
    displacements: Displacements,
    terms: Sequence[AbstractFunctional] = (),
    entropy: bool = True,
    tests: Features | None = None,
    threshold: ScalarLike = 0.0,
    ridge: ScalarLike = 1e-6,
) -> EnergyFit:
    r"""Learn the free energy of populations from the first-order condition of JKO steps.

    $E\,\nabla\psi\cdot(v + \nabla\delta F) = T\,E\,\Delta\psi$ for all tests, where v are
    `transport_displacements`: the weak form of that condition, linear in the coefficients.
    Compared with `fit_weak_form` it needs the two plans per step of those velocities, and errs by
    the length of the steps.

    Args:
        snapshots: Populations of any sizes, two or more: an array (k, n, d), or a sequence of
            arrays (n_j, d). No point is followed from one to the next.
        times: Rising times of the populations, shape (k,).
        features: Dictionary of potentials, `features(x) -> (p,)` of one point, such as `Monomials`.
        displacements: Velocities between these populations, from
            `transport_displacements(snapshots, times, ...)`; they also serve `fit_network`.
        terms: Functionals F_l with a Wasserstein gradient, such as an `Interaction` for each
            kernel; their coefficients are fitted.
        entropy: Whether a temperature is fitted; without, it is zero.
        tests: Test functions `tests(x) -> (a,)`, twice differentiable; the features by default.
        threshold: In standard errors: while the weakest coefficient is below, it is set to zero
            and the rest fitted again. Zero keeps all.
        ridge: Number added to the diagonal of the Gram matrix, which is one; positive.

    Returns:
        The energy with status, rank, condition and misfit; its status is NOT_TRANSPORTED where a
        plan did not converge.

    Raises:
        ValueError: Populations, times or a number do not fit, or there are fewer equations,
            (k - 1) times the tests, than unknowns.

    Differentiation:
        Forward and reverse, through the plans, with respect to snapshots, times and parameters of
        features, terms and tests; the choice of dropped coefficients counts as given.

    Example:
        >>> le = tx.learned_energies
        >>> x = jnp.array([[-1.0], [0.5], [2.0], [3.0]])
        >>> times = jnp.array([0.0, 0.1, 0.2, 0.3])
        >>> snapshots = x * jnp.exp(-times)[:, None, None]  # the flow of V(x) = x^2 / 2
        >>> moved = le.transport_displacements(snapshots, times, epsilon=0.01)
        >>> fit = le.fit_first_order(
        ...     snapshots, times, le.Monomials(1, 2), displacements=moved, entropy=False
        ... )
        >>> bool(fit.determined), round(float(fit.energy.potential.coefficients[1]), 1)
        (True, 0.5)

    References:
        Terpin, Lanzetti, Gadea and Dorfler, Learning diffusion at lightspeed, 2024.
    """
    _checks.not_negative("threshold", threshold)
    _checks.positive("ridge", ridge)
    given = as_snapshots(snapshots, times)
    unknowns = Unknowns(features, tuple(terms), entropy, features if tests is None else tests)
    shape = given.x[1:].shape
    if displacements.x.shape != shape:
        problem = f"has points of shape {displacements.x.shape}, where the populations need {shape}"
        _checks.reject("displacements", problem, "give those of the same populations")

    def describe(step):
        x, velocities, weights, tau = step
        slopes, laplacians = unknowns.derivatives(x)
        change = jnp.einsum("n,nad,nd->a", weights, slopes, velocities, precision="highest")
        return tau * change, tau * unknowns.rates(slopes, laplacians, x, weights)

    steps = *displacements[:3], jnp.diff(given.times)
    changes, rates = jax.lax.map(describe, steps)
    noise = pooled_noise(given, jax.lax.map(jax.vmap(unknowns.tests), given.x))
    # A change is the difference of two means.
    unit = jnp.sqrt(1 / (1 / given.counts[1:] + 1 / given.counts[:-1]))[:, None, None]
    matrix, values = noise.whiten(rates * unit), noise.whiten(changes[:, :, None] * unit)[:, 0]
    solved = least_squares(matrix, values, last_positive=entropy, ridge=ridge, threshold=threshold)
    return as_fit(solved, unknowns, transported=jnp.all(displacements.converged))
