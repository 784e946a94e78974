"""How much memory do attention and its derivatives take for many tokens?

    python -m experiments.memory_attention [--num 100000] [--dim 32]

Compiles softmax self-attention of one head, its vjp in tokens and all matrices, and its jvp
in tokens, at an eighth, a quarter, half and all of `num` tokens, and prints the temporary
memory that XLA plans for each. Then runs the three at all of them, and prints the seconds
of each and the peak memory of this process so far: interpreter, JAX and tokens included.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array

from experiments.harness import timing
from experiments.harness.command import Parser, at_least, exit_cleanly
from experiments.harness.memory import peak_mebibytes
from transportx import attention as att

_MEBIBYTE = 2**20


def field(tokens: Array, matrices: Array) -> Array:
    """Self-attention at the temperature of transformers; matrices are Q, K and V."""
    query, key, value = matrices
    attention = att.Attention(query, key, value, att.Softmax(tokens.shape[1] ** 0.5))
    return attention(tokens, tokens)


def vjp(tokens: Array, matrices: Array) -> Any:
    """The field, and its pullback of the tokens themselves."""
    value, pull = jax.vjp(field, tokens, matrices)
    return value, pull(tokens)


def jvp(tokens: Array, matrices: Array) -> Any:
    """The field, and its derivative along the tokens themselves."""
    return jax.jvp(lambda x: field(x, matrices), (tokens,), (tokens,))


JOBS: dict[str, Callable[[Array, Array], Any]] = {"field": field, "vjp": vjp, "jvp": jvp}


def arrays(num: int, dim: int) -> tuple[Array, Array]:
    """Gaussian tokens, and matrices that keep their scale."""
    tokens_key, matrices_key = jr.split(jr.key(0))
    matrices = jr.normal(matrices_key, (3, dim, dim)) / dim**0.5
    return jr.normal(tokens_key, (num, dim)), matrices


def print_plans(num: int, dim: int) -> dict[str, timing.Compiled]:
    """The table of temporary memory, planned and not run; returns the programs at `num`."""
    sizes = [num // 8, num // 4, num // 2, num]
    print("| temporary MiB at | " + " | ".join(f"{size:,}" for size in sizes) + " |")
    print("|---" * (1 + len(sizes)) + "|")
    matrices, programs = jax.ShapeDtypeStruct((3, dim, dim), jnp.float32), {}
    for name, job in JOBS.items():
        shapes = (jax.ShapeDtypeStruct((size, dim), jnp.float32) for size in sizes)
        compiled = [timing.compiled(job, shape, matrices) for shape in shapes]
        cells = (f"{each.temporary_bytes / _MEBIBYTE:.1f}" for each in compiled)
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
        programs[name] = compiled[-1]
    return programs


def main() -> None:
    """Parse the command line, compile, run, print."""
    parser = Parser("memory_attention", __doc__)
    parser.add_argument("--num", type=at_least(8), default=100_000)
    parser.add_argument("--dim", type=at_least(1), default=32)
    args = parser.parse_args()
    programs = print_plans(args.num, args.dim)
    print(flush=True)
    given = arrays(args.num, args.dim)
    for name, program in programs.items():
        took = timing.seconds(functools.partial(program.run, *given))
        print(f"{name}: {took:.1f} s, process peak {peak_mebibytes():.0f} MiB", flush=True)


if __name__ == "__main__":
    exit_cleanly(main)
