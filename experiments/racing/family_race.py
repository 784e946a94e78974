"""Who solves which family of problems, and with how many products with the kernel."""

import functools
import statistics
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import transportx as tx
from experiments.racing import families
from experiments.racing.families import Problem

# Epsilon over the mean cost.
_RELATIVE = {np.float32: (1, 1e-1, 1e-2, 1e-3), np.float64: (1e-1, 1e-2, 1e-3, 1e-4)}
_TOLERANCES = {np.float32: 1e-3, np.float64: 1e-6}
_MOST_STEPS = 10_000
# Of a problem that no one solves to the tolerance, an error that is small all the same.
_SMALL = 3e-2
_SOLVERS = (tx.ot.Newton, tx.ot.Sinkhorn)


class Found(NamedTuple):
    """What one solver made of one problem."""

    products: int
    status: str
    error: float

    @property
    def converged(self) -> bool:
        """Whether the solver says so."""
        return self.status == "CONVERGED"


def run(family: str, dtype: Any) -> dict[str, Any]:
    """Every problem of a family by each of our solvers and by ott-jax; audited in float64."""
    tol = _TOLERANCES[dtype]
    rows = []
    for problem in families.problems(family):
        for relative in _RELATIVE[dtype]:
            seen, epsilon = _seen(problem, relative, dtype)
            for start in _STARTS if family == "clouds" else ("cold",):
                init = _start(start, seen, epsilon, tol)
                found = {k.__name__: _ours(k, seen, epsilon, tol, init) for k in _SOLVERS}
                if start == "cold":
                    found["ott-jax"] = _ott(seen, epsilon, tol)
                rows.append((start, relative, found))
    return _summary(rows, tol)


def _summary(rows: list[tuple[str, float, dict[str, Found]]], tol: float) -> dict[str, Any]:
    ratios, unsolved, lies, worst = [], 0, 0, 0.0
    for _, _, found in rows:
        default, others = found["Newton"], [found[name] for name in found if name != "Newton"]
        lies += default.converged and default.error > 2 * tol
        if default.converged:
            counts = [default.products, found["Sinkhorn"].products]
            best = min(counts) if found["Sinkhorn"].converged else counts[0]
            ratios.append((counts[0] + 1) / (best + 1))
        else:
            unsolved += any(other.error <= tol for other in others) or default.error > _SMALL
            worst = max(worst, default.error)
    totals = {
        name: sum(found[name].products for _, _, found in rows if name in found)
        for name in ("Newton", "Sinkhorn", "ott-jax")
    }
    reached = {
        name: sum(found[name].error <= 2 * tol for _, _, found in rows if name in found)
        for name in totals
    }
    return {
        "problems": len(rows),
        "products": totals,
        "reached": reached,
        "median_ratio": statistics.median(ratios),
        "worst_ratio": max(ratios),
        "false_convergence": lies,
        "left_unsolved": unsolved,
        "largest_error_otherwise": worst,
    }


def show(table: dict[str, dict[str, Any]]) -> None:
    """Print the families in Markdown."""
    print("| family | problems | reached: Newton, Sinkhorn, ott-jax | products of each |", end="")
    print(" Newton over the better of ours: median, worst | converged falsely | left unsolved |")
    print("| --- " * 7 + "|")
    for family, row in table.items():
        reached = ", ".join(str(count) for count in row["reached"].values())
        products = ", ".join(str(count) for count in row["products"].values())
        ratios = f"{row['median_ratio']:.2f}, {row['worst_ratio']:.2f}"
        print(f"| {family} | {row['problems']} | {reached} | {products} | {ratios} |", end="")
        print(f" {row['false_convergence']} | {row['left_unsolved']} |")


def _seen(problem: Problem, relative: float, dtype: Any) -> tuple[Problem, float]:
    """The problem as a solver sees it: rounded, penalties in units of the cost."""
    return problem.rounded(dtype), float(dtype(relative * problem.mean_cost))


