"""Every test runs in float64 on CPU, with strict promotion of dtypes and ranks."""

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# jaxlib's batched LAPACK kernels wait inside the thread pool for tasks of the same pool; two
# at once were seen to block a pool of two threads for ever. More threads leave one free.
os.environ.setdefault("NPROC", "8")

import jax
import jaxtyping
import pytest

from tests.helpers import SOON_COMPILED

jax.config.update("jax_enable_x64", True)
# JAX takes longer to shorten the traceback of a refusal than we take to refuse.
jax.config.update("jax_traceback_filtering", "off")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config):
    """Start the CPU backend with flags that no command started by a test shall inherit.

    Eight devices for the tests of sharding; all others use the first. The compilers of
    accelerators are asked as users ask them, all else is compiled soon, but for long tests,
    which run much longer than they compile.
    """
    flags = [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8"]
    if config.option.markexpr not in ("aot", "long"):
        flags += SOON_COMPILED
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", " ".join(flags))
        jax.devices()


@pytest.fixture
def without_type_checks():
    """Switch jaxtyping's checks off: users run without them, and must meet our own errors."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


# Bytes of memory at which a process first forgets its compiled programs, and then after every
# such growth: what is freed stays with the process, for its next programs.
_limit, _GROWTH = 4 * 2**30, 3 * 2**29


@pytest.fixture(scope="module", autouse=True)
def forget_compiled_programs():
    """Keep memory bounded; small programs are of use to the next file, large ones are not."""
    global _limit
    yield
    if _memory() > _limit:
        jax.clear_caches()
        _limit = _memory() + _GROWTH


def _memory():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
