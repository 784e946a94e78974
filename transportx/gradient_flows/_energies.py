"""Energies of points: in a potential, between each other, and of their smoothed density."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from transportx import _checks
from transportx.geometry import AbstractCost, Layout
from transportx.gradient_flows._functional import (
    AbstractFunctional,
    Cloud,
    Particles,
    Scalar,
    Weights,
    as_pytree,
)
from transportx.gradient_flows._kernels import Gaussian
from transportx.gradient_flows._sums import product, within_sum

Point = Float[Array, " d"]


@_checks.gate
class Potential(AbstractFunctional):
    r"""$F(\alpha) = \int V\,d\alpha$.

    With $V = -\log\pi$ it is the part of $\mathrm{KL}(\alpha\,\|\,\pi)$ that moves points;
    the entropy, the other part, is noise (`Langevin`), repulsion (`Stein`) or a
    `SmoothedEntropy`.

    Attributes:
        potential: `V(x) -> scalar` of one point, an array (d,) or a pytree of arrays; a module
            may carry parameters to fit.

    Example:
        >>> bowl = tx.gradient_flows.Potential(lambda x: jnp.sum(x**2) / 2)
        >>> x, weights = jnp.array([[2.0], [0.0]]), jnp.array([0.5, 0.5])
        >>> float(bowl.value(x, weights)), bowl.gradient(x, weights).tolist()
        (1.0, [[2.0], [0.0]])
    """

    potential: Callable[..., Array] = eqx.field(converter=as_pytree)

    @_checks.gate
    def value(self, x: Particles, weights: Weights) -> Scalar:
        return jnp.sum(weights * jax.vmap(self.potential)(x))


@_checks.gate
class Interaction(AbstractFunctional):
    r"""$F(\alpha) = \frac12 \iint W(x, y)\,d\alpha(x)\,d\alpha(y)$; O(n^2) a call, streamed.

    Pairs of a point with itself are counted.

    Attributes:
        kernel: Symmetric `W(x, y) -> scalar` of two points, or an `AbstractCost`. Its
            derivative where x = y must be finite: write norms as `geometry.Euclidean` does.
        layout: The devices that share the pairs, points lying over the mesh's one axis; their
            number divides that of the points. A device sends n (d + 1) numbers for the value, and
            2 n (d + 1) for the gradient of a radial kernel of this room.

    Example:
        >>> attraction = tx.gradient_flows.Interaction(tx.geometry.SquaredEuclidean())
        >>> x, weights = jnp.array([[2.0], [0.0]]), jnp.array([0.5, 0.5])
        >>> round(float(attraction.value(x, weights)), 2)  # half the mean of |x - y|^2
        1.0
    """

    kernel: AbstractCost | Callable[[Array, Array], Array] = eqx.field(converter=as_pytree)
    layout: Layout = Layout()

    @_checks.gate
    def value(self, x: Cloud, weights: Weights) -> Scalar:
        return within_sum(self.kernel, x, weights, self.layout) / 2


@_checks.gate
class SmoothedEntropy(AbstractFunctional):
    r"""$F(\alpha) = \int \log(K_h * \alpha)\,d\alpha$ with a Gaussian $K_h$ of integral one.

    The entropy of points, which their own density does not have: its flow spreads them
    without noise, as the heat flow does in the limit of n to infinity and then h to zero.
    O(n^2 d) a call, streamed.

    Attributes:
        bandwidth: h, in units of the points; two to four times their distance. Below it
            neighbours do not see each other and nothing moves.
        layout: The devices that share the pairs, points lying over the mesh's one axis; their
            number divides that of the points.

    References:
        Carrillo, Craig and Patacchini, A blob method for diffusion, 2019.
    """

    bandwidth: ScalarLike
    layout: Layout = Layout()

    def __check_init__(self):
        _checks.positive("bandwidth", self.bandwidth)

    @_checks.gate
    def value(self, x: Cloud, weights: Weights) -> Scalar:
        width = _checks.positive_value("bandwidth", self.bandwidth, x.dtype)
        _checks.divided("x", x, self.layout.mesh)
        sums = product(Gaussian(width), x, x, weights, self.layout)
        # Of a far point of weight zero the sum may underflow; its logarithm must not be infinite.
        logs = jnp.log(jnp.maximum(sums, jnp.finfo(x.dtype).tiny))
        scale = x.shape[1] / 2 * jnp.log(2 * jnp.pi * width**2)
        return jnp.sum(weights * (logs - scale))


@_checks.gate
def kl_divergence(
    log_density: Callable[[Point], Scalar], *, bandwidth: ScalarLike, layout: Layout = Layout()
) -> AbstractFunctional:
    r"""$\mathrm{KL}(K_h * \alpha\,\|\,\pi)$ of points up to O(h^2): its flow samples without noise.

    The sum of ``Potential(-log_density)`` and ``SmoothedEntropy(bandwidth)``. An unnormalised
    density shifts the value by a constant.

    Args:
        log_density: Log-density of one point, differentiable; a score alone goes through
            `potential_from_score`, negated.
        bandwidth: h of the smoothed entropy.
        layout: The devices that share the pairs, points lying over the mesh's one axis; their
            number divides that of the points.

    Example:
        >>> target = tx.gradient_flows.kl_divergence(lambda x: -jnp.sum(x**2) / 2, bandwidth=0.5)
        >>> x = jnp.array([[3.0], [4.0]])
        >>> path = tx.gradient_flows.flow(target, x, t1=1.0, steps=10)
        >>> bool(path.energy[-1] < path.energy[0])
        True
    """
    return Potential(_Negative(log_density)) + SmoothedEntropy(bandwidth, layout)


@_checks.gate
def potential_from_score(score: Callable[[Point], Point]) -> Callable[[Point], Scalar]:
    r"""A potential known by its gradient alone: $\nabla V = -\mathrm{score}$.

    Its value is NaN, for it is not known, and so is every energy that it is part of;
    gradients, dissipation and the flow, with its derivatives, are right.

    Args:
        score: $\nabla\log\pi$ of one point; a module may carry parameters.
    """
    return _PotentialOfScore(score)


class _Negative(eqx.Module):
    function: Callable[[Array], Array] = eqx.field(converter=as_pytree)

    def __call__(self, x: Point) -> Scalar:
        return -self.function(x)


class _PotentialOfScore(eqx.Module):
    score: Callable[[Array], Array] = eqx.field(converter=as_pytree)

    def __call__(self, x: Point) -> Scalar:
        return _unknown(x, self.score)


@eqx.filter_custom_jvp
def _unknown(x, score):
    return jnp.nan * jnp.sum(x)


@_unknown.def_jvp
def _unknown_jvp(primals, tangents):
    (x, score), (direction, _) = primals, tangents
    slope = jnp.zeros((), x.dtype) if direction is None else -jnp.sum(score(x) * direction)
    return jnp.nan * jnp.sum(x), slope
