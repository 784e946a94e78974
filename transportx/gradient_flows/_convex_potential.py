"""Convex potentials as networks: their gradients are optimal maps."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from transportx import _checks

Scalar = Float[Array, ""]
Point = Float[Array, " d"]


@_checks.gate
class ConvexPotential(eqx.Module):
    r"""An input-convex network $\psi(x) = \frac12|Bx|^2 + \langle b, x\rangle + \mathrm{net}(x)$.

    Hidden units are $z_{l+1} = \mathrm{softplus}(W_l z_l + A_l x + a_l)$ with $W_l \ge 0$, and the
    output adds them with weights $\ge 0$: convex in x and smooth. Gradients of convex functions
    are the optimal maps of the squared distance (Brenier). At first the map is the identity plus
    something bounded. Of depth 0 it is affine, with a symmetric matrix.

    Args:
        dim: Dimension of the points.
        width: Units a hidden layer.
        depth: Hidden layers; 0 for affine maps alone.
        key: Initialisation.

    Raises:
        ValueError: A size is out of range; when called, a point of another length.

    Example:
        >>> psi = tx.gradient_flows.ConvexPotential(2, width=4, depth=1, key=jr.key(0))
        >>> hessian = jax.hessian(psi)(jnp.ones(2))
        >>> bool(jnp.all(jnp.linalg.eigvalsh(hessian) > 0))
        True

    References:
        Amos, Xu and Kolter, Input convex neural networks, 2017.
    """

    inputs: tuple[Float[Array, "width d"], ...]
    biases: tuple[Float[Array, " width"], ...]
    raw_weights: tuple[Float[Array, "rows width"], ...]
    root: Float[Array, "d d"]
    shift: Float[Array, " d"]

    def __init__(self, dim: int, width: int, depth: int, *, key: PRNGKeyArray):
        _checks.count("dim", dim)
        _checks.count("width", width)
        _checks.count("depth", depth, least=0)
        keys = jr.split(key, 2 * depth)
        self.inputs = tuple(jr.normal(k, (width, dim)) / dim**0.5 for k in keys[:depth])
        self.biases = tuple(jr.normal(k, (width,)) for k in keys[depth : 2 * depth])
        rows = [width] * (depth - 1) + [1] if depth else []
        # Through softplus, the weights of a row sum to one.
        self.raw_weights = tuple(jnp.full((r, width), jnp.log(jnp.expm1(1 / width))) for r in rows)
        self.root = jnp.eye(dim)
        self.shift = jnp.zeros(dim)

    @_checks.gate
    def __call__(self, x: Point) -> Scalar:
        """The potential at one point."""
        if x.shape != self.shift.shape:
            cure = f"give one point of shape {self.shift.shape}, and batch with vmap"
            _checks.reject("x", f"has shape {x.shape}", cure)
        value = jnp.sum((self.root @ x) ** 2) / 2 + self.shift @ x
        hidden = jnp.zeros(1, x.dtype)
        for slopes, bias, raw in zip(self.inputs, self.biases, self.raw_weights, strict=True):
            hidden = jax.nn.softplus(raw) @ jax.nn.softplus(hidden + slopes @ x + bias)
        return value + hidden[0]
