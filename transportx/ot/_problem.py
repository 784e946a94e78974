"""The entropic problem, its updates and its optimality conditions."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from transportx import _checks
from transportx.geometry import (
    AbstractGeometry,
    AbstractKernel,
    SumExp,
    capped_exp,
    fused_log_totals,
    gibbs_kernel,
)

Scalar = Float[Array, ""]
Potentials = tuple[Float[Array, " n"], Float[Array, " m"]]


@_checks.gate
class Problem(eqx.Module):
    r"""Costs, weights, regularisation, and how loosely each marginal is held.

    At the optimum the plan $P_{ij} = a_i b_j \exp((f_i + g_j - C_ij) / \varepsilon)$ has
    marginals $a_i e^{-f_i/\rho_a}$ and $b_j e^{-g_j/\rho_b}$: what it is *asked* for.

    Attributes:
        geometry: The costs.
        a: Source weights.
        b: Target weights.
        epsilon: Regularisation.
        loose_a: 1 / rho_a; zero enforces the source marginal.
        loose_b: 1 / rho_b.
    """

    geometry: AbstractGeometry
    a: Float[Array, " n"]
    b: Float[Array, " m"]
    epsilon: Scalar
    loose_a: Scalar
    loose_b: Scalar

    @property
    def T(self) -> "Problem":
        """The problem with sources and targets exchanged."""
        geometry = self.geometry.T
        return Problem(geometry, self.b, self.a, self.epsilon, self.loose_b, self.loose_a)

    @_checks.gate
    def at(self, epsilon: Scalar) -> "Problem":
        """The same problem with another regularisation."""
        return Problem(self.geometry, self.a, self.b, epsilon, self.loose_a, self.loose_b)

    @_checks.gate
    def between(
        self, geometry: AbstractGeometry, a: Float[Array, " k"], b: Float[Array, " l"]
    ) -> "Problem":
        """The same regularisation and penalties between other points."""
        return Problem(geometry, a, b, self.epsilon, self.loose_a, self.loose_b)

    @property
    def balanced(self) -> Bool[Array, ""]:
        """Whether both marginals are enforced."""
        return (self.loose_a == 0) & (self.loose_b == 0)

    @property
    def damping_a(self) -> Scalar:
        """rho_a / (rho_a + epsilon): one where the source marginal is enforced."""
        return 1 / (1 + self.epsilon * self.loose_a)

    @property
    def damping_b(self) -> Scalar:
        """rho_b / (rho_b + epsilon)."""
        return 1 / (1 + self.epsilon * self.loose_b)

    @_checks.gate
    def asked_a(self, f: Float[Array, " n"]) -> Float[Array, " n"]:
        """Source marginal that optimality asks of the plan."""
        return self.a * capped_exp(-self.loose_a * f)

    @_checks.gate
    def asked_b(self, g: Float[Array, " m"]) -> Float[Array, " m"]:
        """Target marginal that optimality asks of the plan."""
        return self.b * capped_exp(-self.loose_b * g)

    @_checks.gate
    def kernel(self, f: Float[Array, " n"], g: Float[Array, " m"]) -> AbstractKernel:
        """exp((f_i + g_j - C_ij) / epsilon)."""
        return gibbs_kernel(self.geometry, f, g, self.epsilon)

    @_checks.gate
    def update_f(self, g: Float[Array, " m"]) -> Float[Array, " n"]:
        """The best f for this g, in the log domain: a step that can neither over- nor underflow."""
        totals = fused_log_totals(
            self.geometry, self.b, g, self.epsilon, otherwise=_log_totals_in_tiles
        )
        return -self.damping_a * self.epsilon * totals

    @_checks.gate
    def update_g(self, f: Float[Array, " n"]) -> Float[Array, " m"]:
        """The best g for this f."""
        return self.T.update_f(f)

    @_checks.gate
    def centre(self, f: Float[Array, " n"], g: Float[Array, " m"]) -> Potentials:
        """Move a constant between the potentials; the plan stays as it is.

        Of all f + s, g - s these have the best dual objective; where that does not depend
        on s, both marginals being enforced, <a, f> = <b, g>.
        """
        log_a, log_b = (
            log_total(weights, -loose * potential)
            for weights, loose, potential in ((self.a, self.loose_a, f), (self.b, self.loose_b, g))
        )
        loose = jnp.where(self.balanced, 1, self.loose_a + self.loose_b)
        even = (jnp.sum(self.b * g) - jnp.sum(self.a * f)) / (jnp.sum(self.a) + jnp.sum(self.b))
        shift = jnp.where(self.balanced, even, (log_a - log_b) / loose)
        return f + shift, g - shift

    @_checks.gate
    def error(
        self,
        f: Float[Array, " n"],
        g: Float[Array, " m"],
        rows: Float[Array, " n"],
        columns: Float[Array, " m"],
    ) -> Scalar:
        """L1 distance of these marginals from those asked for, divided by the mass."""
        asked_a, asked_b = self.asked_a(f), self.asked_b(g)
        distance = jnp.sum(jnp.abs(rows - asked_a)) + jnp.sum(jnp.abs(columns - asked_b))
        return distance / jnp.minimum(jnp.sum(asked_a), jnp.sum(asked_b))


def _log_totals_in_tiles(geometry, b, g, epsilon):
    peaks, sums = geometry.fold_tiles(SumExp(), eqx.Partial(_totals, epsilon), (b, g))
    return peaks + jnp.log(sums)


def _totals(epsilon, columns, costs):
    b, g = columns
    return SumExp.part(b, (g[None, :] - costs) * (1 / epsilon))


def log_total(weights: Float[Array, " k"], exponents: Float[Array, "*b k"]) -> Float[Array, "*b"]:
    """The log of sum_k w_k exp(e_k) over the last axis; terms of weight zero count for nothing."""
    peaks, sums = SumExp.part(weights, exponents)
    return peaks + jnp.log(sums)
