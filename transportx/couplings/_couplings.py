"""Couplings of two batches: independent, by exact and by entropic optimal transport."""

import abc
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from transportx import _checks
from transportx.geometry import AbstractCost, PointCloud, SquaredEuclidean
from transportx.ot import AbstractSolver, EntropicPlan, Newton, Potentials, assignment, solve

Pairs = tuple[Int[Array, " b"], Int[Array, " b"]]

# What the default solver of couplings leaves undone is far below the noise of a batch.
_ROUGH = Newton(tol=1e-2, max_steps=1000)


class AbstractCoupling(eqx.Module):
    """Pairs the points of two batches."""

    @abc.abstractmethod
    def __call__(
        self, x0: Float[Array, "n ..."], x1: Float[Array, "b ..."], *, key: PRNGKeyArray
    ) -> Pairs:
        """Pair source points with target points.

        Args:
            x0: Source batch; examples of any shape, compared as flat vectors.
            x1: Target batch.
            key: Randomness, for couplings that draw.

        Returns:
            Indices (i0, i1) of the b pairs; i1 is a permutation of the targets, save where
            a coupling is made to leave some out.

        Raises:
            ValueError: A batch is empty, examples differ in shape, or sizes differ where
                the coupling is one to one.
        """


class Independent(AbstractCoupling):
    """Pairs points as they come: batches drawn independently stay independent. Free."""

    def __call__(
        self, x0: Float[Array, "n ..."], x1: Float[Array, "b ..."], *, key: PRNGKeyArray
    ) -> Pairs:
        _check_batches(x0, x1, one_to_one=True)
        index = jnp.arange(x1.shape[0])
        return index, index


class Assignment(AbstractCoupling):
    """Exact optimal transport between the two batches, one to one.

    Straight paths between such pairs cross little, which makes the learnt field easier to
    integrate. O(b^3): see `transportx.ot.assignment` for what runs where. The plan of a
    batch is not that of the laws: its bias falls only slowly with b. For class-conditional
    models it also ties the source to the label within a batch.

    Attributes:
        cost: What moving a flattened example costs.

    References:
        Pooladian et al., Multisample Flow Matching, 2023; Tong et al., Improving and
        generalizing flow-based generative models with minibatch optimal transport, 2023.
    """

    cost: AbstractCost = SquaredEuclidean()

    def __call__(
        self, x0: Float[Array, "n ..."], x1: Float[Array, "b ..."], *, key: PRNGKeyArray
    ) -> Pairs:
        _check_batches(x0, x1, one_to_one=True)
        sources = assignment(_geometry(x0, x1, self.cost).T.matrix())
        index = jnp.arange(x1.shape[0], dtype=sources.dtype)
        # Where there is no answer, all points are used as they come: a NaN stays visible.
        return jnp.where(sources < index.size, sources, index), index


class Entropic(AbstractCoupling):
    """Draws, for every target, a source from the entropic plan given that target.

    Sources may repeat or be left out; targets never are. Draws are independent given the
    plan, so what a batch shows of the plan is unbiased; what the plan of a batch shows of
    the plan between the laws is not, as for `Assignment`. A small epsilon approaches
    `Assignment`, a large one `Independent`: `diagnose` says where between. O(n b) a step
    of the solver.

    Attributes:
        epsilon: Regularisation.
        relative: Whether epsilon is in units of the batch's mean absolute cost.
        cost: What moving a flattened example costs.
        solver: Tolerance and step limit. A plan short of its tolerance is used as it is:
            each target still draws from a distribution over all sources.

    References:
        Tong et al., Improving and generalizing flow-based generative models with minibatch
        optimal transport, 2023, section 3.2.4.
    """

    epsilon: float | Float[Array, ""]
    relative: bool = eqx.field(static=True, default=True)
    cost: AbstractCost = SquaredEuclidean()
    solver: AbstractSolver = _ROUGH

    def __check_init__(self):
        _checks.positive("epsilon", self.epsilon)

    def __call__(
        self, x0: Float[Array, "n ..."], x1: Float[Array, "b ..."], *, key: PRNGKeyArray
    ) -> Pairs:
        return self.draw(self.plan(x0, x1), key=key)

    def plan(
        self,
        x0: Float[Array, "n ..."],
        x1: Float[Array, "b ..."],
        *,
        init: Potentials | None = None,
    ) -> EntropicPlan:
        """The plan that pairs are drawn from.

        Args:
            x0: Source batch.
            x1: Target batch.
            init: Potentials to start from, as `plan.potentials` of a batch of the same
                points, moved or reordered targets aside; by default epsilon is annealed.
        """
        geometry, epsilon = _regularised(self, x0, x1)
        return solve(geometry, epsilon=epsilon, init=init, solver=self.solver)

    def draw(self, plan: EntropicPlan, *, key: PRNGKeyArray) -> Pairs:
        """Draw a source for every target of a plan."""
        index = jnp.arange(plan.b.size)
        usable = jnp.all(jnp.isfinite(plan.f))
        return jnp.where(usable, plan.sample_sources(key=key), index % plan.a.size), index


