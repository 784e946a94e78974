"""Merges: how what several blocks of targets give a row becomes what all of them give."""

import abc
import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float, Int, PyTree

from transportx import _checks


@_checks.gate
def capped_exp(exponent: Array) -> Array:
    """exp, kept finite and fit for sums: larger exponents belong to entries of weight zero."""
    return jnp.exp(jnp.minimum(exponent, largest_exponent(exponent.dtype)))


def largest_exponent(dtype: DTypeLike) -> float:
    """Where `capped_exp` cuts: sums of many such numbers are still finite."""
    return 0.7 * math.log(jnp.finfo(dtype).max)


class AbstractMerge(eqx.Module):
    """A reduction over targets, known by how two of its parts are joined.

    A part is what a block of targets gives each of t rows: a pytree of arrays with leading
    axis t. Joining is associative, and commutative up to rounding.

    Implementing a merge: `empty` and `join` say how parts are reduced, `share` says how the
    result is differentiated.

    Attributes:
        additive: Whether joining is adding, so that the result is linear where the parts are.
    """

    additive: ClassVar[bool] = False

    def check(self, part: PyTree[Array]) -> None:
        """Refuse a part that two of cannot be joined: one device refuses what many would."""
        joined = jax.eval_shape(self.join, part, part)
        shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (part, joined))
        if shapes[0] != shapes[1]:
            cure = "give the merge that fits what `function` returns"
            _checks.reject("merge", "joins two parts to something else", cure)

    @abc.abstractmethod
    def empty(self, part: PyTree[jax.ShapeDtypeStruct]) -> PyTree[Array]:
        """What no targets give, of the shapes of `part`: joined to a part it changes nothing."""

    @abc.abstractmethod
    def join(self, one: PyTree[Array], other: PyTree[Array]) -> PyTree[Array]:
        """What both blocks give together."""

    @abc.abstractmethod
    def share(self, whole: PyTree[Array], part: PyTree[Array]) -> PyTree[Array]:
        """What one part contributes to the `whole` that all parts were joined to.

        Gradients flow through the sum of `share(whole, part)` over all parts, with `whole` held
        constant (stop-gradient); leaves that are not floating have none.
        """


class Sum(AbstractMerge):
    """Parts are added up."""

    additive: ClassVar[bool] = True

    def empty(self, part: PyTree[jax.ShapeDtypeStruct]) -> PyTree[Array]:
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), part)

    def join(self, one: PyTree[Array], other: PyTree[Array]) -> PyTree[Array]:
        return jax.tree.map(jnp.add, one, other)

    def share(self, whole: PyTree[Array], part: PyTree[Array]) -> PyTree[Array]:
        return part


class AnyOf(AbstractMerge):
    """Parts are integers whose bits say what any target of the row has."""

    @staticmethod
    def part(flags: Int[Array, "t k"]) -> Int[Array, " t"]:
        """The bits that any of a block's targets has, row by row."""
        zero = jnp.zeros((), flags.dtype)
        return jax.lax.reduce(flags, zero, jax.lax.bitwise_or, (1,))

    def empty(self, part: jax.ShapeDtypeStruct) -> Array:
        return jnp.zeros(part.shape, part.dtype)

    def join(self, one: Array, other: Array) -> Array:
        return one | other

    def share(self, whole: Array, part: Array) -> Array:
        return part


class Maximum(AbstractMerge):
    """Parts are the largest value of each row; -inf where there is none."""

    def empty(self, part: jax.ShapeDtypeStruct) -> Array:
        return jnp.full(part.shape, -jnp.inf, part.dtype)

    def join(self, one: Array, other: Array) -> Array:
        return jnp.maximum(one, other)

    def share(self, whole: Array, part: Array) -> Array:
        return jnp.where(part == whole, part, 0)


