"""Optimal transport between weighted sets: entropic and exact.

A problem is a geometry (the costs) with weights; a solver is a small frozen object; the
answer carries its `Status`. An iterative result is `converged` only if the returned arrays
themselves meet the tolerance, and one that is not finite is NaN throughout.

Words of the entropic problem. Potentials f, g are the dual variables. The required
marginals of potentials are a exp(-f / rho_a) and b exp(-g / rho_b), which the plan has at
the optimum; the marginal error is the L1 distance from them over the mass. Potentials are
absorbed where they stand inside the kernel exp((f_i + g_j - C_ij) / epsilon); scalings
exp(phi), exp(psi) multiply its rows and columns, which moves f by epsilon phi. Annealing
solves at falling values of epsilon.

Entropic problems are solved in rounds: absorb the potentials, audit the marginals, refine
the scalings, lower epsilon. A new solver is an `AbstractSolver`, whose `refine` improves
the scalings of one kernel; `solve` chooses epsilon and rebuilds the kernel, and answers
with the same plan object, with the same derivatives.

`semidiscrete` carries a law that can be drawn from, or a density on a grid, onto weighted data:
its potentials, one number for each point of the data, say which of them every source point goes
to, and are audited on points that the solve has not seen.

Exact problems (`exact`) are solved by the network simplex on the host, over pairs that are priced
on the device; `assignment` is quicker for two clouds of one size, one to one.

Example:
    >>> x, y = jnp.array([[0.0], [1.0]]), jnp.array([[0.0], [2.0]])
    >>> plan = tx.ot.solve(tx.geometry.PointCloud(x, y), epsilon=0.01)
    >>> bool(plan.converged), np.asarray(plan.matrix()).round(2).tolist()
    (True, [[0.5, 0.0], [0.0, 0.5]])
"""

from transportx._status import Status as Status
from transportx.ot._assignment import assignment as assignment
from transportx.ot._birkhoff import birkhoff as birkhoff
from transportx.ot._birkhoff import soft_rank as soft_rank
from transportx.ot._birkhoff import soft_sort as soft_sort
from transportx.ot._birkhoff import sorting_plan as sorting_plan
from transportx.ot._divergence import SinkhornDivergence as SinkhornDivergence
from transportx.ot._divergence import sinkhorn_divergence as sinkhorn_divergence
from transportx.ot._exact import exact as exact
from transportx.ot._exact_plan import ExactPlan as ExactPlan
from transportx.ot._exact_plan import PairMasses as PairMasses
from transportx.ot._gaussian_start import gaussian_potentials as gaussian_potentials
from transportx.ot._grid_density import GridDensity as GridDensity
from transportx.ot._newton import Newton as Newton
from transportx.ot._one_dimensional import sliced_wasserstein as sliced_wasserstein
from transportx.ot._one_dimensional import wasserstein_1d as wasserstein_1d
from transportx.ot._plan import EntropicPlan as EntropicPlan
from transportx.ot._problem import Potentials as Potentials
from transportx.ot._problem import Problem as Problem
from transportx.ot._scaling import Iterate as Iterate
from transportx.ot._scaling import Scaling as Scaling
from transportx.ot._semidiscrete import semidiscrete as semidiscrete
from transportx.ot._semidiscrete_plan import SemiDiscretePlan as SemiDiscretePlan
from transportx.ot._sinkhorn import Sinkhorn as Sinkhorn
from transportx.ot._solve import solve as solve
from transportx.ot._solve import solve_symmetric as solve_symmetric
from transportx.ot._solver import AbstractSolver as AbstractSolver
