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
    r"""$V = \sum_k c_k \phi_k$.

    Attributes:
        features: phi, `features(x) -> (p,)` of one point.
        coefficients: c.
    """

    features: Callable[[Array], Array] = eqx.field(converter=as_pytree)
    coefficients: Float[Array, " p"]

    @_checks.gate
    def __call__(self, x: Point) -> Scalar:
        """V at one point."""
        features = self.features(x)
        _checks.same_shape("features(x)", features, "coefficients", self.coefficients)
        return jnp.sum(self.coefficients * features)


@_checks.gate
class LearnedEnergy(eqx.Module):
    r"""$F(\rho) = \int V\,d\rho + \sum_l c_l F_l(\rho) + T\int\rho\log\rho$.

    Particles descend it with noise in place of the entropy: ``gf.flow(energy.functional, x0,
    t1=1.0, dynamics=gf.Langevin(energy.temperature), key=key)``.

    Attributes:
        potential: V.
        terms: F_l, each of known form.
        coefficients: c.
        temperature: T, not negative.
    """

    potential: Callable[[Array], Array] = eqx.field(converter=as_pytree)
    terms: tuple[AbstractFunctional, ...]
    coefficients: Float[Array, " q"]
    temperature: ScalarLike

    @property
    def functional(self) -> AbstractFunctional:
        """All but the entropy."""
        scaled = [c * term for c, term in zip(self.coefficients, self.terms, strict=True)]
        return FunctionalSum((Potential(self.potential), *scaled))


@_checks.gate
class EnergyFit(eqx.Module):
    """A free energy fitted to populations by least squares.

    Attributes:
        energy: What was found.
        deviations: Standard errors of its coefficients, in the order potential, terms,
            temperature; zero where dropped. Of `fit_weak_form`, those of independent draws, by
            the influence of each point on moments and rates, times the misfit if above one; of
            the others for errors of the size of the misfit.
        kept: Which coefficients were not dropped.
        misfit: Root of the squared residuals over what sampling alone would leave: near one where
            the energy explains independent populations, far above where it does not; below one
            where populations share their draws. It sees what no coefficients can explain, not
            an error of the integrals over time that other coefficients imitate.
        rank: Combinations of the coefficients kept that the equations see.
        condition: Of the equations, columns of unit length: by up to as much errors grow.
        status: Whether to believe it.
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
        """Whether every coefficient is."""
        return self.status == Status.DETERMINED


def as_fit(
    solved: Solution, unknowns: Unknowns, transported: Bool[Array, ""] | bool = True
) -> EnergyFit:
    """Deal coefficients out to the parts of the energy, and judge them."""
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
