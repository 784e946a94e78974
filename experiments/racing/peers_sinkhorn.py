"""Entropic transport by other libraries, each in several settings. Extra `peers`.

Each entrant starts from the points and counts what it then needs, its cost matrix included.
"""
# pyright: reportMissingImports=false
# Only the extra `peers` installs torch, POT and geomloss.

import importlib
import importlib.util
import math
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from experiments.harness import timing
from experiments.racing.audits import Potentials, Problem
from experiments.racing.race import Entrant

# So many iterations are timed to judge how many fit in a problem's patience.
_SAMPLE = 10
# Entries of one tile of ott's streamed costs, to choose from.
_TILES = (2**18, 2**20, 2**22)


def require() -> None:
    """Import every peer, so that a missing one is known before the first run.

    Raises:
        ModuleNotFoundError: One is not installed.
    """
    for name in ("ott", "ot", "torch", "geomloss"):
        importlib.import_module(name)


def ott(problem: Problem) -> Iterator[Entrant]:
    """ott-jax: its default, momentum, Anderson acceleration, a decaying epsilon."""
    from ott.solvers.linear.acceleration import AndersonAcceleration, Momentum

    _restore_name_for_ott()
    settings: dict[str, dict[str, Any]] = {
        "default": {},
        "momentum": {"momentum": Momentum(start=30)},
        "Anderson 2": {"anderson": AndersonAcceleration(memory=2)},
        "Anderson 5": {"anderson": AndersonAcceleration(memory=5)},
        "decay 0.9": {"decay": 0.9},
    }
    rows = _fastest_rows(problem) if problem.streamed else None
    for setting, options in settings.items():
        yield _ott_entrant(problem, setting, options | {"rows": rows})


def pot(problem: Problem) -> Iterator[Entrant]:
    """POT: two stable algorithms, on NumPy and on torch. They hold the plan, n m numbers."""
    if problem.streamed:
        return
    import torch

    _use_all_cores()
    for backend, convert in {"NumPy": np.asarray, "torch": torch.as_tensor}.items():
        yield _pot_entrant(problem, "log", backend, convert, ("log_u", "log_v"), problem.epsilon)
        yield _pot_entrant(problem, "stabilized", backend, convert, ("alpha", "beta"), 1)


def geomloss(problem: Problem) -> Iterator[Entrant]:
    """GeomLoss: SamplesLoss by its scaling, and its newer solver by its iterations."""
    _use_all_cores()
    if not problem.streamed:
        yield _samples_loss_entrant(problem, "tensorized")
        yield _solve_sample_entrant(problem)
    if _keops_installed():
        yield _samples_loss_entrant(problem, "online")


def absences(problem: Problem) -> list[str]:
    """Who doesn't enter, and why."""
    reasons = []
    if problem.streamed:
        reasons.append("POT: holds n x m numbers")
    if not _keops_installed():
        reasons.append("GeomLoss online: streams by KeOps; install pykeops and pybind11")
    return reasons


def affordable(run: Callable[[int], Any], patience: float) -> int:
    """Iterations that fit in the time, at least as many as the sample."""
    took = timing.least_seconds(lambda: run(_SAMPLE))
    return max(_SAMPLE, int(_SAMPLE * patience / took))


def _use_all_cores() -> None:
    import torch

    torch.set_num_threads(os.cpu_count() or 1)


def _keops_installed() -> bool:
    return all(importlib.util.find_spec(name) for name in ("pykeops", "pybind11"))


def _restore_name_for_ott() -> None:
    """Let ott-jax 0.6 stream: it calls a name that recent JAX no longer exports."""
    from jax._src.interpreters import batching as private
    from jax.interpreters import batching

    if not hasattr(batching, "is_vmappable"):
        setattr(batching, "is_vmappable", private.is_vmappable)  # noqa: B010


