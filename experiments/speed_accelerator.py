"""How near do fused Sinkhorn steps come to what an accelerator can do? Against ott-jax, torch.

    python -m experiments.speed_accelerator [--rounds 7] [--smoke] [--out FILE.json]

The job: ten Sinkhorn iterations in the log domain, uniform weights, cost |x - y|^2, epsilon
0.1, float32, from n points of each side to both potentials. Cells (n, d) are (10,000, 64),
(10,000, 128), (40,000, 128) and (40,000, 512), with points drawn as in speed_sinkhorn and
scaled so that the mean cost is about two. Entrants: our Pallas kernels; the same steps by
XLA's tiles; ott-jax with its costs held; torch by a KeOps reduction, or with its costs held
where it has CUDA. Who is absent or fails, as by memory, is named with the reason. All run in
turn in this process, warm; ratios are within a round. `differs` is the greatest distance of
source potentials from those of XLA's tiles, over epsilon.

The fraction of the roofline is the arithmetic of the inner products, 40 n^2 d operations,
over the time and the device's peak in float32: on TPUs a sixth of bfloat16's, the passes that
full precision takes; on an H100 or H200 67 TFLOP/s, without tensor cores. Costs are never
written by kernels, so memory bounds nothing here.

It needs an accelerator, and says so where there is none (exit code 2). `--smoke` runs a tiny
cell with the kernels of both platforms interpreted: it checks the command, and times nothing.
"""
# pyright: reportMissingImports=false
# Only the extra `peers` installs torch; pykeops is the user's to add.

import functools
import importlib.util
import math
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import transportx as tx
from experiments.harness import timing
from experiments.harness.command import Parser, UserError, at_least, exit_cleanly, output_file
from experiments.harness.runs import write_figures
from experiments.plan.ahead import CHIPS
from experiments.racing import audits as entropic
from transportx.geometry import _fused

_CELLS = ((10_000, 64), (10_000, 128), (40_000, 128), (40_000, 512))
_SMOKE = ((150, 20),)
_STEPS, _EPSILON = 10, 0.1
_KERNELS, _TILES = "kernels", "XLA tiles"
# A name in the device's own, and peak float32 operations a second: NVIDIA's data sheets, and
# bfloat16's over the six passes that a TPU takes for full precision.
_PEAKS = {
    "H100": 67e12,
    "H200": 67e12,
    "v4": CHIPS["v4"].flops / 6,
    "v5 lite": CHIPS["v5e"].flops / 6,
    "v5e": CHIPS["v5e"].flops / 6,
    "v5": CHIPS["v5p"].flops / 6,
    "v6": CHIPS["v6e"].flops / 6,
}


class Points(NamedTuple):
    """Two clouds in float32."""

    x: np.ndarray
    y: np.ndarray


Potential = Callable[[], Any]


def draw(n: int, d: int) -> Points:
    """Clouds with a mean cost of about two, whatever the dimension."""
    x, y = entropic.draw(n, d)
    scale = np.float32(math.sqrt(2 / entropic.mean_cost(x, y)))
    return Points(scale * x, scale * y)


def fused(points: Points, *, platform: str | None = None, interpreted: bool = False) -> Potential:
    """Our kernels of a platform, by themselves or interpreted; XLA's tiles where it is None."""

    def solve(x, y):
        centre = (jnp.mean(x, axis=0) + jnp.mean(y, axis=0)) / 2
        x, y = ((cloud - centre[None, :]) / math.sqrt(_EPSILON) for cloud in (x, y))
        a, b = (jnp.full(len(cloud), 1 / len(cloud), cloud.dtype) for cloud in (x, y))

        def step(_, ends):
            f = -_fused.log_totals(x, y, ends[1], b, platform, interpreted)
            return f, -_fused.log_totals(y, x, f, a, platform, interpreted)

        start = jnp.zeros(len(x), x.dtype), jnp.zeros(len(y), y.dtype)
        return _EPSILON * jax.lax.fori_loop(0, _STEPS, step, start)[0]

    return _compiled(solve, points)


def tiles(points: Points) -> Potential:
    """The same steps, with costs by XLA in tiles of rows."""

    def best(cloud, potential):
        def rows(costs):
            return -_EPSILON * jax.nn.logsumexp((potential[None, :] - costs) / _EPSILON, axis=1)

        return cloud.map_tiles(rows) + _EPSILON * math.log(len(potential))

    def solve(x, y):
        cloud = tx.geometry.PointCloud(x, y)

        def step(_, ends):
            f = best(cloud, ends[1])
            return f, best(cloud.T, f)

        start = jnp.zeros(len(x), x.dtype), jnp.zeros(len(y), y.dtype)
        return jax.lax.fori_loop(0, _STEPS, step, start)[0]

    return _compiled(solve, points)


def ott(points: Points) -> Potential:
    """ott-jax, its costs held."""
    from ott.geometry.pointcloud import PointCloud
    from ott.problems.linear.linear_problem import LinearProblem
    from ott.solvers.linear.sinkhorn import Sinkhorn

    def solve(x, y):
        solver = Sinkhorn(threshold=0, min_iterations=_STEPS, max_iterations=_STEPS)
        # Its first update is of the other side: the clouds change places.
        return solver(LinearProblem(PointCloud(y, x, epsilon=_EPSILON))).g

    return _compiled(solve, points)


def torch_dense(points: Points) -> Potential:
    """Torch, its costs held, on CUDA."""
    import torch

    def best(costs, potential):
        return -_EPSILON * torch.logsumexp((potential - costs) / _EPSILON, 1)

    def solve(x, y):
        costs = torch.cdist(x, y) ** 2
        return costs, costs.T, best

    return _torch(points, solve)