class SumExp(AbstractMerge):
    """Parts are sums of exponentials, relative to the exp of their largest exponent.

    Where nothing counts they are zero, relative to any other: weights of zero have derivatives.
    """

    @staticmethod
    def part(
        weights: Float[Array, "k *c"],
        exponents: Float[Array, "*b k"],
        mask: Bool[Array, "*b k"] | None = None,
    ) -> tuple[Float[Array, "*b"], Float[Array, "*bc"]]:
        """Peaks of the exponents e, and sum_k w_k exp(e_k - peak); weights zero count for nothing.

        Not by log w: its derivative, and the product with an overflow, are NaN at zero. Of
        weights (k, c) those in the first column say which count, of those in the mask if any.
        """
        first = weights if weights.ndim == 1 else weights[:, 0]
        counts = jnp.broadcast_to(first != 0, exponents.shape)
        seen = exponents if mask is None else jnp.where(mask, exponents, -jnp.inf)
        peaks = jnp.max(jnp.where(counts, seen, -jnp.inf), axis=-1)
        # Relative to any number where nothing counts; exponents of -inf count for nothing too.
        other = jnp.where(exponents[..., 0] == -jnp.inf, 0, exponents[..., 0])
        peaks = jax.lax.stop_gradient(jnp.where(peaks == -jnp.inf, other, peaks))
        ratios = capped_exp(seen - peaks[..., None])
        return peaks, jnp.matmul(ratios, weights, precision=jax.lax.Precision.HIGHEST)

    @_checks.gate
    def empty(self, part: tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]) -> tuple[Array, Array]:
        peaks, sums = part
        return jnp.full(peaks.shape, -jnp.inf, peaks.dtype), jnp.zeros(sums.shape, sums.dtype)

    @_checks.gate
    def join(self, one: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
        peaks = jnp.maximum(*map(_counted_peaks, (one, other)))
        return peaks, _rescaled(one, peaks) + _rescaled(other, peaks)

    @_checks.gate
    def share(self, whole: tuple[Array, Array], part: tuple[Array, Array]) -> tuple[Array, Array]:
        # Peaks are held: whatever they are, what is made of both has the same derivative.
        return jnp.zeros_like(whole[0]), _rescaled(part, whole[0])


@_checks.gate
class Largest(AbstractMerge):
    """Parts are the k largest values, falling, and the targets (m for none) that they are of.

    Attributes:
        m: Number of all targets.
        k: How many values to keep.
    """

    m: int = eqx.field(static=True)
    k: int = eqx.field(static=True)

    @_checks.gate
    def part(
        self, values: Float[Array, " l"], targets: Int[Array, " l"]
    ) -> tuple[Float[Array, " k"], Int[Array, " k"]]:
        """The largest of a block's values, of one row; filled up where the block has fewer."""
        few = min(self.k, values.size)
        largest, places = jax.lax.top_k(values, few)
        # NaN falls behind all values, and the target m behind NaNs that are values.
        rest = (0, self.k - few)
        return (
            jnp.pad(largest, rest, constant_values=jnp.nan),
            jnp.pad(targets[places], rest, constant_values=self.m),
        )

    @_checks.gate
    def empty(self, part: tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]) -> tuple[Array, Array]:
        values, targets = part
        return (
            jnp.full(values.shape, jnp.nan, values.dtype),
            jnp.full(targets.shape, self.m, targets.dtype),
        )

    @_checks.gate
    def join(self, one: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
        values, targets = (jnp.concatenate(both, axis=1) for both in zip(one, other, strict=True))
        falling, targets = jax.lax.sort((-values, targets), dimension=1, num_keys=2)
        return -falling[:, : self.k], targets[:, : self.k]

    @_checks.gate
    def share(self, whole: tuple[Array, Array], part: tuple[Array, Array]) -> tuple[Array, Array]:
        same = whole[1][:, :, None] == part[1][:, None, :]
        return jnp.sum(jnp.where(same, part[0][:, None, :], 0), axis=2), whole[1]


def _counted_peaks(part: tuple[Array, Array]) -> Float[Array, " t"]:
    """Peaks, -inf where nothing counts: such a part must not scale others down."""
    peaks, sums = part
    return jnp.where(sums.reshape(peaks.size, -1)[:, 0] == 0, -jnp.inf, peaks)


def _rescaled(part: tuple[Array, Array], peaks: Float[Array, " t"]) -> Array:
    """Sums relative to the exp of other peaks."""
    old, sums = part
    # Rows without any weight have peak -inf, and sums of zero whatever their scale.
    scales = capped_exp(old - jnp.where(peaks == -jnp.inf, 0, peaks))
    return sums * scales.reshape(-1, *[1] * (sums.ndim - 1))
