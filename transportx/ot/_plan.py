"""The answer of an entropic solve: a plan known by its potentials."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from transportx import _checks
from transportx._status import Status
from transportx.geometry import AbstractCloud, AbstractGeometry, internal
from transportx.geometry.internal import Largest, Sum, SumExp, capped_exp
from transportx.ot._gap import duality_gap
from transportx.ot._implicit import dual_value
from transportx.ot._problem import Potentials, Problem

Scalar = Float[Array, ""]


@_checks.gate
class EntropicPlan(eqx.Module):
    r"""Entropic plan $P_{ij} = a_i b_j \exp((f_i + g_j - C_{ij}) / \varepsilon)$ and its status.

    Everything that needs entries of the plan computes them where they are needed: dense
    problems store an (n, m) array for it, streamed ones never do. Each costs O(n m). A
    vmapped solve returns a batch of plans: use it under `vmap` too, as in
    ``jax.vmap(lambda plan: plan.value)(plans)``.

    Attributes:
        problem: Geometry, weights, epsilon and penalties.
        f: Source potential, shape (n,), in units of the cost; NaN where the solve failed. Where
            both marginals are enforced it is defined up to a constant, and <a, f> = <b, g>.
        g: Target potential, shape (m,), in units of the cost.
        marginal_error: L1 distance of both marginals from the required ones, divided by the
            mass, audited on these very potentials.
        num_steps: Number of steps that ran, in the units of the solver's `max_steps`.
        status: How the solve ended.

    Example:
        >>> x, y = jnp.array([[0.0], [1.0]]), jnp.array([[0.0], [2.0]])
        >>> plan = tx.ot.solve(tx.geometry.PointCloud(x, y), epsilon=0.01)
        >>> bool(plan.converged), round(float(plan.transport_cost), 2)
        (True, 0.5)
        >>> (plan @ jnp.ones(2)).shape, plan.barycentric_map().shape
        ((2,), (2, 1))
    """

    problem: Problem
    f: Float[Array, " n"]
    g: Float[Array, " m"]
    marginal_error: Scalar
    num_steps: Int[Array, ""]
    status: Status

    @property
    def geometry(self) -> AbstractGeometry:
        """Costs of the problem."""
        return self.problem.geometry

    @property
    def a(self) -> Float[Array, " n"]:
        """Source weights."""
        return self.problem.a

    @property
    def b(self) -> Float[Array, " m"]:
        """Target weights."""
        return self.problem.b

    @property
    def epsilon(self) -> Scalar:
        """Regularisation, in units of the cost."""
        return self.problem.epsilon

    @property
    def potentials(self) -> Potentials:
        """(f, g), which the argument `init` of the next solve takes."""
        return self.f, self.g

    @property
    def converged(self) -> Bool[Array, ""]:
        """Whether the returned potentials themselves meet the tolerance."""
        return self.status == Status.CONVERGED

    @property
    def T(self) -> "EntropicPlan":
        """The plan from targets to sources."""
        error, steps = self.marginal_error, self.num_steps
        return EntropicPlan(self.problem.T, self.g, self.f, error, steps, self.status)

    @property
    @eqx.filter_jit
    def value(self) -> Scalar:
        """Dual objective at the potentials: a lower bound on the regularised optimum.

        It misses the optimum by at most `gap`. Differentiates as the optimum does, by the
        envelope theorem: no linear solve for a gradient, one for each direction of a
        Hessian. Errors of a gradient are of the order of `marginal_error`.
        """
        return dual_value(self.problem, self.f, self.g)

    @property
    @eqx.filter_jit
    def gap(self) -> Scalar:
        r"""Duality gap: a bound on the error of `value`.

        It is the objective of a feasible plan less `value`. The plan is repaired to marginals
        at most the required ones (Altschuler, Weed and Rigollet, 2017). For the repaired plan
        $\hat P$ the gap is exactly $\varepsilon\,\mathrm{KL}(\hat P\,\|\,P)$, plus, for loose
        marginals, $\rho\,\mathrm{KL}$ of its marginal from the required one: no cancellation,
        and nothing negative. The repair spreads what is missing over all pairs: where some have
        an enormous cost the gap is of that size times `marginal_error`, and where some have an
        infinite one it is infinite, however small the error of `value`. A constant for autodiff.
        """
        return jax.lax.stop_gradient(duality_gap(self.problem, self.f, self.g))

    @property
    @eqx.filter_jit
    def marginals(self) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
        """Masses of the plan's rows and columns."""
        kernel = self.problem.kernel(self.f, self.g)
        return self.a * (kernel @ self.b), self.b * (kernel.T @ self.a)

    @property
    @eqx.filter_jit
    def transport_cost(self) -> Scalar:
        """<P, C>, without regularisation."""
        part = eqx.Partial(_cost, self.epsilon)
        columns = self.b, self.g
        return jnp.sum(self.geometry.fold_rows(Sum(), part, columns, self.f, self.a))

    @eqx.filter_jit
    def __matmul__(self, v: Float[Array, "m *k"]) -> Float[Array, "n *k"]:
        """P v for a vector (m,) or columns (m, k); `plan.T @ v` is its transpose."""
        if v.ndim not in (1, 2) or v.shape[0] != self.b.size:
            cure = f"give shape ({self.b.size},) or ({self.b.size}, k)"
            _checks.reject("v", f"has shape {v.shape}", cure)
        weigh = (slice(None), *[None] * (v.ndim - 1))
        kernel = self.problem.kernel(self.f, self.g)
        return self.a[weigh] * (kernel @ (self.b[weigh] * v))

    @eqx.filter_jit
    def matrix(self) -> Float[Array, "n m"]:
        """The plan as an array, n m numbers."""
        f, g, a, b = self.f[:, None], self.g[None, :], self.a[:, None], self.b[None, :]
        return _entries(self.epsilon, (b, g), self.geometry.working_matrix(), f, a)

    @eqx.filter_jit
    def barycentric_map(self) -> Float[Array, "n d"]:
        """Barycentric projection of each source point: sum_j P_ij y_j / sum_j P_ij, shape (n, d).

        Points without weight have their image too.

        Raises:
            ValueError: The geometry is a matrix of costs, without points.
        """
        y = self._cloud().y
        kernel = self.problem.kernel(self.f, self.g)
        images = kernel @ (self.b[:, None] * jnp.concatenate([y, jnp.ones_like(y[:, :1])], 1))
        return images[:, :-1] / images[:, -1:]

    @_checks.gate
    @eqx.filter_jit
    def map(self, x_new: Float[Array, "k d"]) -> Float[Array, "k d"]:
        """Entropic map at new points: the mean of the targets given each point.

        At the source points it is the `barycentric_map`, up to the error of the marginals.

        Args:
            x_new: Points, shape (k, d).

        Raises:
            ValueError: The geometry has no points, or the new ones are of another dimension.

        References:
            Pooladian and Niles-Weed, Entropic estimation of optimal transport maps, 2021.
        """
        cloud = self._cloud()
        _checks.points("x_new", x_new)
        _checks.same_dimension("x_new", x_new, "y", cloud.y)

        columns = self.b, self.g, cloud.y
        part = eqx.Partial(_tilted_mean, self.epsilon)
        _, sums = cloud.moved(x_new).fold_tiles(SumExp(), part, columns)
        return sums[:, 1:] / sums[:, :1]

    @_checks.gate
    @eqx.filter_jit
    def sample(
        self, *, key: PRNGKeyArray, num: int
    ) -> tuple[Int[Array, " num"], Int[Array, " num"]]:
        """Draw `num` independent pairs (i, j) with probability P_ij / |P|. O((n + num) m).

        Indices of a plan that failed, or has no mass, are out of range: (n, m).

        Args:
            key: Randomness.
            num: Number of pairs, at least 1.
        """
        _checks.count("num", num)
        source_key, target_key = jr.split(key)
        kernel = self.problem.kernel(self.f, self.g)
        mass = self.a * (kernel @ self.b)
        i = jr.categorical(source_key, jnp.log(mass), shape=(num,))
        scores = self.g / self.epsilon + jnp.log(self.b)
        keys = jr.split(target_key, num)
        j = _draw(self.geometry.restrict(i), scores, self.epsilon, keys)
        some = jnp.sum(mass) > 0
        return jnp.where(some, i, self.a.size), jnp.where(some, j, self.b.size)

    @_checks.gate
    @eqx.filter_jit
    def sample_sources(self, *, key: PRNGKeyArray) -> Int[Array, " m"]:
        """Draw one source for each target from the plan given it; n where the solve failed."""
        scores = self.f / self.epsilon + jnp.log(self.a)
        return _draw(self.geometry.T, scores, self.epsilon, jr.split(key, self.b.size))

    @_checks.gate
    @eqx.filter_jit
    def top(self, k: int) -> tuple[Float[Array, "n k"], Int[Array, "n k"]]:
        """The k largest entries of each row, in falling order, and their columns.

        Args:
            k: Number of entries per row, from 1 to m.
        """
        _checks.count("k", k)
        if k > self.b.size:
            _checks.reject("k", f"is {k}", f"give at most the {self.b.size} targets")
        m = self.b.size
        merge = Largest(m, k)
        part = eqx.Partial(_largest, merge, self.epsilon)
        columns = self.b, self.g, jnp.arange(m)
        return self.geometry.fold_rows(merge, part, columns, self.f, self.a)

    def _cloud(self) -> AbstractCloud:
        if not isinstance(self.geometry, AbstractCloud):
            cure = "give a PointCloud, or apply the plan to points with `plan @ points`"
            _checks.reject("geometry", "is a matrix of costs, without points", cure)
        return self.geometry


