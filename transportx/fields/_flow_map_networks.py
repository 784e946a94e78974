"""Networks of two times, for flow maps."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, PRNGKeyArray

from transportx import _checks, _numbers
from transportx.fields._fourier_features import fourier_features
from transportx.fields._mlp import MLP, selu
from transportx.fields._transformer import EVERYTHING, NUM_FREQUENCIES, DiT, evaluated, in_dtype

Time = Float[Array, ""]


@_checks.gate
class MLPFlowMap(eqx.Module):
    """A multilayer perceptron of two times on R^dim: a flow map u(s, t, x, args) to be trained.

    An `MLP` at time s, whose condition begins with features of the span t - s. It computes in
    float32 at least, or in the dtype of its parameters if that is wider, and returns the dtype of
    the point.

    Args:
        dim: Dimension of the points.
        width: Units per hidden layer.
        depth: Number of hidden layers.
        condition_dim: Length of `args`, a vector that conditions the map; with 0, `args` is
            ignored.
        num_frequencies: Number of pairs of Fourier features of s and of t - s, beside themselves.
        activation: Elementwise nonlinearity; that of `MLP` by default.
        key: Randomness of the initial parameters.

    Raises:
        ValueError: A size is not a positive integer; when called, a point or condition has another
            length, or times are not 0 <= s <= t <= 1, which give NaN where they are traced.

    Example:
        >>> u = tx.fields.MLPFlowMap(2, 8, 1, key=jr.key(0))
        >>> u(jnp.array(0.0), jnp.array(1.0), jnp.ones(2)).shape
        (2,)

    References:
        Boffi, Albergo and Vanden-Eijnden, Flow map matching, 2024; Geng et al., Mean flows for
        one-step generative modeling, 2025.
    """

    network: MLP

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
        _checks.count("condition_dim", condition_dim, least=0)
        _checks.count("num_frequencies", num_frequencies, least=0)
        self.network = MLP(
            dim,
            width,
            depth,
            condition_dim=condition_dim + 1 + 2 * num_frequencies,
            num_frequencies=num_frequencies,
            activation=activation,
            key=key,
        )

    @property
    def condition_dim(self) -> int:
        """Length of `args`; 0 where it is ignored."""
        return self.network.condition_dim - 1 - 2 * self.network.num_frequencies

    @_checks.gate
    def __call__(self, s: Time, t: Time, x: Float[Array, " d"], args=None) -> Float[Array, " d"]:
        """Average velocity between two times of the particle that is at `x` at the first.

        Args:
            s: First time, in [0, 1].
            t: Last time, in [s, 1].
            x: One point, shape (dim,).
            args: Condition of this point, shape (condition_dim,); ignored where that is 0.
        """
        s, t = _checks.ordered_times(*_numbers.matched(s, t))
        condition = fourier_features(t - s, self.network.num_frequencies)
        if self.condition_dim:
            shape = getattr(args, "shape", None)
            if args is None or shape != (self.condition_dim,):
                cure = f"give a vector of shape ({self.condition_dim},)"
                _checks.reject("args", f"has shape {shape}", cure)
            _checks.floating("args", args)
            condition = jnp.concatenate(_numbers.matched(condition, args))
        return self.network(s, x, condition)


@_checks.gate
class DiTFlowMap(eqx.Module):
    """A diffusion transformer of two times: a flow map u(s, t, x, args) of images to be trained.

    A `DiT` at time s, to whose condition an embedding of the span t - s is added. The embedding
    starts at zero, so that with `eqx.tree_at` a trained field may take the place of `network`: the
    map then starts as u(s, t, x) = v(s, x).

    Args:
        shape: (height, width, channels) of one image.
        patch: Side of a square patch in pixels; divides height and width.
        width: Size of a token; a multiple of `heads`.
        depth: Number of blocks.
        heads: Number of attention heads.
        num_labels: Number of classes, as integer labels in `args`; the value `num_labels` means "no
            label". With 0 the map is unconditional and ignores `args`.
        bfloat16: Whether to round the factors of the tokens' matrix products to bfloat16; needs
            float32 images.
        keep: Which intermediates of a block are stored for its derivatives, a policy of
            `jax.checkpoint`; the others are computed again.
        key: Randomness of the initial parameters.

    Raises:
        ValueError: Sizes do not divide; when called, an image of another shape, of another dtype
            than float32 with `bfloat16`, or times that are not 0 <= s <= t <= 1, which give NaN
            where they are traced.

    Example:
        >>> @eqx.filter_jit
        ... def make(key):
        ...     sizes = {"patch": 2, "width": 8, "depth": 1, "heads": 2, "num_labels": 3}
        ...     return tx.fields.DiTFlowMap((4, 4, 1), **sizes, key=key)
        >>> u = make(jr.key(0))
        >>> s, t, label = jnp.array(0.0), jnp.array(1.0), jnp.array(2)
        >>> velocity = eqx.filter_jit(u)(s, t, jnp.ones((4, 4, 1)), label)
        >>> velocity.shape, float(jnp.abs(velocity).max())  # zero at the start
        ((4, 4, 1), 0.0)

    References:
        Peebles and Xie, Scalable Diffusion Models with Transformers, 2023; Geng et al., Mean flows
        for one-step generative modeling, 2025.
    """

    network: DiT
    span: eqx.nn.MLP

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        num_labels: int = 0,
        bfloat16: bool = False,
        keep: Callable[..., Any] = EVERYTHING,
        key: PRNGKeyArray,
    ):
        network_key, span_key = jr.split(key)
        self.network = DiT(
            shape,
            patch=patch,
            width=width,
            depth=depth,
            heads=heads,
            num_labels=num_labels,
            bfloat16=bfloat16,
            keep=keep,
            key=network_key,
        )
        features = 1 + 2 * NUM_FREQUENCIES
        span = eqx.nn.MLP(features, width, width, 1, activation=jax.nn.silu, key=span_key)
        last = jax.tree.map(jnp.zeros_like, span.layers[-1])
        self.span = eqx.tree_at(lambda mlp: mlp.layers[-1], span, last)

    @_checks.gate
    def __call__(
        self,
        s: Time,
        t: Time,
        x: Float[Array, "h w c"],
        args: Int[Array, ""] | None = None,
    ) -> Float[Array, "h w c"]:
        """Average velocity between two times of the image that is `x` at the first.

        Args:
            s: First time, in [0, 1].
            t: Last time, in [s, 1].
            x: One image, of the shape of the network.
            args: Integer label of the image; ignored by an unconditional network.
        """
        s, t = _checks.ordered_times(*_numbers.matched(s, t))

        def embedded(dtype):
            features = fourier_features((t - s).astype(dtype), NUM_FREQUENCIES)
            return in_dtype(self.span, dtype)(features)

        return evaluated(self.network, s, x, args, embedded)
