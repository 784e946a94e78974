"""The flow-matching loss: regress the field on the velocities of the paths."""

from collections.abc import Callable

from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from transportx import _checks
from transportx.interpolants import AbstractInterpolant
from transportx.losses._regression import Weight, regression, unweighted
from transportx.losses._times import Times, uniform_times


@_checks.gate
def flow_matching(
    field: Callable[..., Array],
    path: AbstractInterpolant,
    x0: Float[Array, "b ..."],
    x1: Float[Array, "b ..."],
    args: PyTree[Array] = None,
    *,
    key: PRNGKeyArray,
    times: Times = uniform_times,
    weight: Weight = unweighted,
) -> Float[Array, ""]:
    r"""Flow-matching loss: the mean squared error between a field and the velocity of the path.

    $\frac1b\sum_i |v(t_i, x_{t_i}, \mathrm{args}_i) - \dot x_{t_i}|^2 / d$, one time per
    example. Its minimiser is $E[\dot x_t \mid x_t = x, \mathrm{args}]$, the field that
    carries the source onto the target; the least value is not zero, but the mean
    variance of the velocities given the point.

    Args:
        field: `field(t, x, args) -> dx/dt` of one example.
        path: Interpolant.
        x0: Source examples, shape (b, ...), paired with `x1` row by row by a coupling.
        x1: Target examples, of the same shape.
        args: Conditions, a pytree of arrays with leading axis b, or None.
        key: Randomness of the times and of the path's noise.
        times: `times(num, dtype, key=key)`, the law of the times: `uniform_times`,
            `LogitNormalTimes`, `BetaTimes` or your own.
        weight: Weight of an error at time t in the mean, `weight(t) -> scalar`; 1 by default. It
            changes which errors a small network prefers, not the minimiser.

    Raises:
        ValueError: The batch is empty, `x0`, `x1` or `args` do not match, or `field` returns
            another shape than that of its point.

    Differentiation:
        With respect to the parameters of `field` and of `path`, x0, x1 and args.

    Example:
        >>> field = tx.fields.MLP(dim=2, width=8, depth=1, key=jr.key(0))
        >>> x0, x1 = jr.normal(jr.key(1), (4, 2)), jr.normal(jr.key(2), (4, 2))
        >>> path = tx.interpolants.Linear()
        >>> loss, gradient = eqx.filter_value_and_grad(tx.losses.flow_matching)(
        ...     field, path, x0, x1, key=jr.key(3)
        ... )
        >>> loss.shape, bool(loss > 0)
        ((), True)

    References:
        Lipman et al., Flow Matching for Generative Modeling, 2022, equation 9; Tong et
        al., 2023, equation 10.
    """

    def velocity(t, x0, x1, z):
        return path(t, x0, x1, z)[1]

    return regression(field, velocity, path, x0, x1, args, key=key, times=times, weight=weight)
