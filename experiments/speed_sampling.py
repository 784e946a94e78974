"""How fast are samples and likelihoods? Against torchdyn (torchcfm), torchdiffeq, flow_matching.

    python -m experiments.speed_sampling [--cells plane adaptive likelihood digits]
        [--rounds 7] [--smoke] [--out FILE.json]

Cells, all in float32 and with the same weights in JAX and torch, which is checked first:
  plane       1,000 points, 100 Euler steps of a 64-64-64 SELU network, trained to carry a
              Gaussian onto eight Gaussians
  adaptive    the same at a tolerance of 1e-5. Peers share one step size among the batch, as
              transportx does if asked to; by default each example has its own steps, and
              the slowest decides
  likelihood  exact log-densities of 1,000 targets, 100 Euler steps back
  digits      256 images, 20 Euler steps of the transformer of configs/digits.toml, random
              weights
A bare scan is one `lax.scan` without a library: in `plane` with the activation of
transportx, which is quicker than `jax.nn.selu`, and with that. JAX is compiled beforehand,
torch is eager. All run in turn in this process; ratios are taken within a round. Errors are
distances to an answer in float64 at a tolerance of 1e-8. Fixed steps must moreover agree
with transportx to 1e-4. Needs the extra `peers`.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array

import transportx as tx
from experiments.data import points
from experiments.harness import config as configs
from experiments.harness import timing
from experiments.harness.command import Parser, UserError, at_least, exit_cleanly, output_file
from experiments.harness.runs import write_figures
from experiments.racing import peers_sampling as peers
from experiments.train import problem
from experiments.train.config import Config
from transportx.evolution import AdaptiveSteps, FixedSteps

_WIDTH, _DEPTH = 64, 3
_TOL, _REFERENCE_TOL = 1e-5, 1e-8
# Largest disagreements: of a network's values, and of answers after the same steps.
_SAME_VALUES, _SAME_STEPS = 1e-5, 1e-4


class Size(NamedTuple):
    """How much work: points, images, steps of each and of training.

    `seconds` is about how long the calls that are timed together take.
    """

    points: int = 1000
    images: int = 256
    steps: int = 100
    image_steps: int = 20
    training: int = 2000
    seconds: float = 0.2


_FULL, _SMOKE = Size(), Size(points=16, images=4, steps=20, image_steps=2, training=50, seconds=0)


class Cell(NamedTuple):
    """Entrants, ours first, and the answer that they approximate, if it's known."""

    runs: dict[str, Callable[[], Any]]
    reference: np.ndarray | None
    same_steps: bool = True


def trained_field(steps: int) -> tx.fields.MLP:
    """The network of the plane."""
    path, optimizer = tx.interpolants.Linear(), optax.adam(1e-3)

    def loss(field, batch, *, key):
        return tx.losses.flow_matching(field, path, batch.x0, batch.x1, key=key)

    step = tx.training.make_step(loss, optimizer)
    coupling = tx.couplings.Independent()
    draw = problem.PointBatches(points.gaussian, points.eight_gaussians, coupling, 256)
    state = tx.training.init(tx.fields.MLP(2, _WIDTH, _DEPTH, key=jr.key(0)), optimizer)
    return tx.training.fit(state, step, draw, num_steps=steps, key=jr.key(1))[0].field


