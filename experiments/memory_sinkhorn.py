"""How much memory do entropic transport and its derivatives take between large clouds?

    python -m experiments.memory_sinkhorn [--num 65536] [--dim 16] [--columns 64]

Compiles the value with its gradient, the gradient of potentials, and the product of a plan
with a matrix, at an eighth, a quarter, half and all of `num` points a side, and prints
the temporary memory that XLA plans for each. Then runs the value and gradient of all
points, two Sinkhorn steps long, and prints the peak memory of this process: interpreter,
JAX and points included. About two minutes on two cores.
"""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array

import transportx as tx
from experiments.harness import timing
from experiments.harness.command import Parser, at_least, exit_cleanly
from experiments.harness.memory import peak_mebibytes

_MEBIBYTE = 2**20


def _plan(x: Array, y: Array) -> tx.ot.EntropicPlan:
    geometry = tx.geometry.PointCloud(x, y)
    epsilon = 0.1 * geometry.mean_cost()
    return tx.ot.solve(geometry, epsilon=epsilon, solver=tx.ot.Sinkhorn(max_steps=2))


def value(x: Array, y: Array) -> Array:
    """Regularised optimum."""
    return _plan(x, y).value


def potentials(x: Array, y: Array) -> Array:
    """A number that takes the implicit derivative."""
    return jnp.sum(jnp.sin(_plan(x, y).f))


def jobs(columns: int) -> dict[str, Callable[[Array, Array], object]]:
    """What is measured, by name."""

    def product(x: Array, y: Array) -> Array:
        return _plan(x, y) @ jnp.ones((len(y), columns), y.dtype)

    return {
        "value and gradient": jax.value_and_grad(value, argnums=(0, 1)),
        "gradient of potentials": jax.grad(potentials, argnums=(0, 1)),
        f"plan @ ({columns} columns)": product,
    }


def clouds(num: int, dim: int) -> tuple[Array, Array]:
    """Two Gaussians, shifted."""
    x_key, y_key = jr.split(jr.key(0))
    return jr.normal(x_key, (num, dim)), 0.3 + jr.normal(y_key, (num, dim))


def main() -> None:
    """Parse the command line, compile, run, print."""
    parser = Parser("memory_sinkhorn", __doc__)
    parser.add_argument("--num", type=at_least(8), default=65536)
    parser.add_argument("--dim", type=at_least(1), default=16)
    parser.add_argument("--columns", type=at_least(1), default=64)
    args = parser.parse_args()
    sizes = [args.num // 8, args.num // 4, args.num // 2, args.num]
    print("| temporary MiB at | " + " | ".join(f"{size:,}" for size in sizes) + " |")
    print("|---" * (1 + len(sizes)) + "|")
    for name, job in jobs(args.columns).items():
        shapes = (jax.ShapeDtypeStruct((size, args.dim), jnp.float32) for size in sizes)
        planned = (timing.compiled(job, shape, shape).temporary_bytes for shape in shapes)
        cells = (f"{count / _MEBIBYTE:.1f}" for count in planned)
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    x, y = clouds(args.num, args.dim)
    compiled = timing.compiled(jobs(args.columns)["value and gradient"], x, y)
    start = time.perf_counter()
    compiled.run(x, y)
    took = time.perf_counter() - start
    print(f"\nvalue and gradient: {took:.1f} s, process peak {peak_mebibytes():.0f} MiB")


if __name__ == "__main__":
    exit_cleanly(main)
