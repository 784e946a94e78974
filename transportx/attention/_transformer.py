"""A transformer as Euler's scheme: one field of tokens per layer, one step each."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray, ScalarLike

from transportx import _checks
from transportx.attention._layers import Block
from transportx.attention._mixing import AbstractMixing

Tokens = Float[Array, "n d"]
Weights = Float[Array, " n"]


@_checks.gate
class Transformer(eqx.Module):
    r"""Transformer of residual blocks, $x_{l+1} = x_l + h\,v_l(x_l)$: Euler's scheme for tokens.

    A layer is a step of length h of its own field; with one block for all it is `evolve` of
    that block's `field`. All blocks run in one `lax.scan`: compile time does not grow with
    depth.

    Attributes:
        blocks: One `Block` whose arrays have a leading axis of layers.
        step: h, positive, the scale of every residual: 1 / depth for a flow to depth 1. Trained too
            where it is an array.

    Args:
        dim: Size d of a token.
        depth: Number of layers.
        heads: Number of heads of each layer, a divisor of `dim`.
        hidden: Number of units in the hidden layer of each block's network.
        mixing: The rule by which scores become weights.
        step: h, the scale of every residual.
        key: Randomness of the initial weights.

    Raises:
        ValueError: A size is not a positive integer, `heads` does not divide `dim`, or `step`
            is a Python number that is not positive.

    Example:
        >>> model = tx.attention.Transformer(
        ...     4, depth=2, heads=2, hidden=8, mixing=tx.attention.Softmax(), key=jr.key(0)
        ... )
        >>> tokens = jr.normal(jr.key(1), (3, 4))
        >>> model(tokens).shape, model.path(tokens).shape  # the path is the residual stream
        ((3, 4), (3, 3, 4))

    References:
        Sander, Ablin, Blondel and Peyre, Sinkformers, 2022, section 4; Geshkovski, Letrouit,
        Polyanskiy and Rigollet, A mathematical perspective on transformers, 2023, section 2.
    """

    blocks: Block
    step: ScalarLike

    def __init__(
        self,
        dim: int,
        *,
        depth: int,
        heads: int,
        hidden: int,
        mixing: AbstractMixing,
        step: ScalarLike = 1.0,
        key: PRNGKeyArray,
    ):
        for name, size in (("dim", dim), ("depth", depth)):
            _checks.count(name, size)
        _checks.positive("step", step)
        make = eqx.filter_vmap(lambda k: Block(dim, heads, hidden, mixing, key=k))
        self.blocks = make(jr.split(key, depth))
        self.step = step

    @_checks.gate
    def __call__(self, x: Tokens, weights: Weights | None = None) -> Tokens:
        """Tokens after the last layer."""
        return self._run(x, weights)[0]

    @_checks.gate
    def path(self, x: Tokens, weights: Weights | None = None) -> Float[Array, "l n d"]:
        """Tokens before the first layer and after each: depth + 1 sets."""
        return jnp.concatenate([x[None], self._run(x, weights)[1]])

    @_checks.gate
    def layer(self, index: int) -> Block:
        """The block of one layer."""
        arrays, static = eqx.partition(self.blocks, eqx.is_array)
        return eqx.combine(jax.tree.map(lambda leaf: leaf[index], arrays), static)

    def _run(self, x, weights):
        x = x.astype(jnp.result_type(x, self.blocks.attention.query))
        step = _checks.positive_value("step", self.step, x.dtype)
        arrays, static = eqx.partition(self.blocks, eqx.is_array)

        def advance(x, block):
            x = x + step * eqx.combine(block, static)(x, weights)
            return x, x

        return jax.lax.scan(advance, x, arrays)
