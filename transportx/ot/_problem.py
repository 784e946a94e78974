"""The entropic problem, its updates and its optimality conditions."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from transportx import _checks
from transportx.geometry import AbstractGeometry, internal
from transportx.geometry.internal import (
    AbstractKernel,
    Maximum,
    SumExp,
    capped_exp,
    gibbs_kernel,
    largest_exponent,
    log_totals,
)

Scalar = Float[Array, ""]
# Log of the ratio of an entry to the required mass of its row, up to which it is harmless.
_MOST_EXCESS = 3.0

Potentials = tuple[Float[Array, " n"], Float[Array, " m"]]


@_checks.gate
class Problem(eqx.Module):
    r"""Entropic problem: costs, weights, regularisation and penalties on the marginals.

    At the optimum the plan $P_{ij} = a_i b_j \exp((f_i + g_j - C_ij) / \varepsilon)$ has the
    *required* marginals $a_i e^{-f_i/\rho_a}$ and $b_j e^{-g_j/\rho_b}$.

    Attributes:
        geometry: The costs, (n, m).
        a: Source weights, shape (n,).
        b: Target weights, shape (m,).
        epsilon: Regularisation, in units of the cost.
        loose_a: 1 / rho_a; zero enforces the source marginal.
        loose_b: 1 / rho_b; zero enforces the target marginal.

    Example:
        >>> x = jnp.array([[0.0], [1.0]])
        >>> problem = tx.ot.solve(tx.geometry.PointCloud(x, x), epsilon=0.1).problem
        >>> bool(problem.balanced), problem.a
        (True, Array([0.5, 0.5], dtype=float32))
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
        """A problem between other points, with the regularisation and the penalties of this one.

        Args:
            geometry: Costs, (k, l).
            a: Source weights, shape (k,).
            b: Target weights, shape (l,).
        """
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
        """rho_b / (rho_b + epsilon): one where the target marginal is enforced."""
        return 1 / (1 + self.epsilon * self.loose_b)

    @_checks.gate
    def required_a(self, f: Float[Array, " n"]) -> Float[Array, " n"]:
        """Source marginal that a plan with this potential has at the optimum: a exp(-f / rho_a)."""
        return self.a * capped_exp(-self.loose_a * f)

    @_checks.gate
    def required_b(self, g: Float[Array, " m"]) -> Float[Array, " m"]:
        """Target marginal that a plan with this potential has at the optimum: b exp(-g / rho_b)."""
        return self.b * capped_exp(-self.loose_b * g)

    @_checks.gate
    def kernel(self, f: Float[Array, " n"], g: Float[Array, " m"]) -> AbstractKernel:
        """The Gibbs kernel exp((f_i + g_j - C_ij) / epsilon) as a linear operator."""
        return gibbs_kernel(self.geometry, f, g, self.epsilon)

    @_checks.gate
    def update_f(self, g: Float[Array, " m"]) -> Float[Array, " n"]:
        """The optimal f for this g, by a log-sum-exp: it can neither over- nor underflow."""
        totals = log_totals(self.geometry, self.b, g, self.epsilon)
        # A row without a target at finite cost asks for nothing, where it may.
        largest = jnp.finfo(totals.dtype).max ** 0.4
        return jnp.minimum(-self.damping_a * self.epsilon * totals, largest)

    @_checks.gate
    def update_g(self, f: Float[Array, " n"]) -> Float[Array, " m"]:
        """The optimal g for this f, by a log-sum-exp."""
        return self.T.update_f(f)

    def hides(self, f: Float[Array, " n"], g: Float[Array, " m"]) -> Bool[Array, ""]:
        """Whether an entry is larger than the kernel can show and than its marginals.

        Such entries, between points of tiny weight, are cut there, so that no sum over the
        kernel sees them. Entries as large as that which fit their marginals carry no mass.
        """
        rows = self.loose_a * f, jnp.log(self.a)
        columns = self.loose_b * g, jnp.log(self.b), g
        part = eqx.Partial(_cut_excesses, self.epsilon)
        excesses = self.geometry.fold_tiles(Maximum(), part, columns, f, *rows)
        return ~jnp.all(excesses < _MOST_EXCESS)

    @_checks.gate
    def centre(self, f: Float[Array, " n"], g: Float[Array, " m"]) -> Potentials:
        """Move a constant between the potentials; the plan stays as it is.

        The constant s is the one for which (f + s, g - s) has the largest dual objective; where
        that does not depend on s, because both marginals are enforced, <a, f> = <b, g>.
        """
        log_a, log_b = (
            log_total(weights, -loose * potential)
            for weights, loose, potential in ((self.a, self.loose_a, f), (self.b, self.loose_b, g))
        )
        loose = jnp.where(self.balanced, 1, self.loose_a + self.loose_b)
        even = (jnp.sum(self.b * g) - jnp.sum(self.a * f)) / (jnp.sum(self.a) + jnp.sum(self.b))
        shift = jnp.where(self.balanced, even, (log_a - log_b) / loose)
        return f + shift, g - shift

    def dual(self, f: Float[Array, " n"], g: Float[Array, " m"], mass: Float[Array, ""]) -> Scalar:
        """Dual objective of potentials, up to a constant.

        Args:
            f: Source potential, shape (n,).
            g: Target potential, shape (m,).
            mass: Total mass of the plan that these potentials define.
        """
        gains = jnp.sum(self.a * gain(f, self.loose_a)) + jnp.sum(self.b * gain(g, self.loose_b))
        return gains - self.epsilon * mass

    @_checks.gate
    def error(
        self,
        f: Float[Array, " n"],
        g: Float[Array, " m"],
        rows: Float[Array, " n"],
        columns: Float[Array, " m"],
    ) -> Scalar:
        """L1 distance of these marginals from the required ones, divided by the mass.

        Args:
            f: Source potential, shape (n,).
            g: Target potential, shape (m,).
            rows: Source marginal of the plan, shape (n,).
            columns: Target marginal of the plan, shape (m,).
        """
        required_a, required_b = self.required_a(f), self.required_b(g)
        distance = jnp.sum(jnp.abs(rows - required_a)) + jnp.sum(jnp.abs(columns - required_b))
        return over_mass(distance, jnp.minimum(jnp.sum(required_a), jnp.sum(required_b)))


