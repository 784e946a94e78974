"""A race: each entrant at its loosest setting that passes the audit, then all in turn."""

import functools
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness import timing
from experiments.harness.timing import Compiled
from experiments.racing import audits as entropic
from experiments.racing.audits import Potentials, Problem

# Settings are timed again that took at most so many times their library's fastest in the
# search, or so many seconds: quick ones are too noisy to dismiss on one run.
_TIMED_AGAIN, _QUICK_SECONDS = 1.3, 1.0
# A gradient that needs more is not run: 4 GiB.
_MEMORY_LIMIT = 2**32
# Always timed again and differentiated: what its users get.
DEFAULT_PEER = "ott default"
GRADIENTS = ("value and gradient", "gradient of potentials")


class Entrant(NamedTuple):
    """A solver made ready for one problem.

    Attributes:
        library: Whose it is.
        setting: Which of its algorithms or backends.
        knobs: What its user may turn, from loosest to tightest.
        run: Solves from the points at a knob; returns when the answer is there.
        potentials: From its answer to f and g of P = a b exp((f + g - C) / epsilon).
        forward: The compiled solver, where it compiles.
        value_and_potential: From a knob to a differentiable function of x, y, epsilon.
    """

    library: str
    setting: str
    knobs: Sequence[float]
    run: Callable[[float], Any]
    potentials: Callable[[Any], Potentials]
    forward: Compiled | None = None
    value_and_potential: Callable[[float], Callable[..., Any]] | None = None

    @property
    def name(self) -> str:
        """Library and setting."""
        return f"{self.library} {self.setting}"


class Trial(NamedTuple):
    """A run at a knob: its seconds and its audited error."""

    knob: float
    seconds: float
    error: float


Searched = list[tuple[Entrant, Trial]]


def attempt(entrant: Entrant, problem: Problem, knob: float) -> Trial:
    """Run once and audit."""
    answers: list[Any] = []
    seconds = timing.seconds(lambda: answers.append(entrant.run(knob)))
    error = entropic.marginal_error(problem, entrant.potentials(answers[0]))
    return Trial(knob, seconds, error)


def loosest(entrant: Entrant, problem: Problem) -> Trial:
    """The loosest knob that passes the audit; the trial of least error if none does.

    Strides that double lead to a knob that passes; bisection goes back from there. A run
    that fails after most of the patience ends the search: tighter ones take longer.
    """
    tried: dict[int, Trial] = {}

    def passes(index: int) -> bool:
        tried[index] = attempt(entrant, problem, entrant.knobs[index])
        return tried[index].error <= problem.tol

    low, high, last = -1, 0, len(entrant.knobs) - 1
    while not passes(high):
        if high == last or tried[high].seconds > 0.8 * problem.patience:
            return min(tried.values(), key=lambda trial: trial.error)
        low, high = high, min(2 * high + 1, last)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle, high)
    return tried[high]


def contenders(searched: Searched, problem: Problem) -> Searched:
    """Those that passed, less the slow settings of each library."""
    passed = [pair for pair in searched if pair[1].error <= problem.tol]
    limits: dict[str, float] = {}
    for entrant, trial in sorted(passed, key=lambda pair: pair[1].seconds):
        limits.setdefault(entrant.library, max(_TIMED_AGAIN * trial.seconds, _QUICK_SECONDS))
    return [
        (entrant, trial)
        for entrant, trial in passed
        if entrant.name == DEFAULT_PEER or trial.seconds <= limits[entrant.library]
    ]


def race(chosen: Searched, rounds: int) -> dict[str, Any]:
    """Seconds of each, the fastest setting of each library, and how many times we are faster."""
    runs = {entrant.name: functools.partial(entrant.run, trial.knob) for entrant, trial in chosen}
    taken = timing.measure(runs, rounds)
    medians = {name: statistics.median(values) for name, values in taken.items()}
    best: dict[str, str] = {}
    for entrant, _ in sorted(chosen, key=lambda pair: medians[pair[0].name]):
        best.setdefault(entrant.library, entrant.name)
    return {
        "seconds": {name: timing.spread(values) for name, values in taken.items()},
        "best": best,
        "times_faster": _times_faster(taken, best),
    }


def _times_faster(taken: dict[str, list[float]], best: dict[str, str]) -> dict[str, Any]:
    """Each peer's seconds over ours, round by round."""
    if "transportx" not in best:
        return {}
    peers = {f"{library} best": name for library, name in best.items() if library != "transportx"}
    if DEFAULT_PEER in taken:
        peers[DEFAULT_PEER] = DEFAULT_PEER
    mine = taken[best["transportx"]]
    return {peer: timing.spread(timing.ratios(taken[name], mine)) for peer, name in peers.items()}


def derivatives(entrant: Entrant, knob: float, problem: Problem, rounds: int) -> dict[str, Any]:
    """Gradients' times over the forward pass's, or why there is none."""
    arguments = problem.arguments
    made = {
        name: _warm(function, arguments)
        for name, function in _gradients(entrant, knob, problem).items()
    }
    runs: dict[str, Callable[[], Any]] = {"forward": functools.partial(entrant.run, knob)}
    for name, gradient in made.items():
        if isinstance(gradient, Compiled):
            runs[name] = functools.partial(gradient.run, *arguments)
    entrant.run(knob)
    taken = timing.measure(runs, rounds)
    return {name: _gradient_figures(gradient, name, taken) for name, gradient in made.items()}


def _warm(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Compiled | str:
    """Compiled and run once, or what is in the way."""
    try:
        gradient = timing.compiled(function, *arguments)
    except ValueError as error:
        return str(error).splitlines()[0]
    if gradient.temporary_bytes > _MEMORY_LIMIT:
        return f"not run: needs {gradient.temporary_bytes / 2**30:.1f} GiB"
    try:
        gradient.run(*arguments)
    except jax.errors.JaxRuntimeError as error:
        return f"fails: {_reason(str(error))}"
    return gradient


def _reason(message: str) -> str:
    """What a runtime error says below its traceback."""
    lines = [line for line in message.splitlines() if "Error: " in line]
    return lines[-1] if lines else message.splitlines()[0]


def _gradient_figures(
    gradient: Compiled | str, name: str, taken: dict[str, list[float]]
) -> dict[str, Any]:
    if isinstance(gradient, str):
        return {"absent": gradient}
    return {
        "ratio": timing.spread(timing.ratios(taken[name], taken["forward"])),
        "compile_seconds": gradient.seconds,
        "temporary_bytes": gradient.temporary_bytes,
    }


def _gradients(entrant: Entrant, knob: float, problem: Problem) -> dict[str, Callable[..., Any]]:
    """Of the value, and of the potential against weights that no constant shift changes."""
    assert entrant.value_and_potential is not None
    function = entrant.value_and_potential(knob)
    weights = np.random.default_rng(1).normal(size=len(problem.x)).astype(np.float32)
    weights -= weights.mean()
    value = jax.value_and_grad(lambda *points: function(*points)[0])
    potentials = jax.grad(lambda *points: jnp.vdot(function(*points)[1], weights))
    return dict(zip(GRADIENTS, (value, potentials), strict=True))
