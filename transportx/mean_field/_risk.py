"""The risk as a functional of the measure over neurons."""

from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, ScalarLike

from transportx import _checks
from transportx.mean_field._activations import AbstractActivation
from transportx.mean_field._losses import square_loss
from transportx.mean_field._network import Network, Neurons, product

Scalar = Float[Array, ""]
Loss = Callable[[Float[Array, " e"], Float[Array, " e"]], Scalar]


@_checks.gate
class Risk(eqx.Module):
    r"""$R(\mu) = \frac1m\sum_j \ell(f_\mu(x_j), y_j) + \frac\lambda2\int|\theta|^2 d\mu(\theta)$.

    It is a convex functional of $\mu$ where $\ell$ is convex in f, although not of the neurons.
    Its first variation at a neuron $\theta = (w, u)$ is
    $V(\theta) = \frac1m\sum_j\langle\nabla\ell_j, u\rangle\sigma(\langle w, x_j\rangle)
    + \frac\lambda2|\theta|^2$.

    Attributes:
        x: Data, shape (m, d).
        y: Targets, shape (m, e), as the loss wants them.
        loss: Of one example: `square_loss` (with its 1/2), `logistic_loss`, `softmax_loss`, or
            any differentiable `loss(prediction, target) -> scalar`.
        ridge: lambda, not negative; may be traced.

    Raises:
        ValueError: Shapes do not fit, or `ridge` is a negative Python number.

    References:
        Chizat and Bach, On the global convergence of gradient descent for over-parameterized
        models using optimal transport, 2018; Mei, Montanari and Nguyen, A mean field view of
        the landscape of two-layer neural networks, 2018.
    """

    x: Float[Array, "m d"]
    y: Float[Array, "m e"]
    loss: Loss = eqx.field(static=True, default=square_loss)
    ridge: ScalarLike = 0.0

    def __check_init__(self):
        _checks.points("x", self.x)
        _checks.points("y", self.y)
        _checks.same_size("y", self.y, "x", self.x)
        _checks.not_negative("ridge", self.ridge)

    @_checks.gate
    def __call__(self, network: Network) -> Scalar:
        """The risk of a network."""
        penalty = network.masses @ self._penalty(network.neurons)
        return self._of_outputs(self._outputs(network)) + penalty

    @_checks.gate
    def first_variation(self, neurons: Neurons, network: Network) -> Float[Array, " k"]:
        """V at any neurons: what mass put there adds to the risk of `network`, per mass.

        It costs two predictions, of `network` and of as many neurons as are asked about.
        """
        forces = self._forces(self._outputs(network))
        probes = network.with_neurons(neurons)
        variation = partial(self._variation, network.activation, forces)
        return probes.map_tiles(variation, self.x.shape[0])

    @_checks.gate
    def gradient(self, network: Network) -> Neurons:
        r"""Wasserstein gradient: $\nabla V(\theta_i)$.

        It is the derivative of the risk by the neuron, over its weight: for n neurons of one
        weight, $n \nabla_{\theta_i} R$. The flow has velocity minus this.
        """
        return self.derivatives(network)[1]

    @_checks.gate
    def derivatives(self, network: Network) -> tuple[Scalar, Neurons, Float[Array, " n"]]:
        """Value, Wasserstein gradient and V at the network's own neurons.

        All three for the price of the gradient, about three predictions.
        """
        outputs = self._outputs(network)
        forces = self._forces(outputs)

        def of_tile(neurons):
            # Each V depends on its own neuron alone.
            variation, pull = jax.vjp(partial(self._variation, network.activation, forces), neurons)
            return pull(jnp.ones_like(variation))[0], variation

        slopes, variation = network.map_tiles(of_tile, self.x.shape[0])
        penalty = network.masses @ self._penalty(network.neurons)
        return self._of_outputs(outputs) + penalty, slopes, variation

    @_checks.gate
    def batch(self, rows: Int[Array, " b"]) -> "Risk":
        """The risk on some of the data, given by their indices; NaN beyond the last."""
        x, y = (data.at[rows].get(mode="fill", fill_value=jnp.nan) for data in (self.x, self.y))
        return Risk(x, y, self.loss, self.ridge)

    def _outputs(self, network: Network) -> Float[Array, "m e"]:
        outputs = network(self.x)
        _checks.same_shape("y", self.y, "network(x)", outputs)
        return outputs

    def _of_outputs(self, outputs: Float[Array, "m e"]) -> Scalar:
        return jnp.mean(jax.vmap(self.loss)(outputs, self.y))

    def _forces(self, outputs: Float[Array, "m e"]) -> Float[Array, "m e"]:
        """Derivatives of the mean loss by the outputs."""
        return jax.grad(self._of_outputs)(outputs)

    def _variation(
        self, activation: AbstractActivation, forces: Float[Array, "m e"], neurons: Neurons
    ) -> Float[Array, " k"]:
        felt = product(activation(product(neurons.inner, self.x.T)), forces)
        return jnp.sum(felt * neurons.outer, axis=1) + self._penalty(neurons)

    def _penalty(self, neurons: Neurons) -> Float[Array, " k"]:
        squares = sum(jnp.sum(part**2, axis=1) for part in neurons)
        return _checks.not_negative_value("ridge", self.ridge, self.x.dtype) / 2 * squares
