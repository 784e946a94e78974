"""Populations at several times, of unequal sizes, as one array with weights."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from transportx import _checks

# Clouds in a sequence may differ in size.
Populations = Float[Array, "k n d"] | Sequence[Float[Array, "_ d"]]
# Nodes of the Gauss-Legendre rule: exact for the polynomials of degree 3 that are integrated.
_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(2)
_WINDOW = 4


class Snapshots(NamedTuple):
    """Populations at several times, no point of which is followed from one to the next.

    Attributes:
        x: Points, shape (k, n, d); a smaller population is filled up with points of weight zero.
        weights: Weights of total one at each time, shape (k, n).
        counts: Number of points of each population, shape (k,).
        times: Rising times, shape (k,).
    """

    x: Float[Array, "k n d"]
    weights: Float[Array, "k n"]
    counts: Float[Array, " k"]
    times: Float[Array, " k"]


def as_snapshots(snapshots: Populations, times: Float[Array, " k"]) -> Snapshots:
    """Check populations and times, and stack them."""
    clouds = list(snapshots)
    if len(clouds) < 2:
        _checks.reject("snapshots", f"holds {len(clouds)}", "give populations of two times or more")
    for j, cloud in enumerate(clouds):
        _checks.points(f"snapshots[{j}]", cloud)
        _checks.same_dimension(f"snapshots[{j}]", cloud, "snapshots[0]", clouds[0])
    dtype = clouds[0].dtype
    _check_times(times, len(clouds))
    most = max(cloud.shape[0] for cloud in clouds)
    filled = [jnp.pad(c, ((0, most - c.shape[0]), (0, 0)), mode="edge") for c in clouds]
    counts = np.array([cloud.shape[0] for cloud in clouds])
    present = np.arange(most)[None, :] < counts[:, None]
    return Snapshots(
        jnp.stack(filled).astype(dtype),
        jnp.asarray(present / counts[:, None], dtype),
        jnp.asarray(counts, dtype),
        jnp.asarray(times, dtype),
    )


def running_integrals(times: Float[Array, " k"]) -> Float[Array, "k k"]:
    """Weights by which values at the times sum to their integrals up to each of the times.

    Over each interval the cubic through the four nearest values is integrated, or what passes
    through all where there are fewer.
    """
    k = times.size
    window = min(_WINDOW, k)
    rows = [jnp.zeros(k, times.dtype)]
    for j in range(k - 1):
        first = min(max(j - (window - 2) // 2, 0), k - window)
        nodes = times[first : first + window]
        half = (times[j + 1] - times[j]) / 2
        at = times[j] + half * (1 + jnp.asarray(_NODES, times.dtype))
        shares = jnp.asarray(_NODE_WEIGHTS, times.dtype) @ _lagrange(nodes, at)
        rows.append(rows[-1].at[first : first + window].add(half * shares))
    return jnp.stack(rows)


def _lagrange(nodes: Float[Array, " w"], at: Float[Array, " q"]) -> Float[Array, "q w"]:
    """The polynomials that are one at a node and zero at the others."""
    columns = [jnp.ones_like(at)] * nodes.size
    for i, other in itertools.permutations(range(nodes.size), 2):
        columns[i] = columns[i] * (at - nodes[other]) / (nodes[i] - nodes[other])
    return jnp.stack(columns, axis=1)


def _check_times(times: Array, count: int) -> None:
    if np.shape(times) != (count,):
        problem = f"has shape {np.shape(times)}"
        _checks.reject("times", problem, f"give one time a population, shape ({count},)")
    if not isinstance(times, Tracer) and not np.all(np.diff(np.asarray(times)) > 0):
        _checks.reject("times", f"is {np.asarray(times)}", "give times that rise")
