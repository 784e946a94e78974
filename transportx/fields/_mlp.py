"""A multilayer perceptron for points."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from transportx import _checks, _numbers
from transportx.fields._fourier_features import fourier_features

_SCALE, _ALPHA = 1.0507009873554805, 1.6732632423543772


@jax.custom_jvp
def selu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """SELU, as `jax.nn.selu` up to rounding, in two thirds of its time on a CPU.

    exp(x) - 1 is 2 tanh(x/2) / (1 - tanh(x/2)): where x <= 0, nothing cancels.
    """
    half = jnp.tanh(x / 2)
    return jnp.where(x > 0, _SCALE * x, 2 * _SCALE * _ALPHA * half / (1 - half))


@selu.defjvp
def selu_jvp(primals, tangents):
    (x,), (tangent,) = primals, tangents
    y = selu(x)
    return y, jnp.where(x > 0, _SCALE, y + _SCALE * _ALPHA) * tangent


@_checks.gate
class MLP(eqx.Module):
    """A multilayer perceptron on R^dim, with time and condition appended to the point.

    It computes in float32 at least, or in the dtype of its parameters if that is wider, and returns
    the dtype of the point: parameters kept in a half are widened for the computation.

    Args:
        dim: Dimension of the points.
        width: Units per hidden layer.
        depth: Number of hidden layers.
        condition_dim: Length of `args`, a vector that conditions the field; with 0, `args` is
            ignored.
        num_frequencies: Number of pairs of Fourier features of time, beside t itself.
        activation: Elementwise nonlinearity; SELU by default.
        key: Randomness of the initial parameters.

    Raises:
        ValueError: A size is not a positive integer; when called, a point or condition has another
            length.

    Example:
        >>> field = tx.fields.MLP(2, 8, 1, condition_dim=3, key=jr.key(0))
        >>> field(jnp.array(0.5), jnp.ones(2), jnp.ones(3)).shape
        (2,)
    """

    layers: tuple[eqx.nn.Linear, ...]
    activation: Callable[[Array], Array] = eqx.field(static=True)
    dim: int = eqx.field(static=True)
    condition_dim: int = eqx.field(static=True)
    num_frequencies: int = eqx.field(static=True)

    def __init__(
        self,
        dim: int,
        width: int,
        depth: int,
        *,
        condition_dim: int = 0,
        num_frequencies: int = 0,
        activation: Callable[[Array], Array] = selu,
        key: PRNGKeyArray,
    ):
        _checks.count("dim", dim)
        _checks.count("width", width)
        _checks.count("depth", depth)
        _checks.count("condition_dim", condition_dim, least=0)
        _checks.count("num_frequencies", num_frequencies, least=0)
        inputs = dim + condition_dim + 1 + 2 * num_frequencies
        sizes = [inputs, *[width] * depth, dim]
        keys = jr.split(key, depth + 1)
        self.layers = tuple(
            eqx.nn.Linear(size, following, key=k)
            for size, following, k in zip(sizes[:-1], sizes[1:], keys, strict=True)
        )
        self.activation = activation
        self.dim = dim
        self.condition_dim = condition_dim
        self.num_frequencies = num_frequencies

    @_checks.gate
    def __call__(self, t: Float[Array, ""], x: Float[Array, " d"], args=None) -> Float[Array, " d"]:
        """Velocity at one point and time.

        Args:
            t: Time, in [0, 1].
            x: One point, shape (dim,).
            args: Condition of this point, shape (condition_dim,); ignored where that is 0.
        """
        if x.shape != (self.dim,):
            cure = f"give one point of shape ({self.dim},), and batch with vmap"
            _checks.reject("x", f"has shape {x.shape}", cure)
        inputs = [x, fourier_features(_numbers.widened(t), self.num_frequencies)]
        if self.condition_dim:
            inputs.append(self._condition(args))
        *inputs, weight = _numbers.matched(*inputs, self.layers[0].weight)
        hidden = jnp.concatenate(inputs)
        layers = jax.tree.map(lambda leaf: leaf.astype(weight.dtype), self.layers)
        for layer in layers[:-1]:
            hidden = self.activation(_affine(layer, hidden))
        return _affine(layers[-1], hidden).astype(x.dtype)

    def _condition(self, args) -> Float[Array, " c"]:
        shape = getattr(args, "shape", None)
        if shape != (self.condition_dim,):
            cure = f"give a vector of shape ({self.condition_dim},)"
            _checks.reject("args", f"has shape {shape}", cure)
        _checks.floating("args", args)
        return args


def _affine(layer: eqx.nn.Linear, x: Float[Array, " inputs"]) -> Float[Array, " outputs"]:
    """The layer at x, axes in the order that spares a batch of tangents their transpositions."""
    assert layer.bias is not None
    return x @ layer.weight.T + layer.bias
