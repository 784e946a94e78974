"""The answer of exact transport: a plan known by its pairs, certified by its potentials."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from transportx import _checks
from transportx._status import Status
from transportx.geometry import AbstractCloud, AbstractGeometry, CostMatrix

Scalar = Float[Array, ""]


class PairMasses(NamedTuple):
    """Pairs of a plan and the mass of each, which ``i, j, mass = plan.pairs`` unpacks.

    Attributes:
        sources: Source of each pair, shape (n + m,).
        targets: Target of each pair, shape (n + m,).
        masses: Mass of each pair, shape (n + m,); zero for some.

    Example:
        >>> plan = tx.ot.exact(tx.geometry.CostMatrix(jnp.array([[0.0, 1.0], [3.0, 2.0]])))
        >>> i, j, mass = plan.pairs
        >>> float(jnp.sum(mass * plan.geometry.costs[i, j]))
        1.0
    """

    sources: Int[Array, " k"]
    targets: Int[Array, " k"]
    masses: Float[Array, " k"]


@_checks.gate
class ExactPlan(eqx.Module):
    """Exact plan between two weighted sets, as at most n + m pairs with mass, and its status.

    Attributes:
        geometry: Costs of the problem.
        a: Source weights, shape (n,).
        b: Target weights, shape (m,).
        pairs: Sources, targets and masses of n + m pairs, some of which have no mass. Of a plan
            that failed the sources are n, the targets m and the masses NaN.
        f: Source potential, shape (n,), in units of the cost: f_i + g_j <= C_ij, with equality
            where a pair has mass, up to rounding. Defined up to a constant, and <a, f> = <b, g>.
        g: Target potential, shape (m,), in units of the cost.
        gap: Duality gap: what the plan costs above the lower bound that the potentials give.
        num_rounds: Number of rounds in which pairs were priced.
        status: How the search ended.

    Example:
        >>> x, y = jnp.array([[0.0], [1.0]]), jnp.array([[0.0], [2.0], [3.0]])
        >>> plan = tx.ot.exact(tx.geometry.PointCloud(x, y), b=jnp.array([0.5, 0.25, 0.25]))
        >>> float(plan.value), (plan @ jnp.ones(3)).tolist()
        (1.25, [0.5, 0.5])
    """

    geometry: AbstractGeometry
    a: Float[Array, " n"]
    b: Float[Array, " m"]
    pairs: PairMasses
    f: Float[Array, " n"]
    g: Float[Array, " m"]
    gap: Scalar
    num_rounds: Int[Array, ""]
    status: Status

    @property
    def converged(self) -> Bool[Array, ""]:
        """Whether the potentials certify the plan."""
        return self.status == Status.CONVERGED

    @property
    def T(self) -> "ExactPlan":
        """The plan from targets to sources."""
        sources, targets, masses = self.pairs
        pairs = PairMasses(targets, sources, masses)
        rest = self.gap, self.num_rounds, self.status
        return ExactPlan(self.geometry.T, self.b, self.a, pairs, self.g, self.f, *rest)

    @property
    @eqx.filter_jit
    def value(self) -> Scalar:
        """<P, C>, which differentiates as the optimum does, by the envelope theorem."""
        fixed = jax.lax.stop_gradient((self.a, self.b, self.pairs, self.f, self.g))
        a, b, pairs, f, g = fixed
        masses = pairs.masses
        moved = jnp.sum(f * (self.a - a)) + jnp.sum(g * (self.b - b))
        return jnp.sum(masses * costs_of(self.geometry, pairs)) + moved

    @eqx.filter_jit
    def __matmul__(self, v: Float[Array, "m *k"]) -> Float[Array, "n *k"]:
        """P v for a vector (m,) or columns (m, k); `plan.T @ v` is its transpose."""
        if v.ndim not in (1, 2) or v.shape[0] != self.b.size:
            cure = f"give shape ({self.b.size},) or ({self.b.size}, k)"
            _checks.reject("v", f"has shape {v.shape}", cure)
        sources, targets, masses = self.pairs
        # Rows of a plan that failed have no number.
        start = jnp.where(jnp.isnan(jnp.sum(masses)), jnp.nan, jnp.zeros((), v.dtype))
        sums = jnp.broadcast_to(start, (self.a.size, *v.shape[1:]))
        weights = masses.astype(v.dtype).reshape(-1, *[1] * (v.ndim - 1))
        return sums.at[sources].add(weights * v.at[targets].get(mode="fill"), mode="drop")

    @eqx.filter_jit
    def matrix(self) -> Float[Array, "n m"]:
        """The plan as an array, n m numbers."""
        sources, targets, masses = self.pairs
        start = jnp.where(jnp.isnan(jnp.sum(masses)), jnp.nan, jnp.zeros((), masses.dtype))
        entries = jnp.broadcast_to(start, (self.a.size, self.b.size))
        return entries.at[sources, targets].add(masses, mode="drop")

    @eqx.filter_jit
    def barycentric_map(self) -> Float[Array, "n d"]:
        """Barycentric projection of each source point: sum_j P_ij y_j / sum_j P_ij, shape (n, d).

        A point without weight has the target of least reduced cost as its image.

        Raises:
            ValueError: The geometry is a matrix of costs, without points.
        """
        if not isinstance(self.geometry, AbstractCloud):
            cure = "give a PointCloud, or apply the plan to points with `plan @ points`"
            _checks.reject("geometry", "is a matrix of costs, without points", cure)
        sources, targets, masses = self.pairs
        own = jnp.arange(masses.size) < self.a.size
        alone = own & (self.a == 0).at[sources].get(mode="fill", fill_value=False)
        pairs = PairMasses(sources, targets, jnp.where(alone, 1, masses))
        plan = eqx.tree_at(lambda plan: plan.pairs, self, pairs)
        y = self.geometry.y
        images = plan @ jnp.concatenate([y, jnp.ones_like(y[:, :1])], axis=1)
        return images[:, :-1] / images[:, -1:]

    @_checks.gate
    @eqx.filter_jit
    def sample(
        self, *, key: PRNGKeyArray, num: int
    ) -> tuple[Int[Array, " num"], Int[Array, " num"]]:
        """Draw `num` independent pairs (i, j) with probability P_ij / |P|.

        Indices of a plan that failed are out of range: (n, m).

        Args:
            key: Randomness.
            num: Number of pairs, at least 1.
        """
        _checks.count("num", num)
        sources, targets, masses = self.pairs
        shares = jnp.where(jnp.isnan(masses), 1, masses)
        drawn = jr.choice(key, masses.size, (num,), p=shares / jnp.sum(shares))
        return sources[drawn], targets[drawn]

    @_checks.gate
    @eqx.filter_jit
    def sample_sources(self, *, key: PRNGKeyArray) -> Int[Array, " m"]:
        """Draw one source for each target from the plan given it; n where the search failed."""
        sources, targets, masses = self.pairs
        n, m = self.a.size, self.b.size
        noisy = jnp.log(masses) + jr.gumbel(key, masses.shape, masses.dtype)
        best = jax.ops.segment_max(noisy, targets, m)
        drawn = noisy == best.at[targets].get(mode="fill")
        found = jnp.where(drawn & (noisy > -jnp.inf), sources, n)
        return jnp.minimum(jax.ops.segment_min(found, targets, m), n)


def duality_gap(
    geometry: AbstractGeometry, pairs: PairMasses, f: Float[Array, " n"], g: Float[Array, " m"]
) -> tuple[Scalar, Scalar]:
    """What the pairs cost above their potentials, of which nothing cancels, and what they cost."""
    costs = costs_of(geometry, pairs)
    above = jnp.maximum(costs - f[pairs.sources] - g[pairs.targets], 0)
    return jnp.sum(pairs.masses * above), jnp.sum(pairs.masses * costs)


def costs_of(geometry: AbstractGeometry, pairs: PairMasses) -> Float[Array, " k"]:
    """The cost of each pair; one without mass, which may be forbidden, costs what the largest does.

    Costs are computed pair by pair between points, whatever `geometry` holds.
    """
    sources, targets, masses = pairs
    largest = jnp.argmax(masses)
    sources, targets = (jnp.where(masses == 0, p[largest], p) for p in (sources, targets))
    if isinstance(geometry, AbstractCloud):
        dtype = geometry.working_dtype
        return jax.vmap(geometry.cost)(
            geometry.x.astype(dtype)[sources], geometry.y.astype(dtype)[targets]
        )
    costs = geometry.costs if isinstance(geometry, CostMatrix) else geometry.working_matrix()
    return costs.astype(geometry.working_dtype)[sources, targets]
