"""Distances to a target known by points: by kernels, by entropic and by sliced transport."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray, ScalarLike

from transportx import _checks
from transportx.geometry import AbstractCost, Layout, SquaredEuclidean
from transportx.gradient_flows._functional import (
    AbstractFunctional,
    Cloud,
    Scalar,
    Weights,
    as_pytree,
    as_weights,
)
from transportx.gradient_flows._kernels import NegativeDistance
from transportx.gradient_flows._sums import between_sum, within_sum
from transportx.ot import (
    AbstractSolver,
    Newton,
    SinkhornDivergence,
    sinkhorn_divergence,
    wasserstein_1d,
)

Target = Float[Array, "m d"]
TargetWeights = Float[Array, " m"]


@_checks.gate
class MMD(AbstractFunctional):
    r"""$\mathrm{MMD}^2 = \iint k(x, y)\,d(\alpha - \beta)(x)\,d(\alpha - \beta)(y)$.

    The square, with no factor 1/2; pairs of a point with itself are counted. O((n + m)^2 d)
    a call, streamed. It is convex in the measure but not along transport: particles far
    from the target, on the scale of the kernel, may stay there.

    Attributes:
        target: Points of beta.
        kernel: Symmetric positive kernel: a module of this room, or any callable
            `k(x, y) -> scalar` with finite derivatives where x = y.
        weights: Weights of the target points, shape (m,); uniform of total one by default.
        layout: The devices that share the pairs, points and target lying over the mesh's one
            axis; their number divides those of both.

    Example:
        >>> kernel = tx.gradient_flows.Gaussian(1.0)
        >>> F = tx.gradient_flows.MMD(jnp.array([[1.0]]), kernel)
        >>> abs(round(float(F.value(jnp.array([[1.0]]), jnp.ones(1))), 3))
        0.0

    References:
        Arbel, Korba, Salim and Gretton, Maximum mean discrepancy gradient flow, 2019.
    """

    target: Target
    kernel: AbstractCost | Callable[[Array, Array], Array] = eqx.field(converter=as_pytree)
    weights: TargetWeights | None = None
    layout: Layout = Layout()

    def __check_init__(self):
        as_weights(self.target, self.weights, "target")
        _checks.divided("target", self.target, self.layout.mesh)

    @_checks.gate
    def value(self, x: Cloud, weights: Weights) -> Scalar:
        _checks.same_dimension("x", x, "target", self.target)
        y, b = self.target, as_weights(self.target, self.weights)
        within = within_sum(self.kernel, x, weights, self.layout)
        within = within + within_sum(self.kernel, y, b, self.layout)
        return within - 2 * between_sum(self.kernel, x, weights, y, b, self.layout)


@_checks.gate
def energy_distance_squared(
    target: Target, weights: TargetWeights | None = None, *, layout: Layout = Layout()
) -> MMD:
    """Squared energy distance $2 E|X - Y| - E|X - X'| - E|Y - Y'|$ to a target.

    The `MMD` of the kernel -|x - y|: no scale to choose, and pulls that do not fade with
    distance. Points that meet do not push each other: their derivative is taken as zero.

    Args:
        target: Points of the target, shape (m, d).
        weights: Weights of the target's points, shape (m,); uniform by default.
        layout: The devices that share the pairs, points and target lying over the mesh's one
            axis; their number divides those of both.

    Example:
        >>> F = tx.gradient_flows.energy_distance_squared(jnp.array([[1.0]]))
        >>> x, weights = jnp.array([[0.0], [2.0]]), jnp.array([0.5, 0.5])
        >>> round(float(F.value(x, weights)), 2)  # 2 - 1 - 0
        1.0

    References:
        Hertrich, Wald, Altekruger and Hagemann, Generative sliced MMD flows with Riesz
        kernels, 2024.
    """
    return MMD(target, NegativeDistance(), weights, layout)


@_checks.gate
class SinkhornDivergenceTo(AbstractFunctional):
    r"""Debiased entropic transport to a target; between transport and a kernel distance.

    A measure that is a translate of the target moves there rigidly, at the rate
    $e^{-2t}$. O((n + m)^2) a pair of Sinkhorn steps, streamed. Weights must have the
    target's mass.

    Attributes:
        target: Points.
        epsilon: Regularisation, in units of the cost; details below its root stay unmatched.
        weights: Weights of the target points, shape (m,); uniform of total one by default.
        cost: Symmetric cost with exp(-cost / epsilon) a positive kernel, as squared distances are.
        solver: Its tolerance bounds the error of the gradient.
        layout: The devices that share the costs, points and target lying over the mesh's one
            axis; their number divides those of both.

    References:
        Feydy, Sejourne, Vialard, Amari, Trouve and Peyre, 2019.
    """

    target: Target
    epsilon: ScalarLike
    weights: TargetWeights | None = None
    cost: AbstractCost = SquaredEuclidean()
    solver: AbstractSolver = Newton()
    layout: Layout = Layout()

    def __check_init__(self):
        as_weights(self.target, self.weights, "target")
        _checks.divided("target", self.target, self.layout.mesh)
        _checks.positive("epsilon", self.epsilon)

    @_checks.gate
    def divergence(self, x: Cloud, weights: Weights | None = None) -> SinkhornDivergence:
        """The divergence with its plans, duality gap and status; uniform weights by default."""
        return sinkhorn_divergence(
            x,
            self.target,
            weights,
            self.weights,
            epsilon=self.epsilon,
            cost=self.cost,
            solver=self.solver,
            layout=self.layout,
        )

    @_checks.gate
    def gap(self, x: Cloud, weights: Weights | None = None) -> Scalar:
        return self.divergence(x, weights).gap

    @_checks.gate
    def value(self, x: Cloud, weights: Weights) -> Scalar:
        return self.divergence(x, weights).value


@_checks.gate
class SlicedWasserstein(AbstractFunctional):
    """$SW_2^2$: the mean over directions of W2^2 between the projections.

    With fixed directions it is a smooth energy, whose flow has one end; few directions
    leave the others unmatched. O(k (n + m)(d + log(n + m))) for k directions.

    Attributes:
        target: Points.
        directions: Unit vectors, shape (k, d), as `random_directions` draws.
        weights: Weights of the target points, shape (m,); uniform of total one by default.

    Example:
        >>> directions = tx.gradient_flows.random_directions(key=jr.key(0), num=4, dim=1)
        >>> x = jnp.array([[0.0], [1.0]])
        >>> F = tx.gradient_flows.SlicedWasserstein(x, directions)
        >>> abs(round(float(F.value(x, jnp.array([0.5, 0.5]))), 3))
        0.0

    References:
        Bonneel, Rabin, Peyre and Pfister, Sliced and Radon Wasserstein barycenters, 2015.
    """

    target: Target
    directions: Float[Array, "k d"]
    weights: TargetWeights | None = None

    def __check_init__(self):
        as_weights(self.target, self.weights, "target")
        _checks.points("directions", self.directions)
        _checks.same_dimension("directions", self.directions, "target", self.target)

    @_checks.gate
    def value(self, x: Cloud, weights: Weights) -> Scalar:
        _checks.same_dimension("x", x, "target", self.target)

        def along(direction):
            along_x = jnp.matmul(x, direction, precision="highest")
            along_y = jnp.matmul(self.target, direction, precision="highest")
            return wasserstein_1d(along_x, along_y, weights, self.weights) ** 2

        return jnp.mean(jax.lax.map(along, self.directions))


@_checks.gate
def random_directions(*, key: PRNGKeyArray, num: int, dim: int, dtype=None) -> Float[Array, "k d"]:
    """Draw independent directions, uniform on the sphere.

    Args:
        key: Randomness.
        num: How many.
        dim: Coordinates.
        dtype: JAX's default by default.

    Example:
        >>> directions = tx.gradient_flows.random_directions(key=jr.key(0), num=4, dim=3)
        >>> bool(jnp.allclose(jnp.linalg.norm(directions, axis=1), 1.0, atol=1e-5))
        True
    """
    _checks.count("num", num)
    _checks.count("dim", dim)
    normals = jr.normal(key, (num, dim)) if dtype is None else jr.normal(key, (num, dim), dtype)
    return normals / jnp.linalg.norm(normals, axis=1, keepdims=True)
