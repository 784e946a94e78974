"""The answer of a semidiscrete problem: potentials of the data, audited on fresh points."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from transportx import _checks
from transportx._status import Status
from transportx.ot._power_cells import assigned

Scalar = Float[Array, ""]


class CellAudit(eqx.Module):
    """What the cells hold of points, or lines, that the solve has not seen.

    Attributes:
        masses: Mass of each cell, shape (m,).
        centroids: Mean source point of each cell, shape (m, d); where it is empty, its y.
        scatter: Mean squared distance of a source point from the centroid of its cell.
        information: Mutual information of source and data, in nats; zero without epsilon.
        share: One over the number of points drawn; zero where masses were integrated.
    """

    masses: Float[Array, " m"]
    centroids: Float[Array, "m d"]
    scatter: Scalar
    information: Scalar
    share: Scalar

    def mass_error(self, b: Float[Array, " m"]) -> Scalar:
        """L1 distance of the masses from the weights."""
        return jnp.sum(jnp.abs(self.masses - b))

    def sampling_error(self, b: Float[Array, " m"]) -> Scalar:
        """A bound on the standard error of that distance."""
        return jnp.sqrt(jnp.sum(b * (1 - b)) * self.share)

    def error_floor(self, b: Float[Array, " m"]) -> Scalar:
        """The mean of that distance for exact potentials: that of as many normal deviations."""
        return math.sqrt(2 / math.pi) * jnp.sum(jnp.sqrt(b * (1 - b) * self.share))


@_checks.gate
class SemiDiscretePlan(eqx.Module):
    r"""Semidiscrete plan: each source point goes to the point of the data that wins it.

    The cell of $y_j$ is $\{x : |x - y_j|^2 - g_j \text{ is smallest}\}$. Where epsilon > 0, a
    source point goes to $y_j$ with a probability proportional to
    $b_j \exp((g_j - |x - y_j|^2) / \varepsilon)$.

    Attributes:
        y: Data, shape (m, d).
        b: Weights of the data, shape (m,).
        g: Potential of the data, shape (m,), in units of the cost, with <b, g> = 0; NaN where
            there is no answer.
        epsilon: Regularisation, in units of the cost.
        audit: Masses and centroids of the cells, on points that the solve has not seen.
        num_steps: Number of steps that ran.
        status: How the solve ended.
        regularised: Whether epsilon > 0.

    Example:
        >>> density = tx.ot.GridDensity(jnp.ones(4), jnp.zeros(1), jnp.ones(1))
        >>> y, b = jnp.array([[0.0], [1.0]]), jnp.array([0.25, 0.75])
        >>> plan = tx.ot.semidiscrete(density, y, b, key=jr.key(0))
        >>> plan.assign(jnp.array([[0.2], [0.3]]), key=jr.key(1))  # all above 1/4 go to 1
        Array([0, 1], dtype=int32)
        >>> round(float(plan.value), 3)  # the integral of (T(x) - x)^2
        0.146
    """

    y: Float[Array, "m d"]
    b: Float[Array, " m"]
    g: Float[Array, " m"]
    epsilon: Scalar
    audit: CellAudit
    num_steps: Int[Array, ""]
    status: Status
    regularised: bool = eqx.field(static=True)

    @property
    def converged(self) -> Bool[Array, ""]:
        """Whether `mass_error`, less three of its standard errors, meets the tolerance."""
        return self.status == Status.CONVERGED

    @property
    def masses(self) -> Float[Array, " m"]:
        """Mass that the cell of each point holds, in the audit."""
        return self.audit.masses

    @property
    def centroids(self) -> Float[Array, "m d"]:
        """Mean source point of each cell, in the audit; where a cell is empty, its y."""
        return self.audit.centroids

    @property
    @eqx.filter_jit
    def mass_error(self) -> Scalar:
        """L1 distance of `masses` from `b`; on drawn points `error_floor` for exact potentials."""
        return self.audit.mass_error(self.b)

    @property
    @eqx.filter_jit
    def sampling_error(self) -> Scalar:
        """Bound on the standard error of `mass_error`: zero where masses were integrated."""
        return self.audit.sampling_error(self.b)

    @property
    @eqx.filter_jit
    def error_floor(self) -> Scalar:
        """Floor of `mass_error`: its mean for exact potentials, finer than which no audit is."""
        return self.audit.error_floor(self.b)

    @property
    @eqx.filter_jit
    def value(self) -> Scalar:
        """Dual objective at the potentials, its integral estimated by the audit.

        A lower bound on the optimum, up to the audit's own sampling error. Differentiates as the
        optimum does, by the envelope theorem, to first order.
        """
        audit, masses = self.audit, self.audit.masses
        y = jnp.where(masses[:, None] > 0, self.y.astype(self.g.dtype), audit.centroids)
        squares = jnp.sum((audit.centroids - y) ** 2, axis=1)
        some = self.b > 0
        log_b = jnp.where(some, jnp.log(jnp.where(some, self.b, 1)), 0)
        relative = masses @ (jax.lax.stop_gradient(log_b) - log_b)
        gains = jnp.sum(jnp.where(some, (self.b - masses) * self.g, 0))
        regular = self.epsilon * (audit.information + relative)
        return gains + masses @ squares + audit.scatter + regular

    @_checks.gate
    @eqx.filter_jit
    def assign(self, x: Float[Array, "k d"], *, key: PRNGKeyArray) -> Int[Array, " k"]:
        """Assign source points to data: the index of the largest score, with noise for epsilon.

        Data are met in blocks, so that memory stays O(k) beside them. O(k m d).

        Args:
            x: Source points, shape (k, d).
            key: Randomness, which counts where epsilon > 0 alone.

        Returns:
            Indices into the data; m, out of range, where the plan has no answer.

        Raises:
            ValueError: The points are of another dimension than the data.
        """
        _checks.points("x", x)
        _checks.same_dimension("x", x, "y", self.y)
        epsilon = self.epsilon if self.regularised else None
        return assigned(x, self.y, self.g, self.b, epsilon, key=key)
