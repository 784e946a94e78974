"""Couplings of two batches: independent, exact optimal transport, entropic."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from transportx import _checks
from transportx.geometry import AbstractCost, PointCloud, SquaredEuclidean
from transportx.ot import Sinkhorn, assignment, solve

Pairs = tuple[Int[Array, " b"], Int[Array, " b"]]


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
            Indices (i0, i1) of the b pairs; i1 is a permutation of the targets.

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

    Sources may repeat or be left out; targets never are. A small epsilon approaches
    `Assignment`, a large one `Independent`. O(n b) a step of Sinkhorn.

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
    solver: Sinkhorn = Sinkhorn()

    def __check_init__(self):
        _checks.positive("epsilon", self.epsilon)

    def __call__(
        self, x0: Float[Array, "n ..."], x1: Float[Array, "b ..."], *, key: PRNGKeyArray
    ) -> Pairs:
        _check_batches(x0, x1, one_to_one=False)
        geometry = _geometry(x0, x1, self.cost)
        epsilon = jnp.asarray(self.epsilon, x0.dtype)
        if self.relative:
            epsilon = epsilon * jnp.mean(geometry.map_rows(lambda costs: jnp.mean(jnp.abs(costs))))
        plan = solve(geometry, epsilon=epsilon, solver=self.solver)
        index = jnp.arange(x1.shape[0])
        usable = jnp.all(jnp.isfinite(plan.f))
        return jnp.where(usable, plan.sample_sources(key=key), index % x0.shape[0]), index


def _geometry(x0: Array, x1: Array, cost: AbstractCost) -> PointCloud:
    x0, x1 = jax.lax.stop_gradient((x0, x1))
    return PointCloud(x0.reshape(x0.shape[0], -1), x1.reshape(x1.shape[0], -1), cost)


def _check_batches(x0: Array, x1: Array, *, one_to_one: bool) -> None:
    _checks.batch("x0", x0)
    _checks.batch("x1", x1)
    _checks.same_dimension("x1", x1, "x0", x0)
    if one_to_one:
        _checks.same_size("x1", x1, "x0", x0)
