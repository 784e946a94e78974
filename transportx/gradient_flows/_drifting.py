"""Drifting: the mean shift to a target less the mean shift to oneself."""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from transportx import _checks
from transportx._meshes import released
from transportx.geometry import Layout, PointCloud, cloud_between
from transportx.geometry.internal import SumExp
from transportx.gradient_flows._functional import (
    AbstractFunctional,
    Cloud,
    Derivatives,
    Particles,
    Scalar,
    Weights,
    as_measure,
    as_weights,
)
from transportx.gradient_flows._kernels import AbstractRadialKernel, NegativeDistance


@_checks.gate
class Drifting(AbstractFunctional):
    r"""Drifting to a target: mean shift to the target less mean shift to oneself.

    Particles move by $V(x) = \frac{\sum_j b_j k(x, y_j) (y_j - x)}{\sum_j b_j k(x, y_j)} -
    \frac{\sum_i a_i k(x, x_i) (x_i - x)}{\sum_i a_i k(x, x_i)}$: `gradient` is -V, so that an Euler
    step of size one is the published one. With a `Gaussian` kernel of bandwidth h, V is $h^2$ times
    the difference of the scores of both measures smoothed by it. `value` is $\sum_i a_i
    \log\frac{(k * a)(x_i)}{(k * b)(x_i)}$, the relative entropy of the smoothed measures where the
    kernel is narrow: it is zero between equal measures, may be negative, and V is not its
    Wasserstein gradient, which also has the pull of every point on the density of all others. A
    flow need not lower it. O((n + m) n d) a call, streamed.

    Attributes:
        target: Points.
        kernel: A positive kernel of this room: `Laplace` as published, `Gaussian`,
            `InverseMultiquadric`.
        weights: Weights of the target points, shape (m,); uniform of total one by default.
        layout: The devices that share the pairs, points and target lying over the mesh's one
            axis; their number divides those of both.

    Raises:
        ValueError: The kernel is negative.

    Example:
        >>> gf = tx.gradient_flows
        >>> F = gf.Drifting(jnp.array([[1.0]]), gf.Laplace(0.5))
        >>> F.gradient(jnp.array([[0.0]])).tolist()  # one point drifts to the other
        [[-1.0]]

    References:
        Deng, Li, Li, Du and He, Generative modeling via drifting, 2026, equation 8.
    """

    target: Float[Array, "m d"]
    kernel: AbstractRadialKernel
    weights: Float[Array, " m"] | None = None
    layout: Layout = Layout()

    def __check_init__(self):
        as_weights(self.target, self.weights, "target")
        _checks.divided("target", self.target, self.layout.mesh)
        if isinstance(self.kernel, NegativeDistance):
            _checks.reject("kernel", "is negative", "give a positive kernel, as `Laplace(0.5)`")

    @property
    def conservative(self) -> bool:
        return False

    @_checks.gate
    def value(self, x: Cloud, weights: Weights) -> Scalar:
        return self.derivatives(x, weights).value

    @_checks.gate
    def derivatives(self, x: Particles, weights: Weights | None = None) -> Derivatives:
        x, a = as_measure(x, weights)
        _checks.same_dimension("x", x, "target", self.target)
        _checks.divided("x", x, self.layout.mesh)
        target, x, a = released(self.layout.mesh, (self.target, x, a))
        b = as_weights(target, self.weights, "target")
        x, y = PointCloud(x, target).weighed(a, b).centred()
        a, b = a.astype(x.dtype), b.astype(x.dtype)
        own = _smoothed(self.kernel, self.layout, x, x, a)
        theirs = _smoothed(self.kernel, self.layout, x, y, b)
        logs = own.logs - theirs.logs
        # A product with the weight zero of a point that nothing reaches.
        counted = jnp.where(a == 0, 0, logs)
        return Derivatives(a @ counted, own.means - theirs.means, logs)


class _Smoothed(NamedTuple):
    """At points: means of a cloud, weighed by the kernel, and logs of its smoothed density."""

    means: Cloud
    logs: Weights


def _smoothed(kernel, layout, x, y, b) -> _Smoothed:
    origin = jnp.zeros_like(x[0])
    cloud = cloud_between(x, y, kernel.squares, layout=layout, centre=origin)
    columns = jnp.concatenate([b[:, None], b[:, None] * y], axis=1)
    peaks, sums = cloud.fold_tiles(SumExp(), eqx.Partial(_part, kernel), columns)
    return _Smoothed(sums[:, 1:] / sums[:, :1], peaks + jnp.log(sums[:, 0]))


def _part(kernel, columns, squares):
    return SumExp.part(columns, kernel.log_profile(squares))
