"""Diagnostics of clustering: how many, how aligned, how soon, for how long."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, ScalarLike

from transportx import _checks
from transportx._precision import single_inside
from transportx._varying import alike
from transportx.attention._attention import token_weights
from transportx.attention._sphere import units
from transportx.geometry import PointCloud
from transportx.geometry.internal import ResolvedSquares

Tokens = Float[Array, "n d"]
Scalar = Float[Array, ""]


@_checks.gate
@single_inside
def cluster_labels(tokens: Tokens, *, radius: ScalarLike) -> Int[Array, " n"]:
    """Single-linkage cluster of each token, named by its first member; -1 if it is not finite.

    Two tokens are of one cluster where a chain of tokens joins them in hops of at most
    `radius`. O(n^2) operations per round, in tiles; as many rounds as the
    longest chain of names, one or two for tight clusters.

    Args:
        tokens: Points, shape (n, d).
        radius: Longest hop, positive and finite; all are -1 where it is not, known at run time.

    Example:
        >>> tokens = jnp.array([[0.0], [0.1], [5.0]])
        >>> tx.attention.cluster_labels(tokens, radius=0.5).tolist()
        [0, 0, 2]
    """
    near = _checks.positive_value("radius", radius, tokens.dtype) ** 2
    finite = jnp.all(jnp.isfinite(tokens), axis=1) & ~jnp.isnan(near)
    n = tokens.shape[0]
    tokens = jnp.where(finite[:, None], tokens, 0)
    cloud = PointCloud(tokens, tokens, ResolvedSquares())

    def spread(labels):
        named = jnp.where(finite, labels, n)
        least = cloud.map_tiles(
            lambda costs: jnp.min(jnp.where(costs <= near, named[None, :], n), axis=1)
        )
        least = jnp.where(finite, jnp.minimum(least, labels), labels)
        # Also the name of the one named: chains shorten by half.
        return jnp.minimum(least, least[least])

    def advance(state):
        labels, _ = state
        return spread(labels), labels

    names = jnp.arange(n)
    first = alike((spread(names), names), tokens, near)
    labels, _ = jax.lax.while_loop(lambda s: jnp.any(s[0] != s[1]), advance, first)
    return jnp.where(finite, labels, -1)


@_checks.gate
@single_inside
def num_clusters(tokens: Tokens, *, radius: ScalarLike) -> Int[Array, ""]:
    """Number of clusters that `cluster_labels` finds; -1 where a token is not finite.

    Args:
        tokens: Points, shape (n, d).
        radius: Longest hop within a cluster, positive; -1 where it is not, known at run time.

    Example:
        >>> int(tx.attention.num_clusters(jnp.array([[0.0], [0.1], [5.0]]), radius=0.5))
        2
    """
    labels = cluster_labels(tokens, radius=radius)
    found = jnp.sum(labels == jnp.arange(tokens.shape[0]))
    return jnp.where(jnp.all(labels >= 0), found, -1)


@_checks.gate
@single_inside
def order_parameter(tokens: Tokens, weights: Float[Array, " n"] | None = None) -> Scalar:
    r"""Order parameter $|\sum_i w_i x_i/|x_i||$ over the mass: 1 where all directions agree.

    It is 0 where directions balance.

    Args:
        tokens: Points, shape (n, d), whose directions count.
        weights: Their masses, shape (n,), not negative; uniform by default.

    Example:
        >>> round(float(tx.attention.order_parameter(jnp.array([[1.0, 0.0], [0.0, 2.0]]))), 3)
        0.707
    """
    masses = token_weights(tokens, weights)
    return jnp.linalg.norm(masses @ units(tokens, masses)) / jnp.sum(masses)


@_checks.gate
@single_inside
def angle_histogram(
    tokens: Tokens, weights: Float[Array, " n"] | None = None, *, bins: int
) -> Float[Array, " bins"]:
    """Histogram of the angles between tokens, each with itself too, over even bins of [0, pi].

    Entries are fractions of all pairs, by weight. NaN where a token that has a weight is at the
    origin, or not finite. O(n^2 bins) operations, in tiles.

    Args:
        tokens: Points, shape (n, d), whose directions count.
        weights: Their masses, shape (n,), not negative; uniform by default.
        bins: Number of bins, at least 1.

    Example:
        >>> tokens = jnp.array([[1.0, 0.0], [-1.0, 0.0]])
        >>> tx.attention.angle_histogram(tokens, bins=2).tolist()
        [0.5, 0.5]
    """
    _checks.count("bins", bins)
    masses = token_weights(tokens, weights)
    directions = jnp.where((masses == 0)[:, None], 0, units(tokens, masses))
    valid = jnp.all(jnp.isfinite(directions))
    masses = masses / jnp.sum(masses)

    def row(costs):
        # Half the chord is the sine of half the angle.
        angles = 2 * jnp.arcsin(jnp.clip(jnp.sqrt(costs) / 2, 0, 1))
        places = jnp.clip(jnp.floor(angles * (bins / jnp.pi)), 0, bins - 1).astype(int)
        return jnp.zeros(bins, masses.dtype).at[places].add(masses)

    cloud = PointCloud(directions, directions, ResolvedSquares())
    return jnp.where(valid, masses @ cloud.map_rows(row), jnp.nan)


@_checks.gate
@single_inside
def cluster_counts(path: Float[Array, "k n d"], *, radius: ScalarLike) -> Int[Array, " k"]:
    """Number of clusters at each recorded depth, -1 where a token is not finite.

    Args:
        path: Tokens at each depth, shape (k, n, d), as `evolve` records them.
        radius: Longest hop within a cluster, positive.

    Example:
        >>> path = jnp.array([[[0.0], [2.0]], [[0.9], [1.1]]])
        >>> tx.attention.cluster_counts(path, radius=0.5).tolist()
        [2, 1]
    """
    return _counts(path, _checks.positive_value("radius", radius, path.dtype))


@jax.jit
def _counts(path, radius):
    return jax.lax.map(lambda tokens: num_clusters(tokens, radius=radius), path)


@_checks.gate
@single_inside
def time_to_cluster(
    times: Float[Array, " k"], path: Float[Array, "k n d"], *, radius: ScalarLike, most: int = 1
) -> Scalar:
    """First recorded time with at most `most` clusters; infinite if there is none.

    NaN where a record before it, or any where there is none, has tokens that are not finite.

    Args:
        times: Rising times, or depths, shape (k,).
        path: Tokens at each, shape (k, n, d), as `evolve` records them.
        radius: Longest hop within a cluster, positive.
        most: Largest number of clusters to wait for, at least 1.

    Example:
        >>> path = jnp.array([[[0.0], [2.0]], [[0.9], [1.1]]])
        >>> float(tx.attention.time_to_cluster(jnp.array([0.0, 3.0]), path, radius=0.5))
        3.0
    """
    _checks.count("most", most)
    _checks.same_size("path", path, "times", times)
    counts = cluster_counts(path, radius=radius)
    first = jnp.argmax(counts <= most)
    reached = jnp.where(counts[first] < 0, jnp.nan, times[first])
    return jnp.where(counts[first] <= most, reached, jnp.inf)


class Plateau(NamedTuple):
    """Plateau: a run of records with one number of clusters.

    Attributes:
        clusters: That number; 0, and the times NaN, if there is no run; -1, and the times NaN,
            where a count or a time is not known.
        start: First time of the run.
        end: Last time of the run.

    Example:
        >>> times, counts = jnp.arange(4.0), jnp.array([4, 2, 2, 1])
        >>> plateau = tx.attention.longest_plateau(times, counts)
        >>> int(plateau.clusters), float(plateau.start), float(plateau.end)
        (2, 1.0, 2.0)
    """

    clusters: Int[Array, ""]
    start: Scalar
    end: Scalar


@_checks.gate
def longest_plateau(
    times: Float[Array, " k"], counts: Int[Array, " k"], *, least: int = 2, most: int | None = None
) -> Plateau:
    """Longest time for which one number of clusters, within [least, most], lasted.

    Metastability: in softmax attention on the sphere, separated clusters last for a time
    exponential in 1 / tau before they merge, so that this plateau ends in a sharp step.
    The measured time is short of the truth by up to one gap between records at each end; the
    earliest of equal plateaus is returned.

    Args:
        times: Rising times, or depths, shape (k,).
        counts: Number of clusters at each, shape (k,), as `cluster_counts` finds them; negative
            where not known.
        least: Fewest clusters that count; 1 is the end of all dynamics, not a plateau.
        most: Most clusters that count; with one less than there are tokens, a start at
            which none has met another is no plateau either. By default any number.

    Example:
        >>> times, counts = jnp.arange(4.0), jnp.array([4, 2, 2, 1])
        >>> int(tx.attention.longest_plateau(times, counts).clusters)
        2

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
    known = jnp.all(counts >= 0) & jnp.all(jnp.isfinite(times))
    found = counted[last] & known
    start, end = (jnp.where(found, times[place], jnp.nan) for place in (first[last], last))
    clusters = jnp.where(found, counts[last], 0)
    return Plateau(jnp.where(known, clusters, -1), start, end)