def _fastest_rows(problem: Problem) -> int:
    """How many rows ott should stream at once on this machine."""

    def took(rows: int) -> float:
        solve = partial(_ott_solve, problem=problem, rows=rows, max_iterations=_SAMPLE)
        sample = _compile_ott(solve, problem.arguments)
        return timing.seconds(lambda: sample.run(*problem.arguments, np.float32(0)))

    return min((max(1, entries // len(problem.y)) for entries in _TILES), key=took)


def _ott_entrant(problem: Problem, setting: str, options: dict[str, Any]) -> Entrant:
    solve = partial(_ott_solve, problem=problem, **options)
    arguments = problem.arguments
    sample = _compile_ott(partial(solve, max_iterations=_SAMPLE), arguments)
    steps = affordable(lambda _: sample.run(*arguments, np.float32(0)), problem.patience)
    solve = partial(solve, max_iterations=steps // 10 * 10)
    forward = _compile_ott(solve, arguments)
    return Entrant(
        library="ott",
        setting=setting,
        # Its error is the L1 error of one marginal; the audit's is seldom below it.
        # Streamed runs take minutes each: fewer rungs.
        knobs=_ladder(1.25 * problem.tol, 0.5 if problem.streamed else 0.8, 20),
        run=lambda threshold: forward.run(*arguments, np.float32(threshold)),
        potentials=partial(_without_log_weights, problem),
        forward=forward,
        value_and_potential=lambda threshold: partial(_value_and_potential, solve, threshold),
    )


def _compile_ott(solve: Callable[..., Any], arguments: tuple[Any, ...]) -> timing.Compiled:
    return timing.compiled(lambda *args: solve(*args).potentials, *arguments, np.float32(0))


def _value_and_potential(solve: Callable[..., Any], threshold: float, *points: Any) -> Any:
    answer = solve(*points, threshold)
    return answer.reg_ot_cost, answer.f


def _ott_solve(
    x: Any,
    y: Any,
    epsilon: Any,
    threshold: Any,
    *,
    problem: Problem,
    rows: int | None,
    max_iterations: int,
    decay: float = 1,
    momentum: Any = None,
    anderson: Any = None,
) -> Any:
    from ott.geometry.epsilon_scheduler import Epsilon
    from ott.geometry.pointcloud import PointCloud
    from ott.problems.linear.linear_problem import LinearProblem
    from ott.solvers.linear.sinkhorn import Sinkhorn

    # A schedule starts at the mean cost; a decay of 1 stays at epsilon.
    start = 1 / problem.relative_epsilon if decay < 1 else 1
    schedule = Epsilon(epsilon, init=start, decay=decay)
    geometry = PointCloud(x, y, epsilon=schedule, batch_size=rows)
    solver = Sinkhorn(
        threshold=threshold, max_iterations=max_iterations, momentum=momentum, anderson=anderson
    )
    return solver(LinearProblem(geometry))


def _pot_entrant(
    problem: Problem,
    method: str,
    backend: str,
    convert: Callable[[np.ndarray], Any],
    keys: tuple[str, str],
    unit: float,
) -> Entrant:
    import ot

    n, m = len(problem.x), len(problem.y)
    x, y = convert(problem.x), convert(problem.y)
    a, b = (convert(np.full(size, 1 / size, np.float32)) for size in (n, m))

    def run(threshold: float, steps: int) -> Potentials:
        log: Any = ot.sinkhorn(
            a,
            b,
            ot.dist(x, y),
            problem.epsilon,
            method=f"sinkhorn_{method}",
            numItermax=steps,
            stopThr=threshold,
            log=True,
            warn=False,
        )[1]
        return log[keys[0]], log[keys[1]]

    steps = affordable(lambda count: run(0, count), problem.patience)
    return Entrant(
        library="POT",
        setting=f"{method} {backend}",
        # Its error is the L2 error of one marginal: near L1 over the root of m, or above.
        knobs=_ladder(16 * problem.tol / math.sqrt(m), 0.8, 30),
        run=partial(run, steps=steps),
        potentials=partial(_without_log_weights, problem, unit=unit),
    )


def _without_log_weights(
    problem: Problem, potentials: tuple[Any, Any], unit: float = 1
) -> Potentials:
    """From P = exp((f + g - C) / epsilon), in multiples of `unit`, to our convention."""
    f, g = _as_arrays(potentials, unit=unit)
    return f + problem.epsilon * math.log(len(f)), g + problem.epsilon * math.log(len(g))


def _as_arrays(potentials: tuple[Any, Any], unit: float = 1) -> Potentials:
    """Flat float64 arrays, from multiples of `unit`."""
    f, g = (unit * np.ravel(potential).astype(np.float64) for potential in potentials)
    return f, g


def _samples_loss_entrant(problem: Problem, backend: str) -> Entrant:
    import torch
    from geomloss import SamplesLoss

    x, y = torch.as_tensor(problem.x), torch.as_tensor(problem.y)

    def run(scaling: float) -> Potentials:
        # Its cost is |x - y|^2 / 2 and its epsilon blur^2.
        blur = math.sqrt(problem.epsilon / 2)
        options = {"debias": False, "potentials": True, "backend": backend}
        return SamplesLoss("sinkhorn", p=2, blur=blur, scaling=scaling, **options)(x, y)

    took = timing.least_seconds(lambda: run(0.5))
    scalings = [1 - gap for gap in _ladder(0.5, 0.8, 40)]
    # Steps are in inverse proportion to the logarithm of the scaling.
    knobs = [s for s in scalings if took * math.log(0.5) / math.log(s) <= problem.patience]
    return Entrant(
        library="GeomLoss",
        setting=backend,
        knobs=knobs or scalings[:1],
        run=run,
        potentials=partial(_as_arrays, unit=2),
    )


def _solve_sample_entrant(problem: Problem) -> Entrant:
    import torch
    from geomloss.ot import solve_sample

    x, y = torch.as_tensor(problem.x), torch.as_tensor(problem.y)

    def run(steps: float) -> Potentials:
        answer: Any = solve_sample(x, y, reg=problem.epsilon, max_iter=int(steps))
        return answer.potential_a, answer.potential_b

    most = affordable(run, problem.patience)
    return Entrant(
        library="GeomLoss",
        setting="solve_sample",
        knobs=[round(steps) for steps in _ladder(10, 1.25, 60) if steps <= most],
        run=run,
        potentials=_as_arrays,
    )


def _ladder(first: float, ratio: float, count: int) -> list[float]:
    return [first * ratio**rung for rung in range(count)]
