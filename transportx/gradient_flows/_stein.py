"""Stein dynamics: descent in the metric of a kernel."""

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ScalarLike

from transportx import _checks
from transportx._meshes import released
from transportx.geometry import AbstractCost, Layout
from transportx.gradient_flows._dynamics import AbstractVelocity
from transportx.gradient_flows._functional import Cloud, Weights, as_pytree
from transportx.gradient_flows._kernels import AbstractRadialKernel
from transportx.gradient_flows._sums import product, product_and_slopes


@_checks.gate
class Stein(AbstractVelocity):
    r"""Stein variational descent: the velocity is the gradient smoothed by a kernel.

    $\dot x_i = \sum_j w_j (T \nabla_{x_j} k(x_j, x_i) - k(x_j, x_i) \nabla_j)$, where
    $\nabla_j$ is the Wasserstein gradient at x_j: descent of $F + T\int\rho\log\rho$ in the
    kernel's metric, without noise. With ``Potential`` of $-\log\pi$ and T = 1 it is SVGD.
    O(n^2 d) a call for a radial kernel of this room, d times that for any other; streamed. The
    recorded energy is F without the entropy.

    Attributes:
        kernel: Reproducing kernel of this room, or any callable `k(x, y) -> scalar`.
        temperature: T, not negative; may be traced.
        layout: The devices that share the pairs, points lying over the mesh's one axis; their
            number divides that of the points.

    References:
        Liu and Wang, Stein variational gradient descent, 2016.
    """

    kernel: AbstractCost | Callable[[Array, Array], Array] = eqx.field(converter=as_pytree)
    temperature: ScalarLike = 1.0
    layout: Layout = Layout()
    lowers_energy: ClassVar[bool] = False

    def __check_init__(self):
        _checks.not_negative("temperature", self.temperature)

    @_checks.gate
    def velocities(self, slopes: Cloud, x: Cloud, weights: Weights) -> Cloud:
        _checks.divided("x", x, self.layout.mesh)
        slopes, x, weights = released(self.layout.mesh, (slopes, x, weights))
        temperature = _checks.not_negative_value("temperature", self.temperature, x.dtype)
        pulls = weights[:, None] * slopes
        if isinstance(self.kernel, AbstractRadialKernel):
            smoothed, attraction = product_and_slopes(
                self.kernel, x, x, pulls, weights, weights, self.layout
            )
            return -temperature * attraction - smoothed
        # The sum over j of derivatives by x_j is the derivative by a shift of them all.
        shift = jnp.zeros(x.shape[1], x.dtype)

        def shifted(shift):
            return product(self.kernel, x, x + shift[None, :], weights, self.layout)

        smoothed = product(self.kernel, x, x, pulls, self.layout)
        return temperature * jax.jacfwd(shifted)(shift) - smoothed
