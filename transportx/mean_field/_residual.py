"""Residual networks as measures over depth and neurons, trained in conditional transport."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, PRNGKeyArray, ScalarLike

from transportx import _checks
from transportx.gradient_flows import AbstractFunctional, Measure
from transportx.gradient_flows.internal import as_measure
from transportx.mean_field._activations import AbstractActivation, Relu
from transportx.mean_field._losses import square_loss
from transportx.mean_field._network import Network, Neurons, random_network
from transportx.mean_field._risk import Loss
from transportx.metrics import wasserstein2

Scalar = Float[Array, ""]


@_checks.gate
class ResidualNetwork(eqx.Module):
    r"""$x_{s + 1/L} = x_s + \frac1L f_{\mu_s}(x_s)$ for s = 0, 1 / L, ...: L layers of neurons.

    The measure is $\frac1L\sum_s \delta_s\otimes\mu_s$. With depth it approaches the equation
    $\dot x = f_{\mu_s}(x)$, of first order in 1 / L where $\mu_s$ is smooth in s.

    Attributes:
        layers: One `Network` whose arrays have a further leading axis of length L, with as many
            outputs as inputs, as `random_residual_network` makes it.
    """

    layers: Network

    def __check_init__(self):
        shapes = self.layers.inner.shape, self.layers.outer.shape
        if len(shapes[0]) != 3 or shapes[0] != shapes[1]:
            cure = "give arrays (L, n, d) of L layers with as many outputs as inputs"
            _checks.reject("layers", f"has shapes {shapes}", cure)

    @property
    def depth(self) -> int:
        """L."""
        return self.layers.inner.shape[0]

    @property
    def measure(self) -> Measure:
        """The neurons of all layers, the first layer first, with their masses, of total one."""
        neurons = jax.tree.map(lambda leaf: leaf.reshape(-1, leaf.shape[-1]), self.layers.neurons)
        masses = jax.vmap(lambda layer: layer.masses)(self.layers) / self.depth
        return Measure(neurons, masses.reshape(-1))

    @_checks.gate
    def with_neurons(
        self, neurons: Neurons, weights: Float[Array, " n"] | None = None
    ) -> "ResidualNetwork":
        """The residual network of other neurons.

        Args:
            neurons: The neurons of all layers, as `measure` orders them.
            weights: Their masses; uniform of total one by default.
        """
        size = neurons.inner.shape[0]
        even = jnp.full(size, 1 / size, neurons.inner.dtype)
        return _layered(self.depth, neurons, even if weights is None else weights)

    @_checks.gate
    def __call__(self, x: Float[Array, "m d"]) -> Float[Array, "m d"]:
        """Outputs at each row of `x`; the backward pass keeps one state a layer."""
        x = x.astype(jnp.result_type(x, self.layers.inner))

        def step(x, layer):
            return x + layer(x) / self.depth, None

        return jax.lax.scan(jax.checkpoint(step, prevent_cse=False), x, self.layers)[0]


@_checks.gate
def random_residual_network(
    depth: int,
    num: int,
    *,
    dim: int,
    scale: ScalarLike = 1.0,
    activation: AbstractActivation = Relu(),
    key: PRNGKeyArray,
) -> ResidualNetwork:
    """Draw a residual network: layers of `random_network`, independent of each other.

    Args:
        depth: Number L of layers, at least 1.
        num: Number of neurons of each layer.
        dim: Number of coordinates of the data, also that of every layer's output.
        scale: Standard deviation of every entry of w and u, positive.
        activation: sigma, the activation of all neurons.
        key: Randomness.

    Raises:
        ValueError: A count is not a positive integer, or `scale` not positive.

    Example:
        >>> network = tx.mean_field.random_residual_network(3, 4, dim=2, key=jr.key(0))
        >>> network(jnp.ones((5, 2))).shape
        (5, 2)
    """
    _checks.count("depth", depth)

    def layer(key):
        options = {"dim": dim, "num_outputs": dim, "scale": scale, "activation": activation}
        return random_network(num, key=key, **options)

    return ResidualNetwork(eqx.filter_vmap(layer)(jr.split(key, depth)))


@_checks.gate
def conditional_wasserstein2(one: ResidualNetwork, other: ResidualNetwork) -> Scalar:
    r"""$\big(\frac1L\sum_s W_2^2(\mu_s, \nu_s)\big)^{1/2}$: neurons move within their layer alone.

    The distance in which training by a `ResidualRisk` is steepest descent, between networks of
    one depth and width, of neurons of one weight; exact, O(L n^3) at worst.

    Raises:
        ValueError: The shapes differ.

    References:
        Barboni, Peyre and Vialard, Understanding the training of infinitely deep and wide
        ResNets with conditional optimal transport, 2024.
    """
    _checks.same_shape("other", other.layers.inner, "one", one.layers.inner)
    pairs = ((net.layers.inner, net.layers.outer) for net in (one, other))
    thetas = (jnp.concatenate(pair, axis=2) for pair in pairs)
    distances = jax.lax.map(lambda pair: wasserstein2(*pair), tuple(thetas))
    square = jnp.mean(distances**2)
    distance = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), square)
    return jnp.where(_even(one) & _even(other), distance, jnp.nan)


def _even(network: ResidualNetwork) -> Bool[Array, ""]:
    """Whether all neurons weigh the same, up to rounding."""
    masses = network.measure.weights
    slack = 10 * jnp.finfo(masses.dtype).eps
    return jnp.all(jnp.abs(masses * masses.size - 1) <= slack)


@_checks.gate
class ResidualRisk(AbstractFunctional):
    r"""The mean loss of a residual network, as a functional of its measure over depth and neurons.

    Its particles are the neurons of all layers, in the order of `ResidualNetwork.measure`, and
    stay in their layer: its Wasserstein flow is the flow in conditional transport, in which the
    risk falls at the rate $\frac1L\sum_{s,i} a_{s,i}|\dot\theta_{s,i}|^2$.

    Attributes:
        x: Data, shape (m, d).
        y: Targets, shape (m, d), as the loss wants them.
        depth: L, the number of layers.
        loss: Loss of one example, `loss(prediction, target) -> scalar`, such as `square_loss`.

    Raises:
        ValueError: Shapes do not fit, or `depth` is not positive.
    """

    x: Float[Array, "m d"]
    y: Float[Array, "m d"]
    depth: int = eqx.field(static=True)
    loss: Loss = eqx.field(static=True, default=square_loss)

    def __check_init__(self):
        _checks.points("x", self.x)
        _checks.same_shape("y", self.y, "x", self.x)
        _checks.count("depth", self.depth)

    @_checks.gate
    def value(self, x: Neurons, weights: Float[Array, " n"]) -> Scalar:
        network = _layered(self.depth, *as_measure(x, weights))
        return jnp.mean(jax.vmap(self.loss)(network(self.x), self.y))


def _layered(depth: int, neurons: Neurons, weights: Float[Array, " n"]) -> ResidualNetwork:
    """The residual network of a measure."""
    if weights.size % depth:
        problem = f"has {weights.size} neurons for {depth} layers"
        _checks.reject("x", problem, "give as many to each layer")

    def layer(neurons, weights):
        return Network(neurons.inner, neurons.outer, weights, neurons.activation, neurons.tile)

    split = jax.tree.map(lambda leaf: leaf.reshape(depth, -1, *leaf.shape[1:]), (neurons, weights))
    return ResidualNetwork(jax.vmap(layer)(split[0], depth * split[1]))
