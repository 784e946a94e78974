"""A two-layer network as a measure over its neurons."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, ScalarLike

from transportx import _checks
from transportx.geometry.internal import default_tile
from transportx.gradient_flows import Measure
from transportx.mean_field._activations import AbstractActivation, Relu


@_checks.gate
class Neurons(eqx.Module):
    """Positions of n neurons, the particles of a network: each maps x to u sigma(<w, x>).

    Attributes:
        inner: w, shape (n, d); or several records of them, as a `Training` holds.
        outer: u, shape (n, e), one column per output.
        activation: sigma, one for all.
        tile: Neurons visited at once; None decides by their number.
    """

    inner: Float[Array, "*k n d"]
    outer: Float[Array, "*k n e"]
    activation: AbstractActivation = Relu()
    tile: int | None = eqx.field(static=True, default=None)


@_checks.gate
class Network(eqx.Module):
    r"""$f(x) = \sum_i a_i u_i\,\sigma(\langle w_i, x\rangle)$: an integral over neurons.

    The measure is $\mu = \sum_i a_i \delta_{(w_i, u_i)}$: the order of neurons does not matter,
    and a neuron twice is one of twice the weight. For a bias, append a coordinate of ones to
    the data: activations stay homogeneous in (w, b).

    O(n m (d + e)) operations at m points. Above 2^22 pairs of a neuron and a point, neurons are
    visited in tiles, recomputed in the backward pass: memory is O(n + m) in both directions.

    Attributes:
        inner: w, shape (n, d).
        outer: u, shape (n, e), one column an output.
        weights: a, not negative, shape (n,); 1 / n each by default. A neuron of weight zero
            counts for nothing, and moves as a probe; negative weights give NaN.
        activation: sigma.
        tile: Neurons held at once; by default all up to 2^22 activations, and beyond as many
            as keep a tile within 2^20.

    Raises:
        ValueError: Shapes do not fit each other, or the data's dimension the neurons.

    Example:
        >>> network = tx.mean_field.random_network(8, dim=2, key=jr.key(0))
        >>> x = jr.normal(jr.key(1), (4, 2))
        >>> risk = tx.mean_field.Risk(x, x[:, :1])
        >>> trained = tx.mean_field.train(risk, network, t1=0.1, steps=2)
        >>> trained.final(x).shape, bool(trained.risk[-1] < trained.risk[0])
        ((4, 1), True)
    """

    inner: Float[Array, "n d"]
    outer: Float[Array, "n e"]
    weights: Float[Array, " n"] | None = None
    activation: AbstractActivation = Relu()
    tile: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        _checks.points("inner", self.inner)
        _checks.points("outer", self.outer)
        _checks.same_size("outer", self.outer, "inner", self.inner)
        if self.weights is not None:
            _checks.floating("weights", self.weights)
            if self.weights.shape != self.inner.shape[:1]:
                cure = f"give one number a neuron, shape {self.inner.shape[:1]}"
                _checks.reject("weights", f"has shape {self.weights.shape}", cure)
        if self.tile is not None:
            _checks.count("tile", self.tile)

    @property
    def neurons(self) -> Neurons:
        """Positions without weights."""
        return Neurons(self.inner, self.outer, self.activation, self.tile)

    @property
    def measure(self) -> Measure:
        """Neurons and their masses, on which a functional such as `Risk` is defined."""
        return Measure(self.neurons, self.masses)

    @property
    def masses(self) -> Float[Array, " n"]:
        """The weights, also where they are left to the default; NaN where negative."""
        if self.weights is None:
            n = self.inner.shape[0]
            return jnp.full(n, 1 / n, self.inner.dtype)
        return jnp.where(self.weights < 0, jnp.nan, self.weights).astype(self.inner.dtype)

    @_checks.gate
    def with_neurons(
        self, neurons: Neurons, weights: Float[Array, " n"] | None = None
    ) -> "Network":
        """The same kind of network of other neurons."""
        return Network(neurons.inner, neurons.outer, weights, self.activation, self.tile)

    @_checks.gate
    def __call__(self, x: Float[Array, "m d"]) -> Float[Array, "m e"]:
        """Outputs at each row of `x`."""
        _checks.points("x", x)
        _checks.same_dimension("x", x, "inner", self.inner)
        return outputs(self.neurons, self.masses, x)


@_checks.gate
def random_network(
    num: int,
    *,
    dim: int,
    num_outputs: int = 1,
    scale: ScalarLike = 1.0,
    activation: AbstractActivation = Relu(),
    key: PRNGKeyArray,
    dtype: DTypeLike | None = None,
) -> Network:
    """Draw a network of independent neurons, w and u of normal entries of deviation `scale`.

    Args:
        num: Number of neurons, at least 1.
        dim: Number of coordinates of the data.
        num_outputs: Number of outputs.
        scale: Standard deviation of every entry of w and u, positive.
        activation: sigma, the activation of all neurons.
        key: Randomness.
        dtype: Floating-point dtype of the weights; the default one of JAX if None.

    Raises:
        ValueError: A count is not a positive integer, or `scale` a Python number that is not
            positive.

    Example:
        >>> network = tx.mean_field.random_network(4, dim=2, key=jr.key(0))
        >>> network(jnp.ones((3, 2))).shape
        (3, 1)
    """
    for name, count in (("num", num), ("dim", dim), ("num_outputs", num_outputs)):
        _checks.count(name, count)
    inner_key, outer_key = jr.split(key)
    inner = jr.normal(inner_key, (num, dim), dtype)
    outer = jr.normal(outer_key, (num, num_outputs), dtype)
    scale = _checks.positive_value("scale", scale, inner.dtype)
    return Network(scale * inner, scale * outer, activation=activation)


def outputs(
    neurons: Neurons, masses: Float[Array, " n"], x: Float[Array, "m d"]
) -> Float[Array, "m e"]:
    """The integral of all neurons at each row of `x`."""
    rows = neurons.inner, neurons.outer, masses
    tile = _rows_at_once(neurons, x.shape[0])
    if neurons.inner.shape[0] <= tile:
        return _summand(neurons.activation, rows, x)

    # Of a checkpointed summand, the backward pass keeps nothing but its neurons.
    summand = jax.checkpoint(_summand, prevent_cse=False)

    def add(total, tile):
        return total + summand(neurons.activation, tile, x), None

    zero = jnp.zeros((x.shape[0], neurons.outer.shape[1]), x.dtype)
    return jax.lax.scan(add, zero, _split(rows, tile))[0]


def map_tiles(
    neurons: Neurons, function: Callable[[Neurons], PyTree[Array]], num_points: int
) -> PyTree[Array]:
    """Apply `function` to tiles of neurons, as many as go with that many points.

    Each row of its result, of leading axis t, may depend on the same neuron alone. In the
    backward pass, of any order, it is computed again.
    """
    n = neurons.inner.shape[0]
    tile = _rows_at_once(neurons, num_points)
    if n <= tile:
        return function(neurons)
    # Inside a scan nothing can merge the recomputation with the first pass.
    tiles = jax.lax.map(jax.checkpoint(function, prevent_cse=False), _split(neurons, tile))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:n], tiles)


def _rows_at_once(neurons: Neurons, m: int) -> int:
    n = neurons.inner.shape[0]
    # Activations with what makes them and what is made of them: a few arrays of this size.
    return default_tile(n, m, copies=4) if neurons.tile is None else neurons.tile


def _summand(activation: AbstractActivation, rows, x) -> Float[Array, "m e"]:
    inner, outer, masses = rows
    activated = activation(product(inner, x.T))
    return product(activated.T, masses[:, None] * outer)


def _split(rows, tile: int):
    """Tiles of even size, filled up with neurons that are zero."""
    n = jax.tree.leaves(rows)[0].shape[0]
    count = -(-n // tile)
    size = -(-n // count)

    def split(array):
        padding = [(0, count * size - n), *[(0, 0)] * (array.ndim - 1)]
        return jnp.pad(array, padding).reshape(count, size, *array.shape[1:])

    return jax.tree.map(split, rows)


def product(left: Float[Array, "a b"], right: Float[Array, "b c"]) -> Float[Array, "a c"]:
    """A product of matrices in full precision."""
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)
