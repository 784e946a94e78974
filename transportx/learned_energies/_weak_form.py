"""Free energies from populations: the weak form of their equation, by least squares."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from transportx import _checks
from transportx.gradient_flows import AbstractFunctional
from transportx.learned_energies._equations import Unknowns, pooled_noise
from transportx.learned_energies._fit import EnergyFit, as_fit
from transportx.learned_energies._least_squares import all_coefficients, least_squares
from transportx.learned_energies._snapshots import (
    Populations,
    Snapshots,
    as_snapshots,
    running_integrals,
)

Features = Callable[[Array], Array]


@_checks.gate
def fit_weak_form(
    snapshots: Populations,
    times: Float[Array, " k"],
    features: Features,
    *,
    terms: Sequence[AbstractFunctional] = (),
    entropy: bool = True,
    tests: Features | None = None,
    threshold: ScalarLike = 0.0,
    ridge: ScalarLike = 1e-6,
) -> EnergyFit:
    r"""Learn the free energy that unpaired populations descend, from their moments.

    Along the flow of $F = \int V\,d\rho + \sum_l c_l F_l + T\int\rho\log\rho$ each test function
    obeys
    $$\frac{d}{dt} E\,\psi = -E\,\nabla\psi\cdot\nabla\frac{\delta}{\delta\rho}\Bigl(\int V +
    \sum_l c_l F_l\Bigr) + T\,E\,\Delta\psi,$$
    linear in the coefficients of $V = \sum_k c_k\phi_k$, of the terms and T. It is integrated
    over time by cubics through four populations and solved by least squares, weighted by the
    covariance of the moments. No density is estimated and no transport solved. Where the
    populations change much between two times the cubics err, by which coefficients may move
    more than `misfit` shows: fit every other population too, and compare. Noise in the rates
    draws coefficients towards zero, by less than a deviation for thousands of points.

    Args:
        snapshots: Populations of any sizes, two or more: an array (k, n, d), or a sequence of
            arrays (n_j, d). No point is followed; the noise assumed is that of independent draws.
        times: Rising times, shape (k,), spaced closer where populations change faster.
        features: Dictionary of potentials, `features(x) -> (p,)` of one point, such as
            `Monomials`.
        terms: Functionals with a Wasserstein gradient, such as an `Interaction` for each kernel.
        entropy: Whether a temperature is fitted; without, it is zero.
        tests: Test functions, twice differentiable; the features by default.
        threshold: In standard errors: while the weakest coefficient is below, it is set to zero
            and the rest fitted again. Zero keeps all; 3 to 4 finds a few in a large dictionary.
            A temperature below zero is always dropped.
        ridge: Number added to the diagonal of the Gram matrix, which is one; positive.

    Returns:
        The energy with status, rank, condition and misfit.

    Raises:
        ValueError: Populations, times or a number do not fit, or there are fewer equations,
            (k - 1) times the tests, than unknowns.

    Differentiation:
        Forward and reverse, with respect to snapshots, times and parameters of features, terms and
        tests; the choice of dropped coefficients counts as given.

    Example:
        >>> le = tx.learned_energies
        >>> x = jnp.array([[-1.0], [0.5], [2.0], [3.0]])
        >>> times = jnp.array([0.0, 0.1, 0.2, 0.3])
        >>> snapshots = x * jnp.exp(-times)[:, None, None]  # the flow of V(x) = x^2 / 2
        >>> fit = le.fit_weak_form(snapshots, times, le.Monomials(1, 2), entropy=False)
        >>> bool(fit.determined), round(float(fit.energy.potential.coefficients[1]), 2)
        (True, 0.5)

    References:
        Messenger and Bortz, Learning mean-field equations from particle data using WSINDy,
        2022.
    """
    _check_numbers(threshold, ridge)
    given = as_snapshots(snapshots, times)
    tests = features if tests is None else tests
    unknowns = Unknowns(features, tuple(terms), entropy, tests)
    equations = _integrated(given, unknowns)
    matrix, values = equations[:2]
    found = all_coefficients(matrix, values, ridge)
    covariance = _covariance(given, unknowns, equations, found)
    num_tests = values.size // given.times.size
    solved = least_squares(
        matrix,
        values,
        lost=num_tests,
        last_positive=entropy,
        ridge=ridge,
        threshold=threshold,
        covariance=covariance,
    )
    return as_fit(solved, unknowns)


class _Equations(NamedTuple):
    """Equations in units of their noise if rates had none, and what an error of a moment does.

    Attributes:
        matrix: One column per unknown.
        values: One per test and time.
        of_moments: Derivative of the values by the moments of each population.
        of_rates: Derivative of the matrix times coefficients by the rates of each population.
    """

    matrix: Float[Array, "r u"]
    values: Float[Array, " r"]
    of_moments: Float[Array, "r k a"]
    of_rates: Float[Array, "r k a"]


def _integrated(given: Snapshots, unknowns: Unknowns) -> _Equations:
    """Moments of all times, less what is constant, and integrals of their rates."""

    def describe(population):
        x, weights = population
        values = jax.vmap(unknowns.tests)(x)
        return values, weights @ values, unknowns.rates(*unknowns.derivatives(x), x, weights)

    values, moments, rates = jax.lax.map(describe, (given.x, given.weights))
    integrals = running_integrals(given.times)
    changes = jnp.einsum("ji,iau->jau", integrals, rates, precision="highest")
    noise, share = pooled_noise(given, values), given.counts / jnp.sum(given.counts)

    def scaled(moments):
        # What a test starts from is unknown, and fitted by its mean.
        moments = moments - jnp.einsum("j,jac->ac", share, moments)[None, :, :]
        return noise.whiten(moments * jnp.sqrt(given.counts)[:, None, None])

    def response(to: Float[Array, "k k"]):
        """Of all equations to a change of each moment or rate, which enter by `to`."""
        tests = jnp.eye(moments.shape[1], dtype=to.dtype)
        entering = jnp.einsum("ji,ab->jaib", to, tests)
        return scaled(entering.reshape(*moments.shape, -1)).reshape(-1, *moments.shape)

    each = jnp.eye(given.times.size, dtype=moments.dtype)
    values = scaled(moments[:, :, None])[:, 0]
    return _Equations(scaled(changes), values, response(each), response(integrals))


def _covariance(
    given: Snapshots,
    unknowns: Unknowns,
    equations: _Equations,
    coefficients: Float[Array, " u"],
) -> Float[Array, "r r"]:
    """Covariance of the errors of the equations, by the influence of each point on all of them.

    A point errs in the moments of its population, and in the rates there, which enter the
    equations of all later times: an error that does not average out over the times.
    """

    def added(population):
        x, weights, of_moments, of_rates = population
        tests, derivatives = jax.vmap(unknowns.tests)(x), unknowns.derivatives(x)

        def rates(weights):
            return unknowns.rates(*derivatives, x, weights) @ coefficients

        influence = tests @ of_moments.T - jax.jacrev(rates)(weights).T @ of_rates.T
        influence = influence - (weights @ influence)[None, :]
        shares = weights[:, None] * influence
        return jnp.matmul(shares.T, shares, precision="highest")

    def along(response):
        return jnp.moveaxis(response, 1, 0)

    each = given.x, given.weights, along(equations.of_moments), along(equations.of_rates)
    return jnp.sum(jax.lax.map(added, each), axis=0)


def _check_numbers(threshold, ridge) -> None:
    _checks.not_negative("threshold", threshold)
    _checks.positive("ridge", ridge)
