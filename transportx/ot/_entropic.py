"""Entropic optimal transport by Sinkhorn's iterations in the log domain."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, ScalarLike

from transportx import _checks
from transportx.geometry import AbstractGeometry
from transportx.ot._status import Status

Scalar = Float[Array, ""]


class Sinkhorn(eqx.Module):
    """Alternate exact updates of the two potentials, each O(n m).

    Attributes:
        tol: Bound on the L1 error of the plan's marginals, divided by the mass.
        max_steps: Pairs of updates at most. Steps needed grow like 1 / epsilon.
    """

    tol: float = eqx.field(static=True, default=1e-3)
    max_steps: int = eqx.field(static=True, default=2000)

    def __check_init__(self):
        _checks.positive("tol", self.tol)
        _checks.count("max_steps", self.max_steps)


class EntropicPlan(eqx.Module):
    r"""The plan $P_{ij} = a_i b_j \exp((f_i + g_j - C_{ij}) / \varepsilon)$ and its status.

    Attributes:
        geometry: The costs.
        a: Source weights.
        b: Target weights.
        epsilon: Regularisation, in units of the cost.
        f: Source potential, in units of the cost; NaN where the solve failed.
        g: Target potential.
        marginal_error: L1 distance of both marginals from (a, b), divided by the mass.
        num_steps: Steps that ran.
        status: How the solve ended.
    """

    geometry: AbstractGeometry
    a: Float[Array, " n"]
    b: Float[Array, " m"]
    epsilon: Scalar
    f: Float[Array, " n"]
    g: Float[Array, " m"]
    marginal_error: Scalar
    num_steps: Int[Array, ""]
    status: Status

    @property
    def converged(self) -> Bool[Array, ""]:
        """Whether the returned potentials themselves meet the tolerance."""
        return self.status == Status.CONVERGED

    @property
    def value(self) -> Scalar:
        """Dual objective at the potentials: a lower bound on the regularised optimum."""
        mass = jnp.sum(self._source_marginal())
        excess = mass - jnp.sum(self.a) * jnp.sum(self.b)
        return jnp.sum(self.a * self.f) + jnp.sum(self.b * self.g) - self.epsilon * excess

    def matrix(self) -> Float[Array, "n m"]:
        """The plan itself, n m numbers."""
        return self.geometry.map_rows(
            lambda costs, f, a: a * self.b * _exp((f + self.g - costs) / self.epsilon),
            self.f,
            self.a,
        )

    def sample_sources(self, *, key: PRNGKeyArray) -> Int[Array, " m"]:
        """Draw one source for each target from the plan given that target. O(n m)."""
        scores = self.f / self.epsilon + jnp.log(self.a)
        return self.geometry.T.map_rows(
            lambda costs, k: jr.categorical(k, scores - costs / self.epsilon),
            jr.split(key, self.b.size),
        )

    def _source_marginal(self) -> Float[Array, " n"]:
        soft = _soft_transform(self.geometry, self.g, self.b, self.epsilon)
        return self.a * _exp((self.f - soft) / self.epsilon)


def solve(
    geometry: AbstractGeometry,
    a: Float[Array, " n"] | None = None,
    b: Float[Array, " m"] | None = None,
    *,
    epsilon: ScalarLike,
    solver: Sinkhorn = Sinkhorn(),
) -> EntropicPlan:
    r"""Solve balanced entropic optimal transport between two weighted sets.

    Minimises $\langle P, C\rangle + \varepsilon\,\mathrm{KL}(P\,\|\,a\otimes b)$ over plans
    with marginals a and b.

    Args:
        geometry: The costs, (n, m); point clouds above their tile size are streamed.
        a: Source weights; uniform by default. Zero is allowed: that row is zero.
        b: Target weights, of the same total mass.
        epsilon: Regularisation, in units of the cost; may be traced.
        solver: Tolerance and step limit.

    Returns:
        A plan whose `status` says whether to believe it. Unequal masses or negative
        weights are INFEASIBLE, NaN input NON_FINITE; both have NaN potentials.

    Raises:
        ValueError: Weights do not match the geometry, or `epsilon` is a Python number
            that is not positive.

    Differentiation:
        Forward mode, through the iterations that ran. JAX refuses reverse mode.

    References:
        Peyre and Cuturi, Computational Optimal Transport, 2019, section 4.4.
    """
    n, m = geometry.shape
    _checks.positive("epsilon", epsilon)
    dtype = jax.eval_shape(geometry.matrix).dtype
    a = _weights("a", a, n, dtype)
    b = _weights("b", b, m, dtype)
    epsilon = jnp.asarray(epsilon, dtype)
    feasible = _feasible(a, b)
    f, g, error, steps = _iterate(geometry, a, b, epsilon, solver)
    finite = jnp.isfinite(error) & jnp.all(jnp.isfinite(f)) & jnp.all(jnp.isfinite(g))
    status = Status.where(error <= solver.tol, Status.CONVERGED, Status.MAX_STEPS)
    status = Status.where(finite & (epsilon > 0), status, Status.NON_FINITE)
    given = jnp.all(jnp.isfinite(a)) & jnp.all(jnp.isfinite(b))
    status = Status.where(given & ~feasible, Status.INFEASIBLE, status)
    failed = (status == Status.NON_FINITE) | (status == Status.INFEASIBLE)
    f, g, error = (jnp.where(failed, jnp.nan, array) for array in (f, g, error))
    return EntropicPlan(geometry, a, b, epsilon, f, g, error, steps, status)


def _iterate(geometry, a, b, epsilon, solver):
    """Sinkhorn's loop. The error is that of the potentials carried beside it."""
    mass = jnp.sum(a)

    def source_update(g):
        return _soft_transform(geometry, g, b, epsilon)

    def body(carry):
        _, g, _, step = carry
        f = source_update(g)
        # Rows of the plan (f, g) are exact; its columns are b exp((g - update) / epsilon).
        update = _soft_transform(geometry.T, f, a, epsilon)
        error = _column_error(b, g, update, epsilon) / mass
        return jax.lax.cond(
            error <= solver.tol,
            lambda: (f, g, error, step + 1),
            lambda: (f, update, error, step + 1),
        )

    def unfinished(carry):
        *_, error, step = carry
        return (error > solver.tol) & (step < solver.max_steps)

    start = jnp.zeros_like(a), jnp.zeros_like(b), jnp.full_like(mass, jnp.inf), jnp.array(0)
    _, g, _, steps = jax.lax.while_loop(unfinished, body, start)
    f = source_update(g)
    update = _soft_transform(geometry.T, f, a, epsilon)
    return f, g, _column_error(b, g, update, epsilon) / mass, steps


