"""Doubly stochastic mixing: every token gives as much mass as it receives."""

import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from transportx import _checks
from transportx.attention._mixing import AbstractAverage, Context
from transportx.attention._scores import Scores
from transportx.gaussians import AffineMap, entropic_plan
from transportx.geometry import AbstractCloud, Dot, Layout, cloud_between
from transportx.ot import AbstractSolver, EntropicPlan, Newton, solve

Scalar = Float[Array, ""]


@_checks.gate
class SinkhornAttention(AbstractAverage):
    r"""Sinkhorn attention, of weights $w_j e^{(\langle Qx, Ky_j\rangle + f(x) + g_j)/\tau}$.

    f and g are the potentials of entropic transport of the tokens' queries onto their keys,
    cost $-\langle Qx, Ky\rangle$ and regularisation $\tau$. At a token outside of the context
    f is its canonical extension. The potential of this mixing is -f and its energy
    $-\frac12 \mathrm{OT}_\tau(\alpha, \alpha)$; with V = Q^T K symmetric the field is the
    Wasserstein gradient of that energy. NaN where the solve does not converge.

    Attributes:
        temperature: tau, positive; the solver needs more steps at small ones.
        solver: Solver of the plan: its tolerance, relative to the mass, is that of the columns.
            Rows sum to one to rounding.
        layout: Mesh of devices that share the scores, with tokens over its one axis, and the rows
            of scores computed at once. The number of devices divides that of the context.

    Differentiation:
        Exact, through potentials that differentiate implicitly; no iteration is unrolled.

    Example:
        >>> mixing = tx.attention.SinkhornAttention()
        >>> attention = tx.attention.Attention(jnp.eye(2), jnp.eye(2), jnp.eye(2), mixing)
        >>> matrix = attention.matrix(jnp.eye(2), jnp.eye(2))[0]
        >>> bool(jnp.allclose(jnp.sum(matrix, axis=0), 1.0, atol=1e-2))
        True

    References:
        Sander, Ablin, Blondel and Peyre, Sinkformers: transformers with doubly stochastic
        attention, 2022.
    """

    temperature: ScalarLike = 1.0
    solver: AbstractSolver = Newton()
    layout: Layout = Layout()

    def __check_init__(self):
        _checks.positive("temperature", self.temperature)

    @_checks.gate
    def potential(self, queries: Float[Array, "n k"], context: Context) -> Float[Array, " n"]:
        logs = self.log_totals(queries, context)
        return _checks.positive_value("temperature", self.temperature, logs.dtype) * logs

    @_checks.gate
    def energy(self, context: Context) -> Scalar:
        plan = self.plan(context)
        return jnp.where(plan.converged, -plan.value / 2, jnp.nan)

    @_checks.gate
    def plan(self, context: Context) -> EntropicPlan:
        """The plan of the context's queries onto its keys, with its status."""
        cloud, weights = self._cloud(context.queries, context), context.weights
        return solve(cloud, weights, weights, epsilon=self.temperature, solver=self.solver)

    @_checks.gate
    def on_gaussian(
        self,
        query: Float[Array, "k d"],
        key: Float[Array, "k d"],
        mean: Float[Array, " d"],
        covariance: Float[Array, "d d"],
    ) -> AffineMap:
        # <Qx, Ky> = <K^T Q x, y>, and -<z, y> is |z - y|^2 / 2 but for terms of one variable.
        matrix = key.T @ query
        source = matrix @ mean, matrix @ covariance @ matrix.T
        epsilon = 2 * _checks.positive_value("temperature", self.temperature, mean.dtype)
        plan = entropic_plan(*source, mean, covariance, epsilon=epsilon)
        return AffineMap(mean, mean, plan.map.matrix @ matrix)

    @_checks.gate
    def scores(self, queries: Float[Array, "n k"], context: Context) -> Scores:
        plan = self.plan(context)
        gains = jnp.where(plan.converged, plan.g, jnp.nan) / plan.epsilon
        cloud = self._cloud(queries, context)
        return Scores(cloud, context.weights, self.temperature, gains)

    def _cloud(self, queries, context) -> AbstractCloud:
        return cloud_between(queries, context.keys, Dot(), layout=self.layout)
