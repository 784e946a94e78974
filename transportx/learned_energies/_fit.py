"""The answer of a fit: a free energy, and whether the populations determine it."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, ScalarLike

from transportx import _checks
from transportx._status import Status, judge
from transportx.gradient_flows import AbstractFunctional, FunctionalSum, Potential
from transportx.gradient_flows.internal import as_pytree
from transportx.learned_energies._equations import Unknowns
from transportx.learned_energies._least_squares import Solution

Scalar = Float[Array, ""]
Point = Float[Array, " d"]


@_checks.gate
class LinearPotential(eqx.Module):
    r"""Potential $V = \sum_k c_k \phi_k$, a linear combination of features.

    Attributes:
        features: phi, `features(x) -> (p,)` of one point.
        coefficients: c, shape (p,).

    Example:
        >>> monomials = tx.learned_energies.Monomials(1, 2)
        >>> V = tx.learned_energies.LinearPotential(monomials, jnp.array([0.0, 0.5]))
        >>> float(V(jnp.array([3.0])))
        4.5
    """

    features: Callable[[Array], Array] = eqx.field(converter=as_pytree)
    coefficients: Float[Array, " p"]

    @_checks.gate
    def __call__(self, x: Point) -> Scalar:
        """V at one point (d,)."""
        features = self.features(x)
        _checks.same_shape("features(x)", features, "coefficients", self.coefficients)
        return jnp.sum(self.coefficients * features)


@_checks.gate
class LearnedEnergy(eqx.Module):
    r"""Free energy $F(\rho) = \int V\,d\rho + \sum_l c_l F_l(\rho) + T\int\rho\log\rho$.

    Particles descend it with noise in place of the entropy: ``gf.flow(energy.functional, x0,
    t1=1.0, dynamics=gf.Langevin(energy.temperature), key=key)``.

    Attributes:
        potential: V, `potential(x) -> scalar` of one point.
        terms: F_l, each of known form.
        coefficients: c, one number per term, shape (q,).
        temperature: T, not negative.

    Example:
        >>> def V(x):
        ...     return jnp.sum(x**2) / 2
        >>> energy = tx.learned_energies.LearnedEnergy(V, (), jnp.zeros(0), 0.1)
        >>> weights = jnp.array([0.5, 0.5])
        >>> float(energy.functional(jnp.array([[1.0], [-1.0]]), weights))
        0.5
    """

    potential: Callable[[Array], Array] = eqx.field(converter=as_pytree)
    terms: tuple[AbstractFunctional, ...]
    coefficients: Float[Array, " q"]
    temperature: ScalarLike

    @property
    def functional(self) -> AbstractFunctional:
        """The energy without its entropy, as a functional of particles."""
        scaled = [c * term for c, term in zip(self.coefficients, self.terms, strict=True)]
        return FunctionalSum((Potential(self.potential), *scaled))


@_checks.gate
class EnergyFit(eqx.Module):
    """Free energy fitted to populations by least squares, and whether they determine it.

    Attributes:
        energy: The fitted free energy.
        deviations: Standard errors of its coefficients, in the order potential, terms,
            temperature; zero where dropped. `fit_weak_form` gives those of independent draws, by
            the influence of each point on moments and rates, times the misfit if above one; the
            other fits assume errors of the size of the misfit.
        kept: Whether each coefficient was kept, not dropped.
        misfit: Root of the squared residuals over what sampling alone would leave: near one where
            the energy explains independent populations, far above where it does not; below one
            where populations share their draws. It sees what no coefficients can explain, not
            an error of the integrals over time that other coefficients imitate.
        rank: Number of combinations of the kept coefficients that the equations determine.
        condition: Condition number of the equations with columns of unit length: errors grow by
            up to this factor.
        status: DETERMINED, UNDETERMINED, NON_FINITE or NOT_TRANSPORTED.

    Example:
        >>> le = tx.learned_energies
        >>> x = jnp.array([[-1.0], [0.5], [2.0], [3.0]])
        >>> times = jnp.array([0.0, 0.1, 0.2, 0.3])
        >>> snapshots = x * jnp.exp(-times)[:, None, None]  # the flow of V(x) = x^2 / 2
        >>> fit = le.fit_weak_form(snapshots, times, le.Monomials(1, 2), entropy=False)
        >>> int(fit.rank), fit.kept.tolist(), tx.Status[fit.status]
        (2, [True, True], 'The data determine every coefficient.')
    """

    energy: LearnedEnergy
    deviations: Float[Array, " u"]
    kept: Bool[Array, " u"]
    misfit: Scalar
    rank: Int[Array, ""]
    condition: Scalar
    status: Status

    @property
    def determined(self) -> Bool[Array, "..."]:
        """Whether the populations determine every coefficient."""
        return self.status == Status.DETERMINED


def as_fit(
    solved: Solution, unknowns: Unknowns, *, transported: Bool[Array, ""] | bool = True
) -> EnergyFit:
    """Assign coefficients to the terms of the energy, and judge them."""
    c = solved.coefficients
    first = c.size - len(unknowns.terms) - unknowns.entropy
    last = c.size - unknowns.entropy
    temperature = c[-1] if unknowns.entropy else jnp.zeros((), c.dtype)
    potential = LinearPotential(unknowns.features, c[:first])
    energy = LearnedEnergy(potential, unknowns.terms, c[first:last], temperature)
    full = solved.rank == jnp.sum(solved.kept)
    finite = jnp.all(jnp.isfinite(c)) & jnp.isfinite(solved.misfit)
    status = judge(
        (~finite, Status.NON_FINITE),
        (~jnp.asarray(transported), Status.NOT_TRANSPORTED),
        (full, Status.DETERMINED),
        otherwise=Status.UNDETERMINED,
    )
    return EnergyFit(energy, *solved[1:], status)