def _column_error(b, g, update, epsilon):
    """L1 distance of the columns' mass from b; a zero weight counts for nothing."""
    return jnp.sum(jnp.where(b == 0, 0, b * jnp.abs(jnp.expm1((g - update) / epsilon))))


def _soft_transform(
    geometry: AbstractGeometry, g: Float[Array, " m"], b: Float[Array, " m"], epsilon: Scalar
) -> Float[Array, " n"]:
    """f_i = -epsilon log sum_j b_j exp((g_j - C_ij) / epsilon)."""

    def row(costs):
        # Not by log b: its derivative, and the product with an overflow, are NaN at zero.
        scores = (g - costs) / epsilon
        peak = jax.lax.stop_gradient(jnp.max(jnp.where(b == 0, -jnp.inf, scores)))
        return -epsilon * (peak + jnp.log(jnp.sum(b * _exp(scores - peak))))

    return geometry.map_rows(row)


def _exp(exponent: Array) -> Array:
    """exp, kept finite: large exponents belong to entries of weight zero."""
    return jnp.exp(jnp.minimum(exponent, jnp.log(jnp.finfo(exponent.dtype).max) - 1))


def _weights(name, weights, size, dtype):
    if weights is None:
        return jnp.full(size, 1 / size, dtype)
    if weights.shape != (size,):
        cure = f"give one weight a point, shape ({size},)"
        _checks.reject(name, f"has shape {weights.shape}", cure)
    _checks.floating(name, weights)
    return weights


def _feasible(a, b):
    masses = jnp.sum(a), jnp.sum(b)
    slack = 100 * jnp.finfo(a.dtype).eps * masses[0]
    same = jnp.abs(masses[0] - masses[1]) <= slack
    return jnp.all(a >= 0) & jnp.all(b >= 0) & (masses[0] > 0) & same
