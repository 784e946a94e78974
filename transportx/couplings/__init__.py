"""Couplings of two batches: which source point goes with which target point.

A coupling is called as `i0, i1 = coupling(x0, x1, key=key)` and answers with indices, so
that labels and conditions travel along: `take(x0, i0), take((x1, labels), i1)`. Where no
plan was found, `take` gives NaN, and the status of the pairs says why. Every target is
used exactly once; only `Unbalanced` leaves outliers out. Indices have no derivative;
couplings see their inputs as constants. `Conditional` wraps any coupling where targets
have labels or conditions. `SemiDiscrete` pairs a batch of sources with a whole data set.

To add one, subclass `AbstractCoupling` and write `__call__`.

Example:
    >>> x0, x1 = jnp.array([[0.0], [1.0]]), jnp.array([[1.1], [0.1]])
    >>> i0, i1 = tx.couplings.Assignment()(x0, x1, key=jr.key(0))
    >>> x0, x1 = tx.couplings.take(x0, i0), tx.couplings.take(x1, i1)
    >>> round(float(jnp.max(jnp.abs(x1 - x0))), 2)
    0.1
"""

from transportx.couplings._assignment import Assignment as Assignment
from transportx.couplings._conditional import Conditional as Conditional
from transportx.couplings._coupling import AbstractCoupling as AbstractCoupling
from transportx.couplings._coupling import Independent as Independent
from transportx.couplings._diagnose import Diagnostics as Diagnostics
from transportx.couplings._diagnose import diagnose as diagnose
from transportx.couplings._entropic import Entropic as Entropic
from transportx.couplings._entropic import Unbalanced as Unbalanced
from transportx.couplings._exact import Exact as Exact
from transportx.couplings._pairs import Pairs as Pairs
from transportx.couplings._pairs import take as take
from transportx.couplings._semidiscrete import SemiDiscrete as SemiDiscrete
