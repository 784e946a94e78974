"""Which source point goes with which target point of a batch.

A coupling is called as `i0, i1 = coupling(x0, x1, key=key)` and answers with indices, so
that labels and conditions travel along: `take(x0, i0), take((x1, labels), i1)`. Where there
is no plan to pair by, `take` gives NaN, and the status of the pairs says why. Every target is
used exactly once (`Unbalanced` alone leaves outliers out). Indices have no derivative;
couplings see their inputs as constants. `Conditional` wraps any of them where targets have
labels or conditions.

To add one, subclass `AbstractCoupling` and write `__call__`.
"""

from transportx.couplings._assignment import Assignment as Assignment
from transportx.couplings._conditional import Conditional as Conditional
from transportx.couplings._coupling import AbstractCoupling as AbstractCoupling
from transportx.couplings._coupling import Independent as Independent
from transportx.couplings._diagnose import Diagnostics as Diagnostics
from transportx.couplings._diagnose import diagnose as diagnose
from transportx.couplings._entropic import Entropic as Entropic
from transportx.couplings._entropic import Unbalanced as Unbalanced
from transportx.couplings._pairs import Pairs as Pairs
from transportx.couplings._pairs import take as take
