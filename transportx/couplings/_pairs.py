"""Pairs of points as indices, with a status; a failure to pair stays visible in them."""

from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree

from transportx import _checks
from transportx._status import Status

Batch = TypeVar("Batch", bound=PyTree)


@jax.tree_util.register_pytree_node_class
class Pairs(tuple[Int[Array, " b"], Int[Array, " b"]]):
    """Indices (i0, i1) of paired points, which ``i0, i1 = pairs`` unpacks, and a status.

    Where no pairing was found, the indices `i0` of the sources are out of range, and `take`
    gives NaN for them: what is computed from such pairs, a loss say, is NaN too. (``x0[i0]``
    would clamp them.) Where points themselves are NaN or infinite, indices are in range and
    reach one of those.

    Attributes:
        status: How the search for a plan ended. Pairs may be used, and are in range, also
            where a plan misses its tolerance by little: then it is `MAX_STEPS` or `STALLED`.

    Example:
        >>> pairs = tx.couplings.Independent()(jnp.zeros((2, 1)), jnp.ones((2, 1)), key=jr.key(0))
        >>> i0, i1 = pairs
        >>> bool(pairs.converged), tx.Status[pairs.status]
        (True, 'The returned arrays meet the tolerance.')
    """

    status: Status

    def __new__(cls, i0: Array, i1: Array, status: Status):
        """A tuple of two with a status beside."""
        return cls.tree_unflatten(None, (i0, i1, status))

    @property
    def converged(self) -> Bool[Array, "..."]:
        """Whether the plan behind the pairs meets its tolerance."""
        return self.status == Status.CONVERGED

    def tree_flatten(self):
        """Children of this node for JAX: the indices and the status."""
        return (*self, self.status), None

    @classmethod
    def tree_unflatten(cls, _, parts):
        """Pairs from their children, which need not be arrays."""
        *indices, status = parts
        pairs = super().__new__(cls, indices)
        pairs.status = status
        return pairs


@_checks.gate
def take(batch: Batch, index: Int[Array, " k"]) -> Batch:
    """Rows of a batch: ``x[index]``, but NaN where an index is out of range.

    Use it with the indices of a coupling, so that a failure to pair reaches the loss.

    Args:
        batch: Array with one row per example, or a pytree of such, as points and labels.
        index: Row numbers, shape (k,). Negative ones do not count from the end: they are out of
            range.

    Returns:
        The rows. Where an index is out of range: NaN; for integers, the least (or, where
        they are unsigned, the greatest) number of their dtype; for
        booleans, True.

    Example:
        >>> x, labels = jnp.array([[1.0], [2.0]]), jnp.array([7, 8])
        >>> tx.couplings.take((x, labels), jnp.array([1, 1]))
        (Array([[2.], [2.]], dtype=float32), Array([8, 8], dtype=int32))
        >>> tx.couplings.take(x, jnp.array([2]))
        Array([[nan]], dtype=float32)
    """

    def rows(leaf):
        # The index goes in as it is: compilers know every row in turn, and leave it in place.
        return jnp.asarray(leaf).at[index].get(mode="fill", wrap_negative_indices=False)

    return jax.tree.map(rows, batch)


def pairs_or_poison(
    i0: Int[Array, " b"],
    i1: Int[Array, " b"] | None,
    usable: Bool[Array, ""],
    status: Status,
    x0: Array,
    x1: Array,
) -> Pairs:
    """The pairs found; where they cannot be used, indices that show it.

    Without `i1`, every target in turn, whatever happened: the identity, which compilers see,
    so that targets that lie over a mesh stay where they are.
    """
    bad0, bad1 = (~jnp.all(jnp.isfinite(x), axis=tuple(range(1, x.ndim))) for x in (x0, x1))
    shown = jnp.any(bad0) | jnp.any(bad1)

    def from_bad_on(bad):
        # All points in turn from a bad one on, so that it is among the pairs.
        return ((jnp.argmax(bad) + jnp.arange(i0.size)) % bad.size).astype(i0.dtype)

    poison = jnp.where(shown, from_bad_on(bad0), x0.shape[0])
    if i1 is None:
        i1 = jnp.arange(i0.size, dtype=i0.dtype)
    else:
        i1 = jnp.where(shown & ~usable, from_bad_on(bad1), i1)
    return Pairs(jnp.where(usable, i0, poison), i1, status)
