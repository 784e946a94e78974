"""Transport between weighted sets: entropic and exact.

A problem is a geometry with weights; a solver is a small frozen object; the answer
carries its `Status`. An iterative result is `converged` only if the returned arrays
themselves meet the tolerance, and one that is not finite is NaN throughout.

A new solver takes the same geometry and weights and returns the same answer object.
"""

from transportx.ot._assignment import assignment as assignment
from transportx.ot._entropic import EntropicPlan as EntropicPlan
from transportx.ot._entropic import Sinkhorn as Sinkhorn
from transportx.ot._entropic import solve as solve
from transportx.ot._one_dimensional import sliced_wasserstein as sliced_wasserstein
from transportx.ot._one_dimensional import wasserstein_1d as wasserstein_1d
from transportx.ot._status import Status as Status
