"""Stein dynamics: descent in the metric of a kernel."""

from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, ScalarLike

from transportx import _checks
from transportx._meshes import released
from transportx.geometry import AbstractCost
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
        kernel: Of this room, or any callable `k(x, y) -> scalar`.
        temperature: T, not negative; may be traced.
        mesh: As in `Interaction`.

    References:
        Liu and Wang, Stein variational gradient descent, 2016.
    """

    kernel: AbstractCost | Callable[[Array, Array], Array] = eqx.field(converter=as_pytree)
    temperature: ScalarLike = 1.0
    mesh: Mesh | None = eqx.field(static=True, default=None)
    lowers_energy: ClassVar[bool] = False

    def __check_init__(self):
        _checks.not_negative("temperature", self.temperature)

    @_checks.gate
    def velocities(self, slopes: Cloud, x: Cloud, weights: Weights) -> Cloud:
        _checks.divided("x", x, self.mesh)
        slopes, x, weights = released(self.mesh, (slopes, x, weights))
        temperature = _checks.not_negative_value("temperature", self.temperature, x.dtype)
        pulls = weights[:, None] * slopes
        if isinstance(self.kernel, AbstractRadialKernel):
            smoothed, attraction = product_and_slopes(
                self.kernel, x, x, pulls, weights, weights, self.mesh
            )
            return -temperature * attraction - smoothed
        # The sum over j of derivatives by x_j is the derivative by a shift of them all.
        shift = jnp.zeros(x.shape[1], x.dtype)
        shifted = jax.jacfwd(lambda s: product(self.kernel, x, x + s[None, :], weights, self.mesh))
        return temperature * shifted(shift) - product(self.kernel, x, x, pulls, self.mesh)
