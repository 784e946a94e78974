"""The answer of a semidiscrete problem: potentials of the data, audited on fresh points."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from transportx import _checks
from transportx._status import Status
from transportx.ot._power_cells import assigned

Scalar = Float[Array, ""]


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
        masses: Mass that the cell of each point holds, on points drawn for this audit alone.
        centroids: Mean source point of each cell, shape (m, d); where a cell is empty, its y.
        scatter: Mean squared distance of a source point from the centroid of its cell.
        information: Mutual information of source and data, in nats, where epsilon > 0; else zero.
        mass_error: L1 distance of `masses` from `b`. Of drawn points it is `error_floor` for
            exact potentials.
        sampling_error: Bound on the standard error of `mass_error`; zero where nothing was drawn.
        error_floor: What `mass_error` is expected to be for exact potentials: what the number of
            points drawn leaves open.
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
    masses: Float[Array, " m"]
    centroids: Float[Array, "m d"]
    scatter: Scalar
    information: Scalar
    mass_error: Scalar
    sampling_error: Scalar
    error_floor: Scalar
    num_steps: Int[Array, ""]
    status: Status
    regularised: bool = eqx.field(static=True)

    @property
    def converged(self) -> Bool[Array, ""]:
        """Whether `mass_error`, less three of its standard errors, meets the tolerance."""
        return self.status == Status.CONVERGED

    @property
    @eqx.filter_jit
    def value(self) -> Scalar:
        """Dual objective at the potentials, its integral estimated by the audit.

        A lower bound on the optimum, up to the audit's own sampling error. Differentiates as the
        optimum does, by the envelope theorem, to first order.
        """
        y, masses = self.y.astype(self.g.dtype), self.masses
        y = jnp.where(masses[:, None] > 0, y, self.centroids)
        squares = jnp.sum((self.centroids - y) ** 2, axis=1)
        some = self.b > 0
        log_b = jnp.where(some, jnp.log(jnp.where(some, self.b, 1)), 0)
        relative = masses @ (jax.lax.stop_gradient(log_b) - log_b)
        gains = jnp.sum(jnp.where(some, (self.b - masses) * self.g, 0))
        regular = self.epsilon * (self.information + relative)
        return gains + masses @ squares + self.scatter + regular

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
