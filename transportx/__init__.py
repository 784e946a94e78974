"""transportx: differentiable transport in JAX.

Moving one probability distribution onto another, by diffusion (interpolants, flow
matching, samplers) or by optimal transport (couplings, entropic plans, displacement).
The rooms compose under `jit`, `vmap` and `grad`. These conventions hold everywhere:

- Time `t` runs over [0, 1]. `x0` follows the source (noise) at t = 0, `x1` the target
  (data) at t = 1.
- A vector field is any callable `field(t, x, args) -> dx/dt` for **one** example `x`;
  batches are made by `vmap`.
- `SquaredEuclidean` is |x - y|^2, with no factor 1/2.
- Entropic transport minimises <P, C> + epsilon KL(P | a b^T), where
  KL(p | q) = sum p log(p / q) - p + q; epsilon and potentials are in units of the cost.
- `wasserstein2` is W2; a name that ends in `_squared` is its square.
- Outputs have the dtype of the inputs; nothing here switches 64-bit numbers on.
- `key` is always keyword-only. Shapes: n source, m target, d dimension, b batch, k times.

Examples in docstrings assume `import jax, optax`, `import jax.numpy as jnp`,
`import jax.random as jr`, `import numpy as np`, `import equinox as eqx` and
`import transportx as tx`.

Example:
    >>> x, y = jnp.array([[0.0], [1.0]]), jnp.array([[1.0], [2.0]])
    >>> plan = tx.ot.solve(tx.geometry.PointCloud(x, y), epsilon=0.1)
    >>> bool(plan.converged), round(float(plan.transport_cost), 2)
    (True, 1.0)
"""

from transportx import attention as attention
from transportx import control as control
from transportx import couplings as couplings
from transportx import evolution as evolution
from transportx import fields as fields
from transportx import gaussians as gaussians
from transportx import geometry as geometry
from transportx import gradient_flows as gradient_flows
from transportx import interpolants as interpolants
from transportx import learned_energies as learned_energies
from transportx import losses as losses
from transportx import mean_field as mean_field
from transportx import metrics as metrics
from transportx import ot as ot
from transportx import sampling as sampling
from transportx import training as training
from transportx._status import Status as Status
