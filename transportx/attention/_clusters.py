"""Diagnostics of clustering: how many, how aligned, how soon, for how long."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, ScalarLike

from transportx import _checks
from transportx._varying import alike
from transportx.attention._attention import token_weights
from transportx.attention._sphere import normalise
from transportx.geometry import PointCloud
from transportx.geometry.internal import ResolvedSquares

Tokens = Float[Array, "n d"]
Scalar = Float[Array, ""]


@_checks.gate
def cluster_labels(tokens: Tokens, *, radius: ScalarLike) -> Int[Array, " n"]:
    """The cluster of each token, named by its first member.

    Two tokens are of one cluster where a chain of tokens joins them in hops of at most
    `radius` (single linkage). O(n^2) operations a round, in tiles; as many rounds as the
    longest chain of names, one or two for tight clusters.
    """
    _checks.positive("radius", radius)
    cloud = PointCloud(tokens, tokens, ResolvedSquares())
    n = tokens.shape[0]
    near = jnp.asarray(radius, tokens.dtype) ** 2

    def spread(labels):
        least = cloud.map_tiles(
            lambda costs: jnp.min(jnp.where(costs <= near, labels[None, :], n), axis=1)
        )
        least = jnp.minimum(least, labels)
        # Also the name of the one named: chains shorten by half.
        return jnp.minimum(least, least[least])

    def advance(state):
        labels, _ = state
        return spread(labels), labels

    names = jnp.arange(n)
    first = alike((spread(names), names), tokens, near)
    labels, _ = jax.lax.while_loop(lambda s: jnp.any(s[0] != s[1]), advance, first)
    return labels


@_checks.gate
def num_clusters(tokens: Tokens, *, radius: ScalarLike) -> Int[Array, ""]:
    """How many clusters `cluster_labels` finds."""
    labels = cluster_labels(tokens, radius=radius)
    return jnp.sum(labels == jnp.arange(tokens.shape[0]))


@_checks.gate
def order_parameter(tokens: Tokens, weights: Float[Array, " n"] | None = None) -> Scalar:
    r"""$|\sum_i w_i x_i/|x_i||$ over the mass: 1 where all directions agree, 0 in balance."""
    masses = token_weights(tokens, weights)
    return jnp.linalg.norm(masses @ normalise(tokens)) / jnp.sum(masses)


@_checks.gate
def angle_histogram(
    tokens: Tokens, weights: Float[Array, " n"] | None = None, *, bins: int
) -> Float[Array, " bins"]:
    """Shares of pairs (i, j), a token with itself too, by angle: even bins of [0, pi].

    O(n^2 bins) operations, in tiles.
    """
    _checks.count("bins", bins)
    masses, units = token_weights(tokens, weights), normalise(tokens)
    masses = masses / jnp.sum(masses)

    def row(costs):
        # Half the chord is the sine of half the angle.
        angles = 2 * jnp.arcsin(jnp.clip(jnp.sqrt(costs) / 2, 0, 1))
        places = jnp.clip(jnp.floor(angles * (bins / jnp.pi)), 0, bins - 1).astype(int)
        return jnp.zeros(bins, masses.dtype).at[places].add(masses)

    return masses @ PointCloud(units, units, ResolvedSquares()).map_rows(row)


@_checks.gate
def cluster_counts(path: Float[Array, "k n d"], *, radius: ScalarLike) -> Int[Array, " k"]:
    """How many clusters there are at each recorded depth."""
    return jax.lax.map(lambda tokens: num_clusters(tokens, radius=radius), path)


@_checks.gate
def time_to_cluster(
    times: Float[Array, " k"], path: Float[Array, "k n d"], *, radius: ScalarLike, most: int = 1
) -> Scalar:
    """The first recorded time with at most `most` clusters; infinite if there is none.

    Args:
        times: Rising times, or depths.
        path: Tokens at each, as `evolve` records them.
        radius: As in `cluster_labels`.
        most: Number of clusters to wait for.
    """
    _checks.count("most", most)
    _checks.same_size("path", path, "times", times)
    counts = cluster_counts(path, radius=radius)
    return jnp.min(jnp.where(counts <= most, times, jnp.inf))


class Plateau(NamedTuple):
    """A run of records with one number of clusters; if none, that is 0 and the times NaN.

    Attributes:
        clusters: How many.
        start: The first time at which there were that many.
        end: The last of that run.
    """

    clusters: Int[Array, ""]
    start: Scalar
    end: Scalar


@_checks.gate
def longest_plateau(
    times: Float[Array, " k"], counts: Int[Array, " k"], *, least: int = 2, most: int | None = None
) -> Plateau:
    r"""The longest time that one number of clusters lasted, of those in [least, most].

    Metastability: in softmax attention on the sphere, separated clusters last for a time
    exponential in 1 / tau before they merge, so that this plateau ends in a sharp step.
    What is measured is short of the truth by up to one gap between records at each end; the
    earliest of equal plateaus is taken.

    Args:
        times: Rising times, or depths.
        counts: Clusters at each, as `cluster_counts` finds them.
        least: Fewest clusters that count; 1 is the end of all dynamics, not a plateau.
        most: Most clusters that count; with one less than there are tokens, a start at
            which none has met another is no plateau either. By default any number.

    References:
        Geshkovski, Koubbi, Polyanskiy and Rigollet, Dynamic metastability in the
        self-attention model, 2024.
    """
    _checks.count("least", least)
    _checks.same_size("counts", counts, "times", times)
    if most is not None:
        _checks.count("most", most, least=least)
    places = jnp.arange(counts.size)
    begins = counts != jnp.roll(counts, 1)
    first = jax.lax.cummax(jnp.where(begins, places, 0))
    counted = (counts >= least) & (True if most is None else counts <= most)
    last = jnp.argmax(jnp.where(counted, times - times[first], -jnp.inf))
    found = counted[last]
    start, end = (jnp.where(found, times[place], jnp.nan) for place in (first[last], last))
    return Plateau(jnp.where(found, counts[last], 0), start, end)