def keops(points: Points) -> Potential:
    """Torch with costs streamed by KeOps, as GeomLoss's online backend does, on CUDA."""
    from pykeops.torch import LazyTensor

    def best(clouds, potential):
        x, y = clouds
        costs = ((LazyTensor(x[:, None, :]) - LazyTensor(y[None, :, :])) ** 2).sum(-1)
        exponents = (LazyTensor(potential[None, :, None]) - costs) / _EPSILON
        return -_EPSILON * exponents.logsumexp(1).view(-1)

    return _torch(points, lambda x, y: ((x, y), (y, x), best))


def _torch(points: Points, prepare: Callable[..., Any]) -> Potential:
    """Alternate the updates that are prepared from clouds on the GPU."""
    import torch

    x, y = (torch.as_tensor(cloud, device="cuda") for cloud in points)

    def run():
        forth, back, best = prepare(x, y)
        g = torch.zeros(len(y), device="cuda")
        f = g
        for _ in range(_STEPS):
            f = best(forth, g) + _EPSILON * math.log(len(y))
            g = best(back, f) + _EPSILON * math.log(len(x))
        torch.cuda.synchronize()
        return f.cpu().numpy()

    return run


def _compiled(solve: Callable[..., Any], points: Points) -> Potential:
    x, y = map(jnp.asarray, points)
    return functools.partial(timing.compiled(solve, x, y).run, x, y)


def entrants(smoke: bool) -> tuple[dict[str, Callable[[Points], Potential]], dict[str, str]]:
    """Who takes part, and who does not and why."""
    known: dict[str, Callable[[Points], Potential]] = {_TILES: tiles}
    if smoke:
        for platform in ("tpu", "cuda"):
            known[f"{platform} {_KERNELS}"] = functools.partial(
                fused, platform=platform, interpreted=True
            )
        return known, {}
    platform = {"tpu": "tpu", "gpu": "cuda"}.get(jax.default_backend())
    known[_KERNELS] = functools.partial(fused, platform=platform)
    absent = {}
    for name, module, entrant in (
        ("ott dense", "ott", ott),
        ("torch dense", "torch", torch_dense),
        ("KeOps", "pykeops", keops),
    ):
        if importlib.util.find_spec(module) is None:
            absent[name] = f"{module} is not installed"
        elif module != "ott" and not _torch_has_cuda():
            absent[name] = "torch has no CUDA here"
        else:
            known[name] = entrant
    return known, absent


def _torch_has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def run_cell(n: int, d: int, rounds: int, smoke: bool) -> dict[str, Any]:
    """Seconds of all, ratios to ours, fractions of the roofline, differences."""
    points = draw(n, d)
    known, failed = entrants(smoke)
    runs, answers = {}, {}
    for name, entrant in known.items():
        try:
            runs[name] = entrant(points)
            answers[name] = np.asarray(runs[name](), np.float64)
        except (RuntimeError, MemoryError) as error:
            # Of memory, mostly: JAX's and torch's errors are of this kind.
            failed[name] = str(error).splitlines()[0]
            runs.pop(name, None)
    taken = timing.measure(runs, rounds)
    peak = _peak()
    return {
        "absent": failed,
        "seconds": {name: timing.spread(values) for name, values in taken.items()},
        "times_faster": {
            name: timing.spread(timing.ratios(values, taken[_KERNELS]))
            for name, values in taken.items()
            if _KERNELS in taken and name != _KERNELS
        },
        "roofline": {
            name: 4 * _STEPS * n * n * d / statistics.median(values) / peak
            for name, values in taken.items()
            if peak is not None
        },
        "differs": {
            # Potentials are known up to a constant.
            name: float(np.max(np.abs(_centred(answer) - _centred(answers[_TILES]))) / _EPSILON)
            for name, answer in answers.items()
            if _TILES in answers
        },
    }


def _centred(potential: np.ndarray) -> np.ndarray:
    return potential - np.mean(potential)


def _peak() -> float | None:
    kind = jax.devices()[0].device_kind
    return next((peak for name, peak in _PEAKS.items() if name in kind), None)


def show(table: dict[str, Any]) -> None:
    """Print Markdown."""
    print("| n, d | | ms | of the roofline | times as long as kernels | differs, in epsilon |")
    print("|---|---|---|---|---|---|")
    for cell, row in table.items():
        for name, seconds in row["seconds"].items():
            share, slower = row["roofline"].get(name), row["times_faster"].get(name)
            figures = (
                f"{1e3 * seconds['median']:.4g}",
                "" if share is None else f"{share:.2f}",
                "" if slower is None else f"{slower['median']:.2f}",
                f"{row['differs'].get(name, math.nan):.1e}",
            )
            print(f"| {cell} | {name} | {' | '.join(figures)} |")
        for name, reason in row["absent"].items():
            print(f"| {cell} | {name} | {reason} | | | |")


def main() -> None:
    """Parse the command line, measure, print."""
    parser = Parser("speed_accelerator", __doc__)
    parser.add_argument("--rounds", type=at_least(1), default=7)
    parser.add_argument("--smoke", action="store_true", help="a tiny cell, kernels interpreted")
    parser.add_argument("--out", type=output_file, help="also write the figures as JSON")
    args = parser.parse_args()
    if not args.smoke and jax.default_backend() not in ("gpu", "tpu"):
        raise UserError(
            "no accelerator: JAX has only CPUs here; run on a TPU or an NVIDIA GPU, or --smoke"
        )
    cells = _SMOKE if args.smoke else _CELLS
    table = {f"{n:,}, {d}": run_cell(n, d, args.rounds, args.smoke) for n, d in cells}
    show(table)
    write_figures(args.out, {"cells": table})


if __name__ == "__main__":
    exit_cleanly(main)
