"""How an iterative solve ended."""

import equinox as eqx


class Status(eqx.Enumeration):
    """Whether to believe an answer; compare with `==`, also under `jit` and `vmap`."""

    CONVERGED = "The returned arrays meet the tolerance."
    MAX_STEPS = "The step limit came first: raise `max_steps`, or `tol`, or epsilon."
    STALLED = "Rounding is as large as `tol`: use float64, a larger `tol` or epsilon."
    NON_FINITE = "The input or an iterate is NaN or infinite; the values are NaN."
    INFEASIBLE = "No plan exists: weights are negative, zero in total, or unequal in mass."