@functools.cache
def _solver(kind: Any, tol: float, started: bool) -> Callable[..., Any]:
    @jax.jit
    def solve(x, y, a, b, rho_a, rho_b, epsilon, init):
        plan = tx.ot.solve(
            tx.geometry.PointCloud(x, y),
            a,
            b,
            epsilon=epsilon,
            rho_a=rho_a,
            rho_b=rho_b,
            init=init if started else None,
            solver=kind(tol=tol, max_steps=_MOST_STEPS),
        )
        return plan.f, plan.g, plan.num_steps, plan.converged

    return solve


def _ours(kind: Any, problem: Problem, epsilon: float, tol: float, init: Any) -> Found:
    dtype = problem.x.dtype
    penalties = (jnp.asarray(rho, dtype) for rho in problem[4:])
    arrays = (jnp.asarray(part) for part in problem[:4])
    solve = _solver(kind, tol, init is not None)
    f, g, steps, converged = solve(*arrays, *penalties, jnp.asarray(epsilon, dtype), init)
    status = "CONVERGED" if converged else "other"
    return Found(int(steps), status, families.audit(problem, epsilon, f, g))


def _ott(problem: Problem, epsilon: float, tol: float) -> Found:
    """ott-jax at its default, in the log domain: one iteration is a pair of products."""
    from ott.geometry import pointcloud
    from ott.problems.linear import linear_problem
    from ott.solvers.linear import sinkhorn

    taus = (1.0 if np.isinf(rho) else rho / (rho + epsilon) for rho in problem[4:])
    x, y = jnp.asarray(problem.x), jnp.asarray(problem.y)
    geometry = pointcloud.PointCloud(x, y, epsilon=epsilon)
    a, b = (jnp.asarray(weights) for weights in problem[2:4])
    wanted = linear_problem.LinearProblem(geometry, a, b, *taus)
    out = sinkhorn.Sinkhorn(threshold=tol, max_iterations=_MOST_STEPS)(wanted)
    # Its potentials are those of the plan without the weights' product.
    with np.errstate(all="ignore"):
        f = np.asarray(out.f, np.float64) - epsilon * np.log(np.asarray(problem.a, np.float64))
        g = np.asarray(out.g, np.float64) - epsilon * np.log(np.asarray(problem.b, np.float64))
    f, g = (np.where(np.isfinite(part), part, 0) for part in (f, g))
    error = families.audit(problem, epsilon, f, g)
    return Found(int(out.n_iters), "", error)


_STARTS = ("cold", "near", "far", "garbage")


def _start(kind: str, problem: Problem, epsilon: float, tol: float) -> Any:
    """Potentials to start from: of a similar epsilon, of every fourth point, or noise."""
    if kind == "cold":
        return None
    dtype = problem.x.dtype
    if kind == "garbage":
        keys = jr.split(jr.key(0))
        sizes = problem.a.size, problem.b.size
        return tuple(
            problem.mean_cost * jr.normal(key, (size,), dtype)
            for key, size in zip(keys, sizes, strict=True)
        )
    geometry = tx.geometry.PointCloud(jnp.asarray(problem.x), jnp.asarray(problem.y))
    if kind == "near":
        plan = tx.ot.solve(geometry, epsilon=dtype.type(1.2 * epsilon))
        return plan.f, plan.g
    few = geometry.restrict(slice(None, None, 4), slice(None, None, 4))
    plan = tx.ot.solve(few, epsilon=dtype.type(epsilon), solver=tx.ot.Newton(tol=3e-2))
    costs = families.squared_distances(np.asarray(problem.x), np.asarray(problem.y)[::4])
    shown = (np.asarray(plan.g, np.float64)[None] - costs) / epsilon
    f = -epsilon * (jax.nn.logsumexp(jnp.asarray(shown), axis=1) - np.log(shown.shape[1]))
    costs = families.squared_distances(np.asarray(problem.y), np.asarray(problem.x)[::4])
    shown = (np.asarray(plan.f, np.float64)[None] - costs) / epsilon
    g = -epsilon * (jax.nn.logsumexp(jnp.asarray(shown), axis=1) - np.log(shown.shape[1]))
    return f.astype(dtype), g.astype(dtype)


def table(dtype: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every family with its row."""
    for family in families.FAMILIES:
        yield family, run(family, dtype)
