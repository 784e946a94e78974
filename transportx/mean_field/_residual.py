"""Residual networks as measures over depth and neurons, trained in conditional transport."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, PRNGKeyArray, ScalarLike

from transportx import _checks, _numbers
from transportx._status import Status, judge, rose
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
    """L layers of `random_network`, independent of each other.

    Raises:
        ValueError: A count is not a positive integer, or `scale` not positive.
    """
    _checks.count("depth", depth)

    def layer(key):
        options = {"dim": dim, "num_outputs": dim, "scale": scale, "activation": activation}
        return random_network(num, key=key, **options)

    return ResidualNetwork(eqx.filter_vmap(layer)(jr.split(key, depth)))


@_checks.gate
def conditional_wasserstein2(one: ResidualNetwork, other: ResidualNetwork) -> Scalar:
    r"""$\big(\frac1L\sum_s W_2^2(\mu_s, \nu_s)\big)^{1/2}$: neurons move within their layer alone.

    The distance in which `train_residual` is steepest descent. Between networks of one depth
    and width, of neurons of one weight; exact, O(L n^3) at worst.

    Raises:
        ValueError: The shapes differ, or a network has weights.

    References:
        Barboni, Peyre and Vialard, Understanding the training of infinitely deep and wide
        ResNets with conditional optimal transport, 2024.
    """
    for name, network in (("one", one), ("other", other)):
        if network.layers.weights is not None:
            _checks.reject(name, "has weights", "give neurons of one weight, `weights=None`")
    _checks.same_shape("other", other.layers.inner, "one", one.layers.inner)
    thetas = (jnp.concatenate(network.layers.neurons, axis=2) for network in (one, other))
    distances = jax.lax.map(lambda pair: wasserstein2(*pair), tuple(thetas))
    square = jnp.mean(distances**2)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), square)


@_checks.gate
class ResidualTraining(eqx.Module):
    """A recorded training of a residual network at k times.

    Attributes:
        times: When.
        networks: One network whose arrays have a further leading axis, of length k.
        risk: Of each record.
        dissipation: Minus its derivative in time.
        status: How it ended.
    """

    times: Float[Array, " k"]
    networks: ResidualNetwork
    risk: Float[Array, " k"]
    dissipation: Float[Array, " k"]
    status: Status

    @property
    def completed(self) -> Bool[Array, "..."]:
        """Whether all is finite and the risk never rose."""
        return self.status == Status.COMPLETED

    @_checks.gate
    def network(self, index: int) -> ResidualNetwork:
        """The network of one record."""
        return jax.tree.map(lambda leaf: leaf[index], self.networks)


@_checks.gate
def train_residual(
    network: ResidualNetwork,
    x: Float[Array, "m d"],
    y: Float[Array, "m d"],
    *,
    t1: ScalarLike,
    num_steps: int,
    loss: Loss = square_loss,
) -> ResidualTraining:
    r"""Gradient descent of the mean loss on the clock of the limit of depth and width.

    $\dot\theta_{s,i} = -L\,\nabla_{\theta_{s,i}} R / a_{s,i}$, by Euler's steps, each of them
    recorded: steepest descent in `conditional_wasserstein2`, where the risk falls at the rate
    $\frac1L\sum_{s,i} a_{s,i}|\dot\theta_{s,i}|^2$. Depth and width drop out of time.

    Args:
        network: At time 0.
        x: Data.
        y: Targets, as the loss wants them.
        t1: Last time, positive; may be traced.
        num_steps: Steps.
        loss: Of one example.

    Raises:
        ValueError: Data do not fit the network, or a number is not positive.

    Differentiation:
        Forward and reverse mode through the steps.
    """
    _checks.points("x", x)
    _checks.same_shape("y", y, "x", x)
    _checks.positive("t1", t1)
    _checks.count("num_steps", num_steps)
    step = _numbers.not_negative(t1, x.dtype) / num_steps
    return _train(network, x, y, step, num_steps, loss)


@eqx.filter_jit
def _train(network, x, y, step, num_steps, loss) -> ResidualTraining:
    def described(neurons):
        value, slopes = jax.value_and_grad(_risk)(neurons, network, x, y, loss)
        velocity = jax.tree.map(lambda slope: -_per_mass(slope, network), slopes)
        power = -sum(jnp.sum(a * b) for a, b in zip(slopes, velocity, strict=True))
        return velocity, value, power

    def descend(neurons, _):
        velocity, value, power = described(neurons)
        moved = jax.tree.map(lambda theta, v: theta + step * v, neurons, velocity)
        return moved, (neurons, value, power)

    last, (neurons, risk, power) = jax.lax.scan(
        descend, network.layers.neurons, None, length=num_steps
    )
    _, value, dissipation = described(last)
    records = (neurons, risk, power), (last, value, dissipation)
    neurons, risk, power = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), *records)
    networks = eqx.filter_vmap(lambda theta: _with_neurons(network, theta))(neurons)
    times = step * jnp.arange(num_steps + 1, dtype=step.dtype)
    finite = jnp.all(jnp.isfinite(risk)) & jnp.all(jnp.isfinite(last.inner))
    status = judge(
        (~finite, Status.NON_FINITE), (rose(risk), Status.ROSE), otherwise=Status.COMPLETED
    )
    return ResidualTraining(times, networks, risk, power, status)


def _risk(neurons: Neurons, network: ResidualNetwork, x, y, loss: Loss) -> Scalar:
    return jnp.mean(jax.vmap(loss)(_with_neurons(network, neurons)(x), y))


def _with_neurons(network: ResidualNetwork, neurons: Neurons) -> ResidualNetwork:
    made = jax.vmap(lambda layer, part: layer.with_neurons(part, layer.weights))
    return ResidualNetwork(made(network.layers, neurons))


def _per_mass(slope: Float[Array, "l n d"], network: ResidualNetwork) -> Float[Array, "l n d"]:
    """Derivatives by the neurons over their share of the measure; zero where it is."""
    depth, n, _ = slope.shape
    weights = network.layers.weights
    masses = jnp.full((depth, n), 1 / n, slope.dtype) if weights is None else weights
    present = masses > 0
    inverse = jnp.where(present, depth / jnp.where(present, masses, 1), 0)
    return slope * inverse[:, :, None]