def _cut_excesses(epsilon, columns, costs, f, loose_f, log_a):
    """Log of the largest cut entry of each row over what its row or its column asks for."""
    loose_g, log_b, g = columns
    exponents = internal.exponents(costs, f[:, None] + g[None, :], epsilon)
    over_row = loose_f[:, None] + log_b[None, :]
    over_column = loose_g[None, :] + log_a[:, None]
    excesses = exponents + jnp.maximum(over_row, over_column)
    weighty = (log_a[:, None] > -jnp.inf) & (log_b[None, :] > -jnp.inf)
    cut = weighty & (exponents >= largest_exponent(exponents.dtype))
    return jnp.max(jnp.where(cut, excesses, -jnp.inf), axis=1)


def over_mass(distance: Scalar, mass: Scalar) -> Scalar:
    """A distance between marginals over their mass: 0 where both are below all numbers."""
    some = (mass > 0) | (distance > 0)
    return jnp.where(some, distance / jnp.where(some, mass, 1), 0)


def log_total(weights: Float[Array, " k"], exponents: Float[Array, "*b k"]) -> Float[Array, "*b"]:
    """The log of sum_k w_k exp(e_k) over the last axis; terms of weight zero count for nothing."""
    peaks, sums = SumExp.part(weights, exponents)
    return peaks + jnp.log(sums)


def gain(potential: Array, loose: Scalar) -> Array:
    """Dual gain rho (1 - exp(-f / rho)) of a potential f; f itself where loose = 1 / rho is 0."""
    x = loose * potential
    small = jnp.abs(x) < 0.1
    # Horner's form of sum_k (-x)^k / (k + 1)!, to the last digit of float64.
    series = jnp.ones_like(x)
    for k in range(10, 1, -1):
        series = 1 - jnp.where(small, x, 0) / k * series
    large = jnp.where(small, 1, x)
    return potential * jnp.where(small, series, (1 - capped_exp(-large)) / large)