class Unbalanced(AbstractCoupling):
    """Draws pairs from an unbalanced plan: outliers of either batch are left out.

    As many pairs as targets; a point is drawn in proportion to the mass that it keeps, so
    far ones hardly ever are. Which ones count as far `rho` says: moving mass at a cost
    well above 2 rho does not pay. Labels travel with the indices of the targets drawn.

    Attributes:
        epsilon: Regularisation.
        rho: Penalty on both marginals.
        relative: Whether epsilon and rho are in units of the batch's mean absolute cost.
        cost: What moving a flattened example costs.
        solver: Tolerance and step limit.

    References:
        Eyring, Klein, Uscidda, Palla, Kilbertus, Akata and Theis, Unbalancedness in neural
        Monge maps improves unpaired domain translation, 2024.
    """

    epsilon: float | Float[Array, ""]
    rho: float | Float[Array, ""]
    relative: bool = eqx.field(static=True, default=True)
    cost: AbstractCost = SquaredEuclidean()
    solver: AbstractSolver = _ROUGH

    def __check_init__(self):
        _checks.positive("epsilon", self.epsilon)
        _checks.positive("rho", self.rho)

    def __call__(
        self, x0: Float[Array, "n ..."], x1: Float[Array, "b ..."], *, key: PRNGKeyArray
    ) -> Pairs:
        geometry, epsilon = _regularised(self, x0, x1)
        rho = jnp.asarray(self.rho, x0.dtype) * (epsilon / jnp.asarray(self.epsilon, x0.dtype))
        plan = solve(geometry, epsilon=epsilon, rho_a=rho, rho_b=rho, solver=self.solver)
        i0, i1 = plan.sample(key=key, num=x1.shape[0])
        index = jnp.arange(x1.shape[0], dtype=i0.dtype)
        usable = jnp.all(jnp.isfinite(plan.f))
        return jnp.where(usable, i0, index % x0.shape[0]), jnp.where(usable, i1, index)


