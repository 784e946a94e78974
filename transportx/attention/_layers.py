"""Trainable layers: attention with matrices of its own, and a block of it and a network."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from transportx import _checks
from transportx.attention._attention import Attention
from transportx.attention._dynamics import TokenField
from transportx.attention._mixing import AbstractMixing

Tokens = Float[Array, "n d"]
Weights = Float[Array, " n"]


@_checks.gate
class SelfAttention(eqx.Module):
    r"""Trainable multi-head attention: $\sum_h O_h V_h$ is the value matrix of the field.

    Sinkhorn attention replaces softmax by one argument. Called with (x, y, weights) like
    `Attention`, which `field` is; one set of tokens, batched by `vmap`.

    Attributes:
        query: Q, one matrix per head, shape (h, k, d) with k = d / h.
        key: K, one matrix per head, shape (h, k, d).
        value: V, one matrix per head, shape (h, k, d).
        output: O, the block of the output matrix of each head, shape (h, d, k).
        mixing: The rule by which scores become weights. Its temperature is trained too where it is
            an array.

    Args:
        dim: Size d of a token.
        heads: Number h of heads.
        mixing: The rule by which scores become weights. For random matrices the root of d / h is
            a temperature at which scores are of order one.
        key: Randomness of the initial matrices: normal, so that every product keeps the size of
            unit coordinates.

    Raises:
        ValueError: `heads` does not divide `dim`, or either is not a positive integer.

    Differentiation:
        That of the mixing, exact: implicit for Sinkhorn attention, no iteration unrolled.

    Example:
        >>> layer = tx.attention.SelfAttention(4, 2, tx.attention.Softmax(), key=jr.key(0))
        >>> x = jr.normal(jr.key(1), (3, 4))
        >>> layer(x, x).shape
        (3, 4)

    References:
        Vaswani et al., Attention is all you need, 2017, section 3.2.2; Sander, Ablin, Blondel
        and Peyre, Sinkformers, 2022, section 3.
    """

    query: Float[Array, "h k d"]
    key: Float[Array, "h k d"]
    value: Float[Array, "h k d"]
    output: Float[Array, "h d k"]
    mixing: AbstractMixing

    def __init__(self, dim: int, heads: int, mixing: AbstractMixing, *, key: PRNGKeyArray):
        _checks.count("dim", dim)
        _checks.count("heads", heads)
        if dim % heads:
            _checks.reject("heads", f"is {heads} for dim {dim}", "give a divisor of the dimension")
        shape = heads, dim // heads, dim
        *keys, last = jr.split(key, 4)
        self.query, self.key, self.value = (jr.normal(k, shape) / dim**0.5 for k in keys)
        self.output = jr.normal(last, (heads, dim, dim // heads)) / dim**0.5
        self.mixing = mixing

    @property
    def field(self) -> Attention:
        """The in-context field of these matrices."""
        highest = jax.lax.Precision.HIGHEST
        value = jnp.matmul(self.output, self.value, precision=highest)
        return Attention(self.query, self.key, value, self.mixing)

    @_checks.gate
    def __call__(
        self, x: Tokens, y: Float[Array, "m d"], weights: Float[Array, " m"] | None = None
    ) -> Tokens:
        """The field at each row of `x`, in the context of tokens `y`.

        Args:
            x: Points at which it is evaluated, shape (n, d).
            y: Tokens of the context, shape (m, d); `x` itself for self-attention.
            weights: Their masses, shape (m,); uniform by default.
        """
        return self.field(x, y, weights)


@_checks.gate
class Block(eqx.Module):
    r"""Transformer block as one field of tokens: $v(x)_i = \Gamma[N\alpha](N x_i) + p(N x_i)$.

    N is a layer norm, Gamma the attention among normalised tokens, p a network of one hidden
    layer: both see the same tokens, so that the layer is one field and not two in turn.

    Attributes:
        norm: N, with a trained scale and shift.
        attention: Gamma.
        network: p.

    Args:
        dim: Size d of a token.
        heads: Number of heads, a divisor of `dim`.
        hidden: Number of units of p's hidden layer.
        mixing: The rule by which scores become weights.
        key: Randomness of the initial weights.

    Example:
        >>> block = tx.attention.Block(4, 2, 8, tx.attention.Softmax(), key=jr.key(0))
        >>> block(jr.normal(jr.key(1), (3, 4))).shape
        (3, 4)

    References:
        Wang and Komatsuzaki, GPT-J-6B, 2021 (attention and network side by side).
    """

    norm: eqx.nn.LayerNorm
    attention: SelfAttention
    network: eqx.nn.MLP

    def __init__(
        self, dim: int, heads: int, hidden: int, mixing: AbstractMixing, *, key: PRNGKeyArray
    ):
        for name, size in (("dim", dim), ("hidden", hidden)):
            _checks.count(name, size)
        keys = jr.split(key)
        self.norm = eqx.nn.LayerNorm(dim)
        self.attention = SelfAttention(dim, heads, mixing, key=keys[0])
        self.network = eqx.nn.MLP(dim, dim, hidden, 1, activation=jax.nn.gelu, key=keys[1])

    @property
    def field(self) -> TokenField:
        """The velocity as a field, which everything in this room and in `sampling` takes."""
        return TokenField(self.attend, self.pointwise)

    @_checks.gate
    def attend(
        self, x: Tokens, y: Float[Array, "m d"], weights: Float[Array, " m"] | None = None
    ) -> Tokens:
        """Velocity due to attention at each row of `x`.

        Args:
            x: Points at which it is evaluated, shape (n, d).
            y: Tokens of the context, shape (m, d).
            weights: Their masses, shape (m,); uniform by default.
        """
        return self.attention(self.normalise(x), self.normalise(y), weights)

    @_checks.gate
    def pointwise(self, token: Float[Array, " d"]) -> Float[Array, " d"]:
        """Velocity due to the network of one token (d,)."""
        _checks.shaped("token", token, self.norm.shape, "one token of the layer's dimension")
        return self.network(self.norm(token))

    @_checks.gate
    def normalise(self, x: Tokens) -> Tokens:
        """Normalised tokens, which attention and its energies see."""
        _checks.shaped("x", x, (x.shape[0], *self.norm.shape), "tokens of the layer's dimension")
        return jax.vmap(self.norm)(x)

    @_checks.gate
    def __call__(self, x: Tokens, weights: Weights | None = None) -> Tokens:
        """Velocities of tokens of these weights."""
        return self.field(jnp.zeros((), x.dtype), x, weights)
