"""How an iterative answer ended: one family of statuses, shared by every room."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


class Status(eqx.Enumeration):
    """Status of an iterative answer: how it ended, and so whether to believe it.

    Compare with `==`, also under `jit` and `vmap`. All rooms use this one enumeration, because
    equinox refuses to compare the items of two. ``tx.Status[answer.status]`` is the text of a
    status.

    Example:
        >>> cloud = tx.geometry.PointCloud(jnp.array([[0.0], [1.0]]), jnp.array([[1.0], [2.0]]))
        >>> plan = tx.ot.solve(cloud, epsilon=0.1)
        >>> bool(plan.status == tx.Status.CONVERGED), tx.Status[plan.status]
        (True, 'The returned arrays meet the tolerance.')
    """

    CONVERGED = "The returned arrays meet the tolerance."
    COMPLETED = "The last time was reached, finite, and nothing rose that may only fall."
    DETERMINED = "The data determine every coefficient."
    MAX_STEPS = (
        "The step limit came first: raise `max_steps`, the tolerance or epsilon, or look for a "
        "blow-up."
    )
    STALLED = "Rounding is as large as `tol`: use float64, a larger `tol` or epsilon."
    NON_FINITE = (
        "The input or an iterate is NaN or infinite, and so are the values; steps may be too large."
    )
    INFEASIBLE = (
        "No answer exists: masses are negative, all zero, unequal, or have nowhere to go; or a "
        "matrix is not positive."
    )
    UNCONTROLLABLE = (
        "No control reaches the enforced target: give a controllable pair (A, B), or a finite "
        "penalty."
    )
    ROSE = "The recorded energy or risk rose where it may only fall: take more or adaptive steps."
    UNDETERMINED = "The data leave some coefficients open: use fewer terms, or more times."
    NOT_TRANSPORTED = "A plan that the answer rests on did not converge: raise epsilon or steps."


def judge(*cases: tuple[Bool[Array, "..."], Status], otherwise: Status) -> Status:
    """The status of the first condition that holds, and `otherwise` where none does.

    Conditions may have the axes of a batch; `Status.where` takes scalars alone.
    """
    for condition, status in reversed(cases):
        otherwise = jax.tree.map(functools.partial(jnp.where, condition), status, otherwise)
    return otherwise


def rose(recorded: Float[Array, " k"]) -> Bool[Array, ""]:
    """Whether what may only fall rises between records by more than rounding.

    Infinity counts as a rise; NaN does not, which is `NON_FINITE` and not a rise.
    """
    recorded = jax.lax.stop_gradient(recorded)
    scale = jnp.max(jnp.where(jnp.isfinite(recorded), jnp.abs(recorded), 0))
    slack = 10 * jnp.sqrt(jnp.finfo(recorded.dtype).eps) * scale
    return jnp.any((jnp.diff(recorded) > slack) | (recorded[1:] == jnp.inf))
