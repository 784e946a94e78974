"""A diffusion transformer for images."""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.core import Tracer
from jax.lax import PrecisionLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from transportx import _checks, _numbers
from transportx.fields._fourier_features import fourier_features

NUM_FREQUENCIES = 16
Network = TypeVar("Network")
_HIGHEST = jax.lax.Precision.HIGHEST
_BFLOAT16 = jax.lax.DotAlgorithmPreset.BF16_BF16_F32
EVERYTHING = jax.checkpoint_policies.everything_saveable


@_checks.gate
class DiT(eqx.Module):
    """A diffusion transformer: patches as tokens, time and label modulating every block.

    Modulation starts at zero, so that every block starts as the identity and the field as zero. All
    blocks run in one `lax.scan`: compile time does not grow with depth. It computes in float32 at
    least, or in the dtype of its parameters if that is wider, and returns the dtype of the image:
    parameters kept in a half are widened for the computation.

    Args:
        shape: (height, width, channels) of one image.
        patch: Side of a square patch in pixels; divides height and width.
        width: Size of a token; a multiple of `heads`.
        depth: Number of blocks.
        heads: Number of attention heads.
        num_labels: Number of classes. `args` is then an integer label, and the value `num_labels`
            means "no label". With 0 the field is unconditional and ignores `args`. A label outside
            of 0 to `num_labels` is refused, or gives NaN where it is traced.
        bfloat16: Whether to round the factors of the tokens' matrix products to bfloat16; where the
            device multiplies in bfloat16, as TPUs and GPUs do, their derivatives' too. Products are
            summed in float32; parameters, norms, softmax, residual stream and condition stay in
            float32. Needs float32 examples.
        keep: Which intermediates of a block are stored for its derivatives, a policy of
            `jax.checkpoint`; the others are computed again. `nothing_saveable` stores the tokens
            that enter a block, for about a third more arithmetic; the derivatives are the same.
        key: Randomness of the initial parameters.

    Raises:
        ValueError: Sizes do not divide; when called, an image of another shape, or of another dtype
            than float32 with `bfloat16`.

    Example:
        >>> @eqx.filter_jit
        ... def make(key):
        ...     sizes = {"patch": 2, "width": 8, "depth": 1, "heads": 2, "num_labels": 3}
        ...     return tx.fields.DiT((4, 4, 1), **sizes, key=key)
        >>> field = make(jr.key(0))
        >>> velocity = eqx.filter_jit(field)(jnp.array(0.5), jnp.ones((4, 4, 1)), jnp.array(2))
        >>> velocity.shape, float(jnp.abs(velocity).max())  # zero at the start
        ((4, 4, 1), 0.0)

    References:
        Peebles and Xie, Scalable Diffusion Models with Transformers, 2023 (adaLN-Zero).
    """

    embed: eqx.nn.Linear
    positions: Float[Array, "tokens width"]
    time: eqx.nn.MLP
    labels: eqx.nn.Embedding | None
    blocks: "_Block"
    modulation: eqx.nn.Linear
    project: eqx.nn.Linear
    shape: tuple[int, int, int] = eqx.field(static=True)
    patch: int = eqx.field(static=True)
    bfloat16: bool = eqx.field(static=True)
    keep: Callable[..., Any] = eqx.field(static=True)

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
        _check_sizes(shape, patch, width, depth, heads)
        height, breadth, channels = shape
        _checks.count("num_labels", num_labels, least=0)
        keys = jr.split(key, 6)
        pixels = patch * patch * channels
        tokens = (height // patch) * (breadth // patch)
        self.embed = eqx.nn.Linear(pixels, width, key=keys[0])
        self.positions = 0.02 * jr.normal(keys[1], (tokens, width))
        features = 1 + 2 * NUM_FREQUENCIES
        self.time = eqx.nn.MLP(features, width, width, 1, activation=jax.nn.silu, key=keys[2])
        # One more row than labels: the last means "no label".
        self.labels = eqx.nn.Embedding(num_labels + 1, width, key=keys[3]) if num_labels else None
        make_block = eqx.filter_vmap(lambda k: _Block(width, heads, key=k))
        self.blocks = make_block(jr.split(keys[4], depth))
        self.modulation = _zero_linear(width, 2 * width)
        self.project = _zero_linear(width, pixels)
        self.shape = shape
        self.patch = patch
        self.bfloat16 = bfloat16
        self.keep = keep

    @_checks.gate
    def __call__(
        self, t: Float[Array, ""], x: Float[Array, "h w c"], args: Int[Array, ""] | None = None
    ) -> Float[Array, "h w c"]:
        """Velocity at one image and time.

        Args:
            t: Time, in [0, 1].
            x: One image, of the shape of the network.
            args: Integer label of the image; ignored by an unconditional network.
        """
        return evaluated(self, t, x, args)

    def _velocity(self, image, condition) -> Float[Array, "h w c"]:
        precision = _BFLOAT16 if self.bfloat16 else None
        condition = jax.nn.silu(condition)
        tokens = _affine(self.embed, self._to_patches(image), precision) + self.positions
        tokens = self._through_blocks(tokens, condition, precision)
        shift, scale = jnp.split(self.modulation(condition), 2)
        return self._to_image(_affine(self.project, _modulate(tokens, shift, scale), precision))

    def _through_blocks(
        self,
        tokens: Float[Array, "tokens width"],
        condition: Float[Array, " width"],
        precision: PrecisionLike,
    ) -> Float[Array, "tokens width"]:
        arrays, static = eqx.partition(self.blocks, eqx.is_array)

        def apply(tokens, block):
            return eqx.combine(block, static)(tokens, condition, precision), None

        if self.keep is not EVERYTHING:
            # In a loop nothing can be merged with what is computed again.
            apply = jax.checkpoint(apply, policy=self.keep, prevent_cse=False)
        return jax.lax.scan(apply, tokens, arrays)[0]

    def _condition(self, t, args) -> Float[Array, " width"]:
        condition = self.time(fourier_features(t, NUM_FREQUENCIES))
        if self.labels is None:
            return condition
        if args is None:
            cure = f"give a label below {self.labels.num_embeddings}; the last means none"
            _checks.reject("args", "is None in a conditional field", cure)
        return condition + self._embedded(self.labels.weight, args)

    def _embedded(self, table: Float[Array, "labels width"], label: Array) -> Array:
        """The label's row: labels out of range are refused if known, else NaN."""
        _checks.label("args", label)
        last = table.shape[0] - 1
        if not isinstance(label, Tracer) and not 0 <= int(label) <= last:
            _checks.reject(
                "args", f"is {label}", f"give a label from 0 to {last}; the last is none"
            )
        # Narrow integers cannot be compared with what they cannot hold.
        label = label.astype(jnp.int32) if label.dtype.itemsize < 4 else label
        known = (label >= 0) & (label <= last)
        return jnp.where(known, table[jnp.clip(label, 0, last)], jnp.nan)

    def _to_patches(self, image: Float[Array, "h w c"]) -> Float[Array, "tokens pixels"]:
        height, width, channels = self.shape
        p = self.patch
        grid = image.reshape(height // p, p, width // p, p, channels)
        return grid.transpose(0, 2, 1, 3, 4).reshape(-1, p * p * channels)

    def _to_image(self, patches: Float[Array, "tokens pixels"]) -> Float[Array, "h w c"]:
        height, width, channels = self.shape
        p = self.patch
        grid = patches.reshape(height // p, width // p, p, p, channels)
        return grid.transpose(0, 2, 1, 3, 4).reshape(self.shape)


def evaluated(
    network: DiT,
    t: Float[Array, ""],
    x: Float[Array, "h w c"],
    args: Array | None,
    extra_condition: Callable[[Any], Float[Array, " width"]] | None = None,
) -> Float[Array, "h w c"]:
    """The network at one image; in a wide dtype `extra_condition` joins time and label."""
    if x.shape != network.shape:
        cure = f"give one image of shape {network.shape}, and batch with vmap"
        _checks.reject("x", f"has shape {x.shape}", cure)
    if network.bfloat16 and x.dtype != jnp.float32:
        _checks.reject("x", f"has dtype {x.dtype}", "`bfloat16` needs float32 images")
    image, time, weight = _numbers.matched(x, t, network.positions)
    wide = in_dtype(network, weight.dtype)
    condition = wide._condition(time, args)
    if extra_condition is not None:
        condition = condition + extra_condition(weight.dtype)
    return wide._velocity(image, condition).astype(x.dtype)


def in_dtype(network: Network, dtype: Any) -> Network:
    """The network with its parameters in another dtype."""
    return jax.tree.map(
        lambda leaf: leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf, network
    )


class _Block(eqx.Module):
    """Attention and a two-layer network, each shifted, scaled and gated by the condition."""

    modulation: eqx.nn.Linear
    mix: eqx.nn.Linear
    out: eqx.nn.Linear
    up: eqx.nn.Linear
    down: eqx.nn.Linear
    heads: int = eqx.field(static=True)

    def __init__(self, width: int, heads: int, *, key: PRNGKeyArray):
        keys = jr.split(key, 4)
        self.modulation = _zero_linear(width, 6 * width)
        self.mix = eqx.nn.Linear(width, 3 * width, key=keys[0])
        self.out = eqx.nn.Linear(width, width, key=keys[1])
        self.up = eqx.nn.Linear(width, 4 * width, key=keys[2])
        self.down = eqx.nn.Linear(4 * width, width, key=keys[3])
        self.heads = heads

    def __call__(
        self,
        tokens: Float[Array, "tokens width"],
        condition: Float[Array, " width"],
        precision: PrecisionLike,
    ) -> Float[Array, "tokens width"]:
        shift, scale, gate, shift2, scale2, gate2 = jnp.split(self.modulation(condition), 6)
        mixed = self._attend(_modulate(tokens, shift, scale), precision)
        tokens = tokens + gate[None, :] * mixed
        hidden = jax.nn.gelu(_affine(self.up, _modulate(tokens, shift2, scale2), precision))
        return tokens + gate2[None, :] * _affine(self.down, hidden, precision)

    def _attend(
        self, tokens: Float[Array, "tokens width"], precision: PrecisionLike
    ) -> Float[Array, "tokens width"]:
        size, width = tokens.shape
        length = width // self.heads
        queries, keys, values = jnp.unstack(
            _affine(self.mix, tokens, precision).reshape(size, 3, self.heads, length), axis=1
        )
        logits = _product("qhl,khl->hqk", queries / length**0.5, keys, precision or _HIGHEST)
        mixed = _product("hqk,khl->qhl", jax.nn.softmax(logits), values, precision)
        return _affine(self.out, mixed.reshape(size, width), precision)


def _affine(
    layer: eqx.nn.Linear, tokens: Float[Array, "tokens inputs"], precision: PrecisionLike
) -> Float[Array, "tokens outputs"]:
    """The layer at every token."""
    bias = layer.bias
    assert bias is not None
    return jax.vmap(lambda x: _product("oi,i->o", layer.weight, x, precision) + bias)(tokens)


def _product(axes: str, left: Array, right: Array, precision: PrecisionLike) -> Array:
    """An einsum of two factors, which `_BFLOAT16` rounds."""
    if precision is _BFLOAT16:
        left, right = _rounded(left), _rounded(right)
    return jnp.einsum(axes, left, right, precision=precision)


@jax.custom_jvp
def _rounded(x: Array) -> Array:
    """To the nearest number of bfloat16, in float32. A CPU multiplies in float32 regardless."""
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)


# Derivatives are those of the rounded product, and not rounded once more when summed.
_rounded.defjvps(lambda tangent, *_: tangent)


def _modulate(
    tokens: Float[Array, "tokens width"],
    shift: Float[Array, " width"],
    scale: Float[Array, " width"],
) -> Float[Array, "tokens width"]:
    """Layer norm without parameters, then the condition's scale and shift."""
    centred = tokens - jnp.mean(tokens, axis=1, keepdims=True)
    variance = jnp.mean(centred**2, axis=1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + 1e-6) * (1 + scale)[None, :] + shift[None, :]


def _zero_linear(inputs: int, outputs: int) -> eqx.nn.Linear:
    layer = eqx.nn.Linear(inputs, outputs, key=jr.key(0))
    return jax.tree.map(jnp.zeros_like, layer)


def _check_sizes(shape, patch, width, depth, heads) -> None:
    if len(shape) != 3 or min(shape) < 1:
        _checks.reject("shape", f"is {shape}", "give (height, width, channels), all positive")
    for name, value in (("patch", patch), ("width", width), ("depth", depth), ("heads", heads)):
        _checks.count(name, value)
    if shape[0] % patch or shape[1] % patch:
        _checks.reject(
            "patch", f"is {patch} for images {shape[:2]}", "give a divisor of both sides"
        )
    if width % heads:
        _checks.reject("heads", f"is {heads} for width {width}", "give a divisor of the width")