def random_transformer(smoke: bool) -> tx.fields.DiT:
    """The transformer of the digits with normal weights; as it is made, it would be zero."""
    config = configs.load(Config, Path("configs/digits.toml"), smoke=smoke)
    shapes = eqx.filter_eval_shape(problem.make_field, config)
    assert isinstance(shapes, tx.fields.DiT)
    arrays, static = eqx.partition(shapes, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
    draw = np.random.default_rng(2).normal
    drawn = jax.tree.map(lambda leaf: jnp.asarray(draw(0, 0.1, leaf.shape), leaf.dtype), arrays)
    return eqx.combine(drawn, static)


def compiled(function: Callable[..., Array], field: Any, *args: Any) -> Callable[[], Array]:
    """`function(field, *args)`, compiled; weights are arguments, as in a user's program."""
    arrays, static = eqx.partition(field, eqx.is_array)

    def call(arrays: Any, *args: Any) -> Array:
        return function(eqx.combine(arrays, static), *args)

    return functools.partial(timing.compiled(call, arrays, *args).run, arrays, *args)


def bare_plane(
    field: tx.fields.MLP, x: Array, steps: int, activation: Callable[[Array], Array]
) -> Array:
    """Euler steps of the plane's network without a library."""
    weights: list[Any] = [(layer.weight.T, layer.bias) for layer in field.layers]

    def step(x, t):
        hidden = jnp.concatenate([x, jnp.full((len(x), 1), t)], axis=1)
        for matrix, bias in weights[:-1]:
            hidden = activation(hidden @ matrix + bias)
        matrix, bias = weights[-1]
        return x + (hidden @ matrix + bias) / steps, None

    return jax.lax.scan(step, x, jnp.arange(steps) / steps)[0]


def bare_digits(field: tx.fields.DiT, x: Array, labels: Array, steps: int) -> Array:
    """Euler steps of a field without a library of solvers."""

    def step(x, t):
        return x + jax.vmap(lambda x, label: field(t, x, label))(x, labels) / steps, None

    return jax.lax.scan(step, x, jnp.arange(steps) / steps)[0]


def log_normal(x: Array) -> Array:
    """Log-density of one point of the standard normal law."""
    return jnp.sum(jax.scipy.stats.norm.logpdf(x))


def reference(function: Callable[..., Array], field: tx.fields.MLP, x: Array) -> np.ndarray:
    """`function(field, x, **options)` in float64, finely."""
    with jax.enable_x64(True):
        field, x = jax.tree.map(
            lambda leaf: jnp.asarray(np.asarray(leaf), np.float64) if eqx.is_array(leaf) else leaf,
            (field, x),
        )
        tight = AdaptiveSteps(_REFERENCE_TOL, _REFERENCE_TOL, diffrax.Dopri8(), max_steps=2**15)
        answer = eqx.filter_jit(function)(field, x, steps=tight)
        return np.asarray(answer)


def log_prob(field: tx.fields.MLP, x: Array, **options: Any) -> Array:
    """`tx.sampling.log_prob` for a Gaussian source."""
    return tx.sampling.log_prob(field, x, base_log_prob=log_normal, **options)


def check_plane_network(field: tx.fields.MLP, x: Array) -> None:
    """Refuse to time unlike networks."""
    t, velocity = jnp.float32(0.3), peers.velocity_of(peers.plane_network(field))
    ours = jax.jit(jax.vmap(field, in_axes=(None, 0)))(t, x)
    check_same(velocity(*peers.tensors((t, x))), ours, _SAME_VALUES)


def check_same(theirs: Any, ours: Any, tol: float) -> None:
    """Refuse to compare unlike answers."""
    theirs = theirs.detach().numpy() if hasattr(theirs, "detach") else theirs
    np.testing.assert_allclose(theirs, np.asarray(ours), atol=tol, rtol=tol)


@functools.cache
def plane_problem(size: Size) -> tuple[tx.fields.MLP, Array, np.ndarray]:
    """Field, sources, and where they go."""
    field, x = trained_field(size.training), points.gaussian(size.points, key=jr.key(3))
    check_plane_network(field, x)
    return field, x, reference(tx.sampling.flow, field, x)


def plane(size: Size, smoke: bool) -> Cell:
    """Euler steps of points."""
    field, x, answer = plane_problem(size)
    euler = functools.partial(tx.sampling.flow, steps=size.steps)
    quick, slow = (
        functools.partial(bare_plane, steps=size.steps, activation=activation)
        for activation in (field.activation, jax.nn.selu)
    )
    runs = {
        "transportx": compiled(euler, field, x),
        "bare scan": compiled(quick, field, x),
        "bare scan, jax.nn.selu": compiled(slow, field, x),
    }
    return Cell(runs | peers.euler(field, x, size.steps), answer)


def adaptive(size: Size, smoke: bool) -> Cell:
    """Points by adaptive steps."""
    field, x, answer = plane_problem(size)
    runs = {
        f"transportx {type(solver).__name__}{', shared' * shared}": compiled(
            functools.partial(
                tx.sampling.flow, steps=AdaptiveSteps(_TOL, _TOL, solver, shared=shared)
            ),
            field,
            x,
        )
        for shared in (True, False)
        for solver in (diffrax.Dopri5(), diffrax.Tsit5())
    }
    return Cell(runs | peers.adaptive(field, x, _TOL), answer, same_steps=False)


def likelihood(size: Size, smoke: bool) -> Cell:
    """Log-densities of targets."""
    field = plane_problem(size)[0]
    x = points.eight_gaussians(size.points, key=jr.key(4))
    euler = functools.partial(log_prob, steps=FixedSteps(size.steps, diffrax.Euler()))
    runs = {"transportx": compiled(euler, field, x)} | peers.likelihood(field, x, size.steps)
    return Cell(runs, reference(log_prob, field, x))


def digits(size: Size, smoke: bool) -> Cell:
    """Euler steps of images."""
    field, steps = random_transformer(smoke), size.image_steps
    x = jr.normal(jr.key(5), (size.images, *field.shape))
    labels = jr.randint(jr.key(6), (size.images,), 0, 10)
    t, torch_velocity = jnp.float32(0.3), peers.transformer(field, labels)
    ours = jax.jit(jax.vmap(field, in_axes=(None, 0, 0)))(t, x, labels)
    check_same(torch_velocity(*peers.tensors((t, x))), ours, _SAME_VALUES)
    euler = functools.partial(tx.sampling.flow, steps=steps)
    runs = {
        "transportx": compiled(euler, field, x, labels),
        "bare scan": compiled(functools.partial(bare_digits, steps=steps), field, x, labels),
        "torch loop": peers.loop(torch_velocity, peers.tensors(x), steps),
    }
    return Cell(runs, None)


_CELLS = {"plane": plane, "adaptive": adaptive, "likelihood": likelihood, "digits": digits}


def run_cell(cell: Cell, rounds: int, seconds: float) -> dict[str, Any]:
    """Audit the answers, then time the entrants: milliseconds, and ratios to ours."""
    base = next(iter(cell.runs))
    answers = {name: run() for name, run in cell.runs.items()}
    if cell.same_steps:
        for answer in answers.values():
            check_same(answer, answers[base], _SAME_STEPS)
    calls = max(1, round(seconds / timing.least_seconds(cell.runs[base])))
    repeated = {name: functools.partial(_repeat, run, calls) for name, run in cell.runs.items()}
    taken = timing.measure(repeated, rounds)
    return {
        name: {
            "milliseconds": timing.spread([1e3 * each / calls for each in times]),
            "times_ours": timing.spread(timing.ratios(times, taken[base])),
            "error": None if cell.reference is None else _error(answers[name], cell.reference),
        }
        for name, times in taken.items()
    }


def _repeat(run: Callable[[], Any], calls: int) -> None:
    for _ in range(calls):
        run()


def _error(answer: Any, truth: np.ndarray) -> dict[str, float]:
    """Root mean square and greatest distance over the batch."""
    errors = np.asarray(answer, np.float64).reshape(truth.shape) - truth
    squares = np.sum(errors.reshape(len(truth), -1) ** 2, axis=1)
    return {"rms": float(np.sqrt(squares.mean())), "greatest": float(np.sqrt(squares.max()))}


def show(table: dict[str, Any]) -> None:
    """Print Markdown."""
    print("| cell | | ms | x transportx | error, rms | greatest |")
    print("|---|---|---|---|---|---|")
    for cell, rows in table.items():
        for name, row in rows.items():
            ratio = "{median:.2f} ({min:.2f} to {max:.2f})".format(**row["times_ours"])
            error = row["error"]
            errors = "| " if error is None else f"{error['rms']:.2g} | {error['greatest']:.2g}"
            print(f"| {cell} | {name} | {row['milliseconds']['median']:.3g} | {ratio} | {errors} |")


def main() -> None:
    """Parse the command line, measure, print."""
    parser = Parser("speed_sampling", __doc__)
    parser.add_argument("--cells", nargs="+", choices=_CELLS, default=list(_CELLS))
    parser.add_argument("--rounds", type=at_least(1), default=7)
    parser.add_argument("--smoke", action="store_true", help="seconds; figures mean nothing")
    parser.add_argument("--out", type=output_file, help="also write the figures as JSON")
    args = parser.parse_args()
    try:
        peers.require()
    except ModuleNotFoundError as error:
        raise UserError(f'{error}; run `pip install -e ".[experiments,peers]"`') from error
    size = _SMOKE if args.smoke else _FULL
    table = {
        name: run_cell(_CELLS[name](size, args.smoke), args.rounds, size.seconds)
        for name in args.cells
    }
    show(table)
    write_figures(args.out, {"cells": table})


if __name__ == "__main__":
    exit_cleanly(main)
