"""Paired timings: rivals take turns in one process, so that all meet a drift of its speed."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

# Before each timed run: threads of the one before may spin a while in wait for work.
_PAUSE = 0.05


class Compiled(NamedTuple):
    """A function compiled for its arguments' shapes, and what that took.

    `run` returns when the answer is there.
    """

    run: Callable[..., Any]
    seconds: float
    temporary_bytes: int


def compiled(function: Callable[..., Any], *shapes: Any) -> Compiled:
    """Trace and compile a function for arguments like these, outside of any timing."""
    start = time.perf_counter()
    executable = jax.jit(function).lower(*shapes).compile()
    took = time.perf_counter() - start
    memory: Any = executable.memory_analysis()

    def run(*args: Any) -> Any:
        return jax.block_until_ready(executable(*args))

    return Compiled(run, took, memory.temp_size_in_bytes)


def seconds(run: Callable[[], Any]) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def least_seconds(run: Callable[[], Any]) -> float:
    """Least of three calls, or the first alone where that takes over five seconds."""
    first = seconds(run)
    return first if first > 5 else min(first, seconds(run), seconds(run))


def measure(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each, once a round, in an order that rotates. Warm them up before."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    order = list(runs)
    for _ in range(rounds):
        for name in order:
            time.sleep(_PAUSE)
            taken[name].append(seconds(runs[name]))
        order = order[1:] + order[:1]
    return taken


def ratios(above: list[float], below: list[float]) -> list[float]:
    """Quotients within each round."""
    return [a / b for a, b in zip(above, below, strict=True)]


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and greatest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
