"""Pairs drawn from entropic plans, balanced and unbalanced."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from transportx import _checks
from transportx.couplings._coupling import AbstractCoupling, check_batches, geometry_between
from transportx.couplings._diagnose import points_of
from transportx.couplings._pairs import Pairs, pairs_or_poison
from transportx.geometry import AbstractCost, AbstractGeometry, Layout, SquaredEuclidean
from transportx.ot import AbstractSolver, EntropicPlan, Newton, Potentials, solve

# What the default solver of couplings leaves undone is far below the noise of a batch.
_ROUGH = Newton(tol=1e-2, max_steps=1000)
# Marginal error up to which pairs are drawn from a plan short of its tolerance: still far
# below the noise of drawing, by which the counts of b sources drawn b times are off by 0.7.
_USABLE = 0.1


@_checks.gate
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
        solver: Tolerance and step limit. A plan short of its tolerance is used up to a
            marginal error of 0.1, and its status says so; beyond, indices are out of range.
        layout: The devices that share the costs, batches lying over the mesh's one axis; their
            number divides the sizes of both. The plan is that of the whole batches: plans
            of every device's share would pair other points.

    References:
        Tong et al., Improving and generalizing flow-based generative models with minibatch
        optimal transport, 2023, section 3.2.4.
    """

    epsilon: float | Float[Array, ""]
    relative: bool = eqx.field(static=True, default=True)
    cost: AbstractCost = SquaredEuclidean()
    solver: AbstractSolver = _ROUGH
    layout: Layout = Layout()

    def __check_init__(self):
        _checks.positive("epsilon", self.epsilon)

    @_checks.gate
    @eqx.filter_jit
    def __call__(
        self, x0: Float[Array, "n ..."], x1: Float[Array, "b ..."], *, key: PRNGKeyArray
    ) -> Pairs:
        return self.draw(self.plan(x0, x1), key=key)

    @_checks.gate
    @eqx.filter_jit
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
        geometry, unit = _with_unit(self, x0, x1, self.layout)
        epsilon = jnp.asarray(self.epsilon, unit.dtype) * unit
        return solve(geometry, epsilon=epsilon, init=init, solver=self.solver)

    @_checks.gate
    @eqx.filter_jit
    def draw(self, plan: EntropicPlan, *, key: PRNGKeyArray) -> Pairs:
        """Draw a source for every target of a plan between clouds."""
        found = plan.sample_sources(key=key), jnp.arange(plan.b.size)
        return _pairs(found, plan)


@_checks.gate
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

    @_checks.gate
    @eqx.filter_jit
    def __call__(
        self, x0: Float[Array, "n ..."], x1: Float[Array, "b ..."], *, key: PRNGKeyArray
    ) -> Pairs:
        geometry, unit = _with_unit(self, x0, x1)
        epsilon, rho = (
            jnp.asarray(number, unit.dtype) * unit for number in (self.epsilon, self.rho)
        )
        plan = solve(geometry, epsilon=epsilon, rho_a=rho, rho_b=rho, solver=self.solver)
        return _pairs(plan.sample(key=key, num=x1.shape[0]), plan)


def _with_unit(
    coupling: Entropic | Unbalanced, x0: Array, x1: Array, layout: Layout = Layout()
) -> tuple[AbstractGeometry, Float[Array, ""]]:
    """Costs between two batches, and what epsilon and rho are in units of."""
    check_batches(x0, x1, one_to_one=False)
    geometry = geometry_between(x0, x1, coupling.cost, layout)
    unit = geometry.mean_cost() if coupling.relative else jnp.ones((), geometry.dtype)
    # Where nothing costs anything, every plan is as good, at any epsilon.
    return geometry, jnp.where(unit == 0, 1, unit)


def _pairs(found: tuple[Array, Array], plan: EntropicPlan) -> Pairs:
    """Pairs drawn from a plan, if most of its mass is where it should be."""
    x0, x1 = points_of(plan)
    met = plan.converged | (plan.marginal_error <= _USABLE)
    known = jnp.all(jnp.isfinite(plan.f)) & jnp.all(jnp.isfinite(plan.g))
    in_range = jnp.all(found[0] < x0.shape[0]) & jnp.all(found[1] < x1.shape[0])
    return pairs_or_poison(found, met & known & in_range, plan.status, x0, x1)