def _entries(epsilon, columns, costs, f, a):
    b, g = columns
    return a * b * capped_exp(internal.exponents(costs, f + g, epsilon))


def _cost(epsilon, columns, costs, f, a):
    return jnp.sum(_entries(epsilon, columns, costs, f, a) * internal.finite_part(costs))


def _largest(merge, epsilon, columns, costs, f, a):
    *columns, targets = columns
    return merge.part(_entries(epsilon, columns, costs, f, a), targets)


def _tilted_mean(epsilon, columns, costs):
    b, g, y = columns
    weights = b[:, None] * jnp.concatenate([jnp.ones_like(y[:, :1]), y], axis=1)
    return SumExp.part(
        weights, internal.exponents(costs, jnp.broadcast_to(g, costs.shape), epsilon)
    )


def _draw(
    geometry: AbstractGeometry, scores: Float[Array, " m"], epsilon: Scalar, keys: Array
) -> Int[Array, " n"]:
    """A target for each row, with log-probabilities scores - costs / epsilon up to a constant."""
    m = scores.size
    columns = scores, jnp.arange(m)
    part = eqx.Partial(_noisy, epsilon)
    values, targets = geometry.fold_rows(Largest(m, 1), part, columns, keys)
    return jnp.where(values[:, 0] > -jnp.inf, targets[:, 0], m)


def _noisy(epsilon, columns, costs, key):
    """The largest score with Gumbel noise: its target is a draw from their softmax."""
    scores, targets = columns
    # Each block of targets has noise of its own; the first that of a draw among all.
    first = targets[0]
    key = jnp.where(first == 0, key, jr.fold_in(key, first))
    noisy = jr.gumbel(key, scores.shape, scores.dtype) + (scores - costs / epsilon)
    best = jnp.argmax(noisy)
    # Targets of a block follow each other.
    return noisy[best][None], first[None] + best
