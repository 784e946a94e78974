"""The in-context field of attention: the velocity of a token in the measure of all tokens."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transportx import _checks
from transportx._precision import single_inside
from transportx.attention._mixing import AbstractMixing, Context
from transportx.attention._softmax import Softmax

Scalar = Float[Array, ""]
Tokens = Float[Array, "n d"]


def _heads(matrix: Array) -> Array:
    """One matrix is one head."""
    return matrix[None] if getattr(matrix, "ndim", None) == 2 else matrix


@_checks.gate
class Attention(eqx.Module):
    r"""Attention field $\Gamma[\alpha](x)$ of a weighted measure of tokens, summed over heads.

    For `Softmax`, $\Gamma[\alpha](x) = \sum_h V_h \int e^{\langle Q_h x, K_h y\rangle/\tau} y\,
    d\alpha(y) / \int e^{\langle Q_h x, K_h y\rangle/\tau} d\alpha(y)$. It depends on the tokens
    through their measure alone (unless causal): their order does not matter, and a token
    twice is a token of twice the weight.

    Above 2^24 pairs, scores are recomputed in tiles: O(n + m) memory for the field, its jvp
    and its vjp, times the number of heads.

    Attributes:
        query: Q, shape (h, k, d), or (k, d) for one head.
        key: K, of the same shape.
        value: V, shape (h, e, d): a head's value matrix times its block of the output matrix.
            Token dynamics need e = d.
        mixing: The rule by which scores become weights.

    Raises:
        ValueError: Matrices do not fit each other, or tokens the matrices.

    Example:
        >>> attention = tx.attention.Attention(jnp.eye(2), jnp.eye(2), jnp.eye(2))
        >>> tokens = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> attention(tokens, tokens).shape  # self-attention
        (3, 2)
        >>> masked = attention(tokens[:1], tokens, jnp.array([1.0, 0.0, 0.0]))
        >>> masked.tolist()  # all weight on the first token
        [[1.0, 0.0]]

    References:
        Vaswani et al., Attention is all you need, 2017; Sander, Ablin, Blondel and Peyre,
        Sinkformers, 2022.
    """

    query: Float[Array, "h k d"] = eqx.field(converter=_heads)
    key: Float[Array, "h k d"] = eqx.field(converter=_heads)
    value: Float[Array, "h e d"] = eqx.field(converter=_heads)
    mixing: AbstractMixing = Softmax()

    def __check_init__(self):
        for name in ("query", "key", "value"):
            matrix = getattr(self, name)
            if matrix.ndim != 3 or 0 in matrix.shape:
                cure = "give one matrix a head, (h, k, d), or one matrix"
                _checks.reject(name, f"has shape {matrix.shape}", cure)
            _checks.floating(name, matrix)
        _checks.same_shape("key", self.key, "query", self.query)
        heads, _, dim = self.query.shape
        if (self.value.shape[0], self.value.shape[2]) != (heads, dim):
            problem = f"has shape {self.value.shape} beside a `query` of {self.query.shape}"
            _checks.reject("value", problem, f"give shape ({heads}, e, {dim})")

    @_checks.gate
    @single_inside
    def __call__(
        self,
        x: Float[Array, "n d"],
        y: Float[Array, "m d"],
        weights: Float[Array, " m"] | None = None,
    ) -> Float[Array, "n e"]:
        """The field at each row of `x`, in the context of tokens `y`.

        Args:
            x: Points at which it is evaluated, shape (n, d).
            y: Tokens of the context, shape (m, d); `x` itself for self-attention.
            weights: Their masses, shape (m,), not negative; 1 / m each by default. A zero masks its
                token; where one is negative the field is NaN.
        """
        return jnp.sum(self._heads_at(x, y, weights, self.mixing), axis=0)

    @_checks.gate
    @single_inside
    def potential(
        self,
        x: Float[Array, "n d"],
        y: Float[Array, "m d"],
        weights: Float[Array, " m"] | None = None,
    ) -> Float[Array, " n"]:
        """Potential at each row of `x`: its gradient is the field where V = Q^T K; shape (n,)."""
        return jnp.sum(self._heads_at(x, y, weights, self.mixing.potential), axis=0)

    @_checks.gate
    @single_inside
    def energy(self, y: Tokens, weights: Float[Array, " n"] | None = None) -> Scalar:
        """Energy of the measure, as its mixing defines it.

        For `Unnormalised`, `LinearAttention` and `SinkhornAttention` with V = Q^T K symmetric
        its Wasserstein gradient is the field, so that it grows along the flow.
        """
        _check_tokens("y", y, self.query)

        def head(query, key, value):
            return self.mixing.energy(_context(query, key, value, y, weights))

        return jnp.sum(jax.vmap(head)(self.query, self.key, self.value))

    @_checks.gate
    @single_inside
    def matrix(
        self,
        x: Float[Array, "n d"],
        y: Float[Array, "m d"],
        weights: Float[Array, " m"] | None = None,
    ) -> Float[Array, "h n m"]:
        """Attention matrix: weight of each token for each row of `x`, per head, (h, n, m)."""

        def rows(queries, context):
            identity = jnp.eye(y.shape[0], dtype=y.dtype)
            return self.mixing(queries, context._replace(values=identity))

        return self._heads_at(x, y, weights, rows)

    def _heads_at(self, x, y, weights, function: Callable[[Array, Context], Array]) -> Array:
        _check_tokens("x", x, self.query)
        _check_tokens("y", y, self.query)

        def at(query, key, value):
            return function(_apply(query, x), _context(query, key, value, y, weights))

        return jax.vmap(at)(self.query, self.key, self.value)


@_checks.gate
def gradient_attention(
    query: Float[Array, "*h k d"], key: Float[Array, "*h k d"], mixing: AbstractMixing
) -> Attention:
    """Attention with V = Q^T K, for which the field is the gradient of its `potential`.

    Args:
        query: Q, shape (h, k, d), or (k, d) for one head.
        key: K, of the same shape.
        mixing: The rule by which scores become weights.

    Example:
        >>> softmax = tx.attention.Softmax()
        >>> attention = tx.attention.gradient_attention(2 * jnp.eye(2), jnp.eye(2), softmax)
        >>> attention.value[0].tolist()
        [[2.0, 0.0], [0.0, 2.0]]
    """
    value = jnp.einsum("...ki,...kj->...ij", query, key, precision=jax.lax.Precision.HIGHEST)
    return Attention(query, key, value, mixing)


def _apply(matrix: Float[Array, "k d"], x: Float[Array, "n d"]) -> Float[Array, "n k"]:
    return jnp.matmul(x, matrix.T, precision=jax.lax.Precision.HIGHEST)


def _context(query, key, value, y, weights) -> Context:
    masses = token_weights(y, weights)
    # A token of weight zero counts for nothing, even one that is not a number.
    absent = (masses == 0)[:, None] & ~jnp.isfinite(y)
    y = jnp.where(absent, 0, y)
    return Context(_apply(query, y), _apply(key, y), _apply(value, y), masses)


def token_weights(y: Tokens, weights: Float[Array, " n"] | None) -> Float[Array, " n"]:
    """The weights, uniform by default, and NaN where they are negative."""
    n = y.shape[0]
    if weights is None:
        return jnp.full(n, 1 / n, y.dtype)
    if weights.shape != (n,):
        cure = f"give one weight a token, shape ({n},)"
        _checks.reject("weights", f"has shape {weights.shape}", cure)
    _checks.floating("weights", weights)
    return jnp.where(weights < 0, jnp.nan, weights).astype(y.dtype)


def _check_tokens(name: str, tokens: Array, query: Array) -> None:
    _checks.points(name, tokens)
    dim = query.shape[-1]
    if tokens.shape[1] != dim:
        cure = f"give tokens of {dim} coordinates, as the matrices act on"
        _checks.reject(name, f"has shape {tokens.shape}", cure)