class Conditional(eqx.Module):
    """Couples two batches with the conditions of the targets in the cost.

    A coupling blind to conditions ties noise to conditions within a batch, while sampling
    draws them apart: conditional generation suffers. Here source i is given condition i
    beforehand, which is independent of the source, and pairs of unlike conditions cost
    `weight` times their squared distance more. With a large weight pairs keep within a
    condition, and noise stays independent of it.

    Called as ``coupling(x0, x1, conditions, key=key)`` with one condition a target: numbers
    (b, k), or labels as ``jax.nn.one_hot(labels, num)``.

    Attributes:
        coupling: Any coupling whose cost grows with the distance of flattened examples. A
            relative epsilon is then in units of the mean cost with conditions.
        weight: Cost of a unit of squared distance between conditions.

    References:
        Cheng and Schwing, The curse of conditions, 2025; Chemseddine, Hagemann, Steidl and
        Wald, Conditional Wasserstein distances with applications in Bayesian OT flow
        matching, 2024.
    """

    coupling: AbstractCoupling
    weight: float | Float[Array, ""]

    def __check_init__(self):
        _checks.positive("weight", self.weight)

    def __call__(
        self,
        x0: Float[Array, "b ..."],
        x1: Float[Array, "b ..."],
        conditions: Float[Array, "b *k"],
        *,
        key: PRNGKeyArray,
    ) -> Pairs:
        """Pair source points with target points.

        Raises:
            ValueError: As the coupling, or sizes of batches and conditions differ.
        """
        _check_batches(x0, x1, one_to_one=True)
        _checks.same_size("conditions", conditions, "x1", x1)
        _checks.floating("conditions", conditions)
        marks = jnp.sqrt(jnp.asarray(self.weight, x0.dtype)) * _flat(conditions)
        marked = (jnp.concatenate([_flat(x), marks], axis=1) for x in (x0, x1))
        return self.coupling(*marked, key=key)


class Diagnostics(NamedTuple):
    """What a plan does to the pairs drawn from it.

    Attributes:
        information: Mutual information of source and target, in nats: 0 where they are
            independent, log(number of points) where each has one partner.
        share: The same over its greatest value, the least log of both numbers of points.
        spread: Standard deviation of the targets given their source, root mean square: how
            far the pairs are from a map, and about the width over which a flow trained on
            them is blurred. 0 for a map; sqrt(epsilon d / 2) between Gaussians far wider
            than that.
    """

    information: Float[Array, ""]
    share: Float[Array, ""]
    spread: Float[Array, ""]


def diagnose(plan: EntropicPlan) -> Diagnostics:
    """Where between independent pairs and a map a plan of point clouds lies. O(n m)."""
    rows, columns = plan.marginals
    mass = jnp.sum(rows)
    gains = rows @ plan.f + columns @ plan.g - plan.transport_cost
    information = gains / (plan.epsilon * mass) - jnp.log(
        mass / (jnp.sum(plan.a) * jnp.sum(plan.b))
    )
    most = jnp.log(jnp.asarray(min(plan.geometry.shape), mass.dtype))
    cloud = plan.geometry
    if not isinstance(cloud, PointCloud):
        _checks.reject("plan", "is between costs without points", "solve it on a PointCloud")
    centre = jnp.mean(cloud.y, axis=0)[None, :]
    squares = jnp.sum((cloud.y - centre) ** 2, axis=1)
    of_images = jnp.sum((plan.barycentric_map() - centre) ** 2, axis=1)
    spread = jnp.maximum(columns @ squares - rows @ of_images, 0) / mass
    return Diagnostics(information, information / most, jnp.sqrt(spread))


def _regularised(
    coupling: Entropic | Unbalanced, x0: Array, x1: Array
) -> tuple[PointCloud, Float[Array, ""]]:
    """Costs between two batches, and the regularisation in their units."""
    _check_batches(x0, x1, one_to_one=False)
    geometry = _geometry(x0, x1, coupling.cost)
    epsilon = jnp.asarray(coupling.epsilon, x0.dtype)
    if coupling.relative:
        epsilon = epsilon * jnp.mean(geometry.map_rows(lambda costs: jnp.mean(jnp.abs(costs))))
    return geometry, epsilon


def _geometry(x0: Array, x1: Array, cost: AbstractCost) -> PointCloud:
    x0, x1 = jax.lax.stop_gradient((x0, x1))
    return PointCloud(_flat(x0), _flat(x1), cost)


def _flat(batch: Array) -> Float[Array, "b d"]:
    return batch.reshape(batch.shape[0], -1)


def _check_batches(x0: Array, x1: Array, *, one_to_one: bool) -> None:
    _checks.batch("x0", x0)
    _checks.batch("x1", x1)
    _checks.same_dimension("x1", x1, "x0", x0)
    if one_to_one:
        _checks.same_size("x1", x1, "x0", x0)
