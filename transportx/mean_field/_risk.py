"""The risk as a functional of the measure over neurons."""

from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray, ScalarLike

from transportx import _checks
from transportx.gradient_flows import (
    AbstractFunctional,
    AbstractStochasticFunctional,
    Derivatives,
)
from transportx.gradient_flows.internal import as_measure
from transportx.mean_field._losses import square_loss
from transportx.mean_field._network import Neurons, map_tiles, outputs, product

Scalar = Float[Array, ""]
Loss = Callable[[Float[Array, " e"], Float[Array, " e"]], Scalar]


@_checks.gate
class Risk(AbstractFunctional):
    r"""$R(\mu) = \frac1m\sum_j \ell(f_\mu(x_j), y_j) + \frac\lambda2\int|\theta|^2 d\mu(\theta)$.

    It is a convex functional of $\mu$ where $\ell$ is convex in f, although not of the neurons.
    Its first variation at a neuron $\theta = (w, u)$ is
    $V(\theta) = \frac1m\sum_j\langle\nabla\ell_j, u\rangle\sigma(\langle w, x_j\rangle)
    + \frac\lambda2|\theta|^2$.

    Attributes:
        x: Data, shape (m, d).
        y: Targets, shape (m, e), as the loss wants them.
        loss: Loss of one example: `square_loss` (with its 1/2), `logistic_loss`, `softmax_loss`, or
            any differentiable `loss(prediction, target) -> scalar`.
        ridge: lambda, not negative; may be traced.

    Raises:
        ValueError: Shapes do not fit, or `ridge` is a negative Python number.

    Example:
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> risk = tx.mean_field.Risk(x, x[:, :1])
        >>> network = tx.mean_field.Network(jnp.eye(2), jnp.zeros((2, 1)))
        >>> round(float(risk.value(*network.measure)), 2)  # the mean of y^2 / 2
        0.25

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
    def value(self, x: Neurons, weights: Float[Array, " n"]) -> Scalar:
        x, weights = as_measure(x, weights)
        return self._of_outputs(self._outputs(x, weights)) + weights @ self._penalty(x)

    @_checks.gate
    def derivatives(self, x: Neurons, weights: Float[Array, " n"] | None = None) -> Derivatives:
        """The risk, its Wasserstein gradient and its first variation V at the neurons.

        All three for the price of the gradient, about three predictions. The gradient is that
        of V, also at neurons of weight zero: they move as probes.
        """
        x, weights = as_measure(x, weights)
        predicted = self._outputs(x, weights)
        forces = self._forces(predicted)

        def of_tile(neurons):
            # Each V depends on its own neuron alone.
            variation, pull = jax.vjp(partial(self._variation, forces), neurons)
            return pull(jnp.ones_like(variation))[0], variation

        slopes, variation = map_tiles(x, of_tile, self.x.shape[0])
        penalty = weights @ self._penalty(x)
        return Derivatives(self._of_outputs(predicted) + penalty, slopes, variation)

    @_checks.gate
    def batch(self, rows: Int[Array, " b"]) -> "Risk":
        """The risk on some of the data, given by their indices; NaN beyond the last."""
        x, y = (data.at[rows].get(mode="fill", fill_value=jnp.nan) for data in (self.x, self.y))
        return Risk(x, y, self.loss, self.ridge)

    def _outputs(self, neurons: Neurons, weights: Float[Array, " n"]) -> Float[Array, "m e"]:
        _checks.same_dimension("risk.x", self.x, "neurons.inner", neurons.inner)
        _checks.same_dimension("risk.y", self.y, "neurons.outer", neurons.outer)
        return outputs(neurons, weights, self.x)

    def _of_outputs(self, outputs: Float[Array, "m e"]) -> Scalar:
        return jnp.mean(jax.vmap(self.loss)(outputs, self.y))

    def _forces(self, outputs: Float[Array, "m e"]) -> Float[Array, "m e"]:
        """Derivatives of the mean loss by the outputs."""
        return jax.grad(self._of_outputs)(outputs)

    def _variation(self, forces: Float[Array, "m e"], neurons: Neurons) -> Float[Array, " k"]:
        felt = product(neurons.activation(product(neurons.inner, self.x.T)), forces)
        return jnp.sum(felt * neurons.outer, axis=1) + self._penalty(neurons)

    def _penalty(self, neurons: Neurons) -> Float[Array, " k"]:
        squares = jnp.sum(neurons.inner**2, axis=1) + jnp.sum(neurons.outer**2, axis=1)
        return _checks.not_negative_value("ridge", self.ridge, self.x.dtype) / 2 * squares


@_checks.gate
class MiniBatches(AbstractStochasticFunctional):
    """A risk seen in mini-batches: `train` then is stochastic gradient descent.

    Every step descends the risk on examples drawn anew, without replacement; recorded are the
    risk and its dissipation on all data. As the steps get shorter it follows the flow of the
    risk itself.

    Attributes:
        risk: The risk on all data.
        batch_size: Examples per step, at most as many as there are.

    References:
        Mei, Montanari and Nguyen, A mean field view of the landscape of two-layer neural
        networks, 2018.
    """

    risk: Risk
    batch_size: int = eqx.field(static=True)

    def __check_init__(self):
        rows = self.risk.x.shape[0]
        _checks.count("batch_size", self.batch_size)
        if self.batch_size > rows:
            cure = f"give at most the {rows} examples"
            _checks.reject("batch_size", f"is {self.batch_size}", cure)

    @_checks.gate
    def value(self, x: Neurons, weights: Float[Array, " n"]) -> Scalar:
        return self.risk.value(x, weights)

    @_checks.gate
    def derivatives(self, x: Neurons, weights: Float[Array, " n"] | None = None) -> Derivatives:
        return self.risk.derivatives(x, weights)

    @_checks.gate
    def draw(self, key: PRNGKeyArray) -> Risk:
        rows = self.risk.x.shape[0]
        return self.risk.batch(jr.choice(key, rows, (self.batch_size,), replace=False))
