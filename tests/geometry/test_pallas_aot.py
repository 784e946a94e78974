"""The compilers of a TPU and of an H100 accept the fused kernels, derivatives included.

Run with `pytest -m aot`; skipped, with the reason, where a compiler is not installed.
"""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, Mesh

from experiments.plan import ahead, gpu_kernels
from experiments.plan import run as plan
from tests.aot_jobs import shape
from transportx.geometry._fused import log_totals, product

pytestmark = pytest.mark.aot
# How a program that runs our kernels calls them.
CALLS = {"v5e:2x4": "tpu_custom_call", "h100:1": "triton"}


@pytest.fixture(autouse=True)
def float32():
    """What accelerators compute in."""
    with jax.enable_x64(False):
        yield


def one_device(name):
    reason = ahead.missing("cuda" if name.startswith("h100") else "tpu")
    if reason is not None:
        pytest.skip(reason)
    whole = ahead.target(name)
    mesh = Mesh(whole.mesh.devices[:1], (ahead.AXIS,), axis_types=(AxisType.Auto,))
    return ahead.Target(name, whole.platform, mesh)


def text(program):
    return program.as_text() or ""


def step(platform, x, y, g, b):
    """Half a Sinkhorn step, and where its plan sends the sources."""
    f = -log_totals(x, y, g, b, platform)
    return f, product(x, y, f, g, b[:, None] * y, platform=platform)


def loss(platform, x, y, g, b):
    f, images = step(platform, x, y, g, b)
    return jnp.sum(jnp.sin(f)) + jnp.sum(jnp.sin(images))


def arguments(n, m, d):
    return shape(n, d), shape(m, d), shape(m), shape(m)


# Sizes that no tile divides. Of 512 coordinates tiles must shrink to fit a TPU's fast memory.
@pytest.mark.parametrize("d", [3, 64, 512])
@pytest.mark.parametrize("name", CALLS)
def test_kernels_and_their_gradients_compile(name, d):
    target = one_device(name)
    n, m = 20_011, 30_001
    gradient = jax.value_and_grad(functools.partial(loss, target.platform), argnums=(0, 1, 2, 3))
    program = target.compile(gradient, *target.abstract(arguments(n, m, d)))
    # Two forward and more back, none of them by the loop over XLA's tiles.
    assert text(program).count(CALLS[name]) >= 5
    assert "while(" not in text(program)
    # Copies of clouds, filled up to whole lanes; the costs alone would be 2,290 MiB.
    width = 4 * (n + m) * max(d, 128) / 2**20
    assert plan.figures(program, target)["memory MiB"] < 10 * width


@pytest.mark.parametrize("name", CALLS)
def test_too_many_coordinates_are_left_to_tiles(name):
    target = one_device(name)
    program = target.compile(
        functools.partial(step, target.platform), *target.abstract(arguments(300, 200, 10_000))
    )
    # Kernels of GPUs take any number of them in chunks.
    assert (CALLS[name] in text(program)) == (name == "h100:1")


def test_programs_of_several_devices_are_left_to_tiles():
    one_device("v5e:2x4")
    target = ahead.target("v5e:2x4")
    program = target.compile(
        functools.partial(step, target.platform), *target.abstract(arguments(300, 200, 64))
    )
    assert "tpu_custom_call" not in text(program)


@pytest.mark.parametrize("d", [3, 512])
def test_kernels_of_an_h100_spill_no_registers(d):
    target = one_device("h100:1")
    if (reason := gpu_kernels.missing()) is not None:
        pytest.skip(reason)
    points = target.abstract(arguments(20_011, 30_001, d))
    kernels = gpu_kernels.taken(target, functools.partial(step, target.platform), *points)
    assert {"log_totals_kernel", "columns_kernel"} <= set(kernels)
    for kernel in kernels.values():
        assert kernel.spilled_bytes == 0
        # Two blocks or more at a time: 64 Ki registers, 228 KiB of shared memory.
        assert 2 * kernel.registers * kernel.threads <= 65536
        assert 2 * kernel.shared_bytes <= 228 * 1024
