"""A transformer as Euler's scheme: one field of tokens a layer, one step each."""

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
    r"""Blocks in a row, $x_{l+1} = x_l + h\,v_l(x_l)$: Euler's scheme for tokens in motion.

    A layer is a step of length h of its own field; with one block for all it is `evolve` of
    that block's `field`. All blocks run in one `lax.scan`: compile time does not grow with
    depth.

    Example:
        ```python
        sizes = {"depth": 6, "heads": 4, "hidden": 128, "step": 0.5}
        model = tx.attention.Transformer(64, mixing=tx.attention.Softmax(4.0), key=key, **sizes)
        last = jax.vmap(model)(batch)               # (b, n, 64)
        path = model.path(batch[0])                 # (7, n, 64): the residual stream
        ```

    Attributes:
        blocks: One `Block` whose arrays have a leading axis of layers.
        step: h, the scale of every residual: 1 / depth for a flow to depth 1. Trained too
            where it is an array.

    Args:
        dim: Size of a token.
        depth: Layers.
        heads: As in `SelfAttention`.
        hidden: As in `Block`.
        mixing: As in `SelfAttention`.
        step: As above.
        key: Initialisation.

    Raises:
        ValueError: A size is not a positive integer, `heads` does not divide `dim`, or `step`
            is a Python number that is not positive.

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
        """One layer's block."""
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
