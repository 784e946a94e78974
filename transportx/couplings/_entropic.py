"""Pairs drawn from entropic plans, balanced and unbalanced."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

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
    """Entropic coupling: draws a source for every target from the entropic plan given that target.

    Sources may repeat or be left out; targets never are. Draws are independent given the
    plan, so a mean over pairs is an unbiased estimate of that over the plan of the batches;
    the plan of the batches is itself a biased estimate of that between the laws, as with
    `Assignment`. A small epsilon approaches `Assignment`, a large one `Independent`:
    `diagnose` measures where between. O(n b) per step of the solver.

    Attributes:
        epsilon: Regularisation, positive.
        relative: Whether epsilon is in units of the batch's mean absolute cost, or of the cost.
        cost: Cost between two flattened examples.
        solver: Solver of the plan, with tolerance and step limit. A plan short of its tolerance
            is used up to a marginal error of 0.1, and its status says so; beyond, the
            indices of sources are out of range.
        layout: Mesh of devices that share the costs, with batches over its one axis, and the rows
            of costs computed at once. The number of devices divides the sizes of both batches.
            The plan is that of the whole batches: plans between the blocks of each device would
            pair other points.

    Example:
        >>> x0, x1 = jnp.array([[0.0], [5.0]]), jnp.array([[5.1], [0.1]])
        >>> i0, i1 = tx.couplings.Entropic(0.01)(x0, x1, key=jr.key(0))
        >>> i0.tolist(), i1.tolist()
        ([1, 0], [0, 1])

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
        """The entropic plan that pairs are drawn from.

        Args:
            x0: Source batch, shape (n, ...).
            x1: Target batch, shape (b, ...).
            init: Potentials to start from, such as `plan.potentials` of a batch of the same
                sources and of nearby targets in the same order; by default epsilon is annealed.
        """
        geometry, unit = _with_unit(self, x0, x1, self.layout)
        epsilon = jnp.asarray(self.epsilon, unit.dtype) * unit
        return solve(geometry, epsilon=epsilon, init=init, solver=self.solver)

    @_checks.gate
    @eqx.filter_jit
    def draw(self, plan: EntropicPlan, *, key: PRNGKeyArray) -> Pairs:
        """Draw a source for every target of a plan between clouds."""
        return _pairs(plan.sample_sources(key=key), None, plan)


@_checks.gate
class Unbalanced(AbstractCoupling):
    """Unbalanced coupling: draws pairs from an unbalanced plan, which leaves outliers out.

    There are as many pairs as targets. A point is drawn in proportion to the mass of its row
    or column of the plan, so far points hardly ever are: moving mass at a cost well above
    2 rho does not pay. Labels travel with the indices of the targets drawn.

    Attributes:
        epsilon: Regularisation, positive.
        rho: Penalty on both marginals, positive.
        relative: Whether epsilon and rho are in units of the batch's mean absolute cost, or of
            the cost.
        cost: Cost between two flattened examples.
        solver: Solver of the plan, with tolerance and step limit.

    Example:
        >>> x0 = jnp.array([[0.0], [1.0], [100.0]])  # the last one is an outlier
        >>> coupling = tx.couplings.Unbalanced(0.1, rho=1.0, relative=False)
        >>> i0, i1 = coupling(x0, x0[:2], key=jr.key(0))
        >>> bool(jnp.all(i0 < 2))
        True

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
        return _pairs(*plan.sample(key=key, num=x1.shape[0]), plan)


def _with_unit(
    coupling: Entropic | Unbalanced, x0: Array, x1: Array, layout: Layout = Layout()
) -> tuple[AbstractGeometry, Float[Array, ""]]:
    """Costs between two batches, and the unit of epsilon and rho."""
    check_batches(x0, x1, one_to_one=False)
    geometry = geometry_between(x0, x1, coupling.cost, layout)
    unit = geometry.mean_cost() if coupling.relative else jnp.ones((), geometry.dtype)
    # Where nothing costs anything, every plan is as good, at any epsilon.
    return geometry, jnp.where(unit == 0, 1, unit)


def _pairs(i0: Int[Array, " b"], i1: Int[Array, " b"] | None, plan: EntropicPlan) -> Pairs:
    """Pairs drawn from a plan, or poison if too much of its mass is misplaced."""
    x0, x1 = points_of(plan)
    met = plan.converged | (plan.marginal_error <= _USABLE)
    known = jnp.all(jnp.isfinite(plan.f)) & jnp.all(jnp.isfinite(plan.g))
    usable = met & known & jnp.all(i0 < x0.shape[0])
    if i1 is not None:
        usable &= jnp.all(i1 < x1.shape[0])
    return pairs_or_poison(i0, i1, usable, plan.status, x0, x1)
