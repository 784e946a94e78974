"""What tests of several rooms share: derivatives against differences, commands, programs."""

import contextlib
import functools
import io
import os
import runpy
import subprocess
import sys
import tempfile
import warnings

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

# Programs that run once: what counts is how soon they are compiled.
quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

# Most of a test's time is XLA's: what optimises programs is left out, and its checks of itself.
# MLIR's emitters, where they are still a choice, take twice as long as the older ones.
SOON_COMPILED = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
    "--xla_disable_hlo_passes=hlo-verifier",
]
if jax.__version_info__ < (0, 11):
    SOON_COMPILED.append("--xla_cpu_use_fusion_emitters=false")
_COMPILED = tempfile.TemporaryDirectory()


def settings():
    """The environment of a command: on the CPU, soon compiled, each program once a session."""
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": " ".join(SOON_COMPILED),
        "JAX_COMPILATION_CACHE_DIR": _COMPILED.name,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def check_derivatives(function, *arguments, order=1, step=1e-4, tol=1e-6, forward=True):
    """Compare jvp and vjp of a function of arrays with a central difference.

    The direction is random. Order 2 checks the derivative of both, forward over forward
    and forward over reverse. Errors of a difference are of order step^2, times a third
    derivative, and 1e-16 / step, times the function: `tol` bounds both. A function of
    reverse mode only says ``forward=False``.
    """
    flat, unravel = ravel_pytree(arguments)
    direction = jr.normal(jr.key(order), flat.shape)

    def value(flat):
        return ravel_pytree(function(*unravel(flat)))[0]

    def along_direction(flat):
        return jax.jvp(value, (flat,), (direction,))[1]

    def reverse(flat):
        values, pull = jax.vjp(value, flat)
        return pull(jnp.cos(jnp.arange(values.size, dtype=values.dtype)))[0]

    @jax.jit
    def compare(flat):
        # A loop, so that the function is compiled once for both ends.
        ends = jax.lax.map(lambda sign: value(flat + sign * step * direction), jnp.array([1.0, -1]))
        difference = (ends[0] - ends[1]) / (2 * step)
        along = along_direction(flat) if forward else difference
        return difference, along, reverse(flat) @ direction

    difference, along, across = compare(flat)
    np.testing.assert_allclose(along, difference, rtol=tol, atol=tol)
    weights = np.cos(np.arange(difference.size))
    np.testing.assert_allclose(across, weights @ difference, rtol=tol, atol=10 * tol)
    if order > 1:
        for first in (along_direction, reverse):
            check_derivatives(first, flat, order=order - 1, step=step, tol=tol)


def check_reverse(function, *arguments, step=1e-5, tol=1e-6):
    """The derivative of a random combination, by one program that also gives its values."""
    flat, unravel = ravel_pytree(arguments)
    direction = jr.normal(jr.key(40), flat.shape)

    @quick
    @jax.value_and_grad
    def combination(flat):
        outcome = ravel_pytree(function(*unravel(flat)))[0]
        return outcome @ jnp.cos(jnp.arange(outcome.size, dtype=outcome.dtype))

    ends = [combination(flat + s * direction)[0] for s in (step, -step)]
    slope = combination(flat)[1] @ direction
    assert jnp.allclose(slope, (ends[0] - ends[1]) / (2 * step), rtol=tol, atol=tol)


def command(*arguments, module="experiments.train"):
    """Run a command of the repository; returns the finished process."""
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=settings(),
        check=False,
    )


def refusal(*arguments, module="experiments.train"):
    """Run a command that refuses at once in this process, which saves its imports."""
    said, before = io.StringIO(), sys.argv
    sys.argv = [module, *map(str, arguments)]
    try:
        with (
            contextlib.redirect_stderr(said),
            contextlib.redirect_stdout(io.StringIO()),
            warnings.catch_warnings(action="ignore", category=RuntimeWarning),
            pytest.raises(SystemExit) as ended,
        ):
            runpy.run_module(module, run_name="__main__")
    finally:
        sys.argv = before
    code = ended.value.code
    assert isinstance(code, int)
    return subprocess.CompletedProcess(arguments, code, "", said.getvalue())


def assert_refused(process, *words):
    """Exit code 2 and one clear line."""
    assert process.returncode == 2, process.stderr
    lines = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, process.stderr
    for word in words:
        assert word in lines[0]
