"""The real compilers of TPUs and of an H100 accept everything public. No device is needed.

Run with `pytest -m aot`; skipped, with the reason, where a compiler is not installed.
"""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import transportx as tx
from experiments.harness import config as configs
from experiments.harness.command import UserError
from experiments.plan import ahead, programs
from experiments.plan import run as plan
from experiments.train.config import Config
from tests import aot_jobs
from transportx.geometry import internal

pytestmark = pytest.mark.aot
TARGETS = {"v5e:2x4": "tpu", "v6e:2x4": "tpu", "h100:1": "cuda"}


@pytest.fixture(autouse=True)
def float32():
    """What accelerators compute in, by the rules of promotion that users have."""
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(params=TARGETS)
def target(request):
    reason = ahead.missing(TARGETS[request.param])
    if reason is not None:
        pytest.skip(reason)
    return ahead.target(request.param)


def test_every_public_name_has_a_job():
    public = set(aot_jobs.public_names())
    jobs = set(aot_jobs.jobs()) - set(aot_jobs.INTERNAL)
    assert public == jobs | set(aot_jobs.NOT_COMPILED)


@pytest.mark.parametrize("name", aot_jobs.jobs())
def test_everything_public_compiles(name, target):
    function, arguments = aot_jobs.jobs()[name]
    program = target.compile(function, *target.abstract(arguments))
    assert program.memory_analysis() is not None


# fashion_mnist trains mnist's network, on images that no Python package carries.
CONFIGS = ("checkerboard", "digits", "gaussian_to_moons", "mnist", "moons_to_8gaussians")
CONFIGS += ("tpu/photographs",)


@pytest.mark.parametrize("name", CONFIGS)
def test_training_steps_of_configs_compile(name, target):
    path = pathlib.Path(f"configs/{name}.toml")
    # Of a size that the devices divide; larger networks at smoke size, to compile in seconds.
    smoke = name in ("mnist", "tpu/photographs")
    config = configs.load(Config, path, overrides=["training.batch=64"], smoke=smoke)
    figures = plan.plan(config, target)
    assert figures["fits"]
    assert figures["devices"] == target.mesh.size
    # Gradients are summed over devices, batches coupled on all of them.
    sent = figures["collectives MiB"]
    assert ("all-reduce" in sent) == (target.mesh.size > 1)
    # The batch a few times: nothing is gathered in the loops of a coupling.
    assert sent.get("all-gather", 0) < 0.7


@pytest.fixture
def v5e():
    reason = ahead.missing("tpu")
    if reason is not None:
        pytest.skip(reason)
    return ahead.target("v5e:2x4")


def test_a_plan_says_what_a_known_program_needs(v5e):
    """Seven products of 1,024 x 1,024 on each device, their sum of squares over all."""
    n, steps = 1024, 7

    def power(x):
        y, _ = jax.lax.scan(lambda y, _: (y @ x[0], None), x[0], length=steps - 1)
        return y @ x[0], jnp.sum(x**2)

    x = jax.ShapeDtypeStruct((1, n, n), np.float32, sharding=v5e.abstract(aot_jobs.X).sharding)
    figures = plan.figures(v5e.compile(power, x), v5e)
    mebibytes = n * n * 4 / 2**20
    # What goes in, what comes out, and at most two between.
    assert 2 * mebibytes <= figures["memory MiB"] <= 4.1 * mebibytes
    assert figures["GFLOP"] == pytest.approx(steps * 2 * n**3 / 1e9, rel=0.01)
    assert figures["bound by"] in ("arithmetic", "memory")
    least = max(steps * 2 * n**3 / 197e12, figures["memory traffic MiB"] * 2**20 / 0.82e12)
    assert figures["least milliseconds a step"] == pytest.approx(1e3 * least, rel=0.01)


def test_a_plans_memory_is_no_less_than_what_the_compiler_counts(v5e):
    """Told of too small a device, it says what it counts against one."""
    lowered = plan.lower_step(configs.load(Config, pathlib.Path("configs/digits.toml")), v5e)
    program = ahead.compile_quietly(lowered)
    memory, planned = program.memory_analysis(), plan.memory_at_peak(program) / 2**20
    assert memory is not None
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED") as refusal:
        lowered.compile(compiler_options={"xla_tpu_max_hbm_size_mib": "11"})
    text = str(refusal.value)
    used, arguments = (
        float(re.findall(pattern, text)[0])
        for pattern in (r"Used ([\d.]+)M of 11.00M hbm", r"arguments +([\d.]+)M")
    )
    assert arguments == pytest.approx(memory.argument_size_in_bytes / 2**20, rel=0.01)
    # The rest is code and temporaries, which the analysis has with their gaps more than once.
    assert 0.7 * planned < used <= planned


def test_what_does_not_fit_ends_in_one_line(v5e, monkeypatch, capsys):
    small = v5e.chip._replace(memory=2**19)
    monkeypatch.setitem(ahead.CHIPS, "v5e", small)
    arguments = "configs/digits.toml --topology v5e:2x4 --smoke --set coupling.kind=independent"
    monkeypatch.setattr("sys.argv", ["plan", *arguments.split()])
    with pytest.raises(SystemExit) as end:
        plan.main(None)
    assert end.value.code == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("error: does not fit: it needs ")
    assert "MiB of the 0 MiB of a device" in line


def _product(x, y, tile):
    cloud = tx.geometry.PointCloud(x, y, tile=tile)
    kernel = internal.gibbs_kernel(cloud, x[:, 0], y[:, 0], jnp.float32(0.1))
    return kernel.T @ (kernel @ y)


def test_dense_costs_do_not_fit_where_streamed_ones_do(v5e):
    points = v5e.abstract(aot_jobs.shape(65536, 16))
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        v5e.compile(lambda x, y: _product(x, y, 65536), points, points)
    program = v5e.compile(lambda x, y: _product(x, y, None), points, points)
    assert plan.figures(program, v5e)["memory MiB"] < 256


def test_a_million_points_over_256_chips():
    reason = ahead.missing("tpu")
    if reason is not None:
        pytest.skip(reason)
    target = ahead.target("v5e:16x16")
    n, d = 2**20, 16
    points = target.abstract(aot_jobs.shape(n, d), sharded=True)

    def value(x, y):
        axes = (ahead.AXIS, ahead.AXIS)
        cloud = tx.geometry.ShardedCloud(x, y, mesh=target.mesh, axes=axes)
        return tx.ot.solve(cloud, epsilon=0.1).value

    program = target.compile(jax.value_and_grad(value, argnums=(0, 1)), points, points)
    assert plan.figures(program, target)["memory MiB"] < 64
    work = programs.work(program)
    # Points go round; a block of them, and what belongs to it, is all that a device has.
    assert set(work.sent) == {"all-reduce", "collective-permute"}
    number = np.dtype(np.float32).itemsize
    assert work.largest["collective-permute"] == n // 256 * d * number
    # Some twenty products, with two numbers beside each point, loops of the solve counted once;
    # among them passes made once: over kinds of costs, over entries hidden, and for potentials of
    # points without weight.
    assert sum(work.sent.values()) < 21 * n * (d + 2) * number


def _attention(mesh):
    def field(x, query, key, value):
        mixing = tx.attention.Softmax(4.0, layout=tx.geometry.Layout(mesh=mesh))
        return tx.attention.Attention(query, key, value, mixing)(x, x)

    return field


def _particles(mesh):
    def run(x, *matrices):
        layout = tx.geometry.Layout(mesh=mesh)
        energy = tx.gradient_flows.Interaction(tx.gradient_flows.Gaussian(1.0), layout)
        return tx.gradient_flows.flow(energy, x, t1=1.0, steps=4)

    return run


@pytest.mark.parametrize("program_over", [_attention, _particles])
def test_many_tokens_and_particles_lie_over_all_devices(program_over, v5e):
    n, d = 2**17, 16
    points = v5e.abstract(aot_jobs.shape(n, d), sharded=True)
    matrix = v5e.abstract(aot_jobs.shape(1, d, d))
    program = v5e.compile(program_over(v5e.mesh), points, matrix, matrix, matrix)
    sent = programs.work(program)
    assert "all-gather" not in sent.sent
    # Points, or keys, with what belongs to them: of a device's at most, an array at a time.
    number = np.dtype(np.float32).itemsize
    assert sent.largest["collective-permute"] <= n // 8 * (d + 1) * number
    assert plan.figures(program, v5e)["memory MiB"] < 64


def test_unknown_devices_are_refused():
    with pytest.raises(UserError, match="no topology 'v9:2x2'"):
        ahead.target("v9:2x2")
    with pytest.raises(UserError, match="no topology 'h100'"):
        ahead.target("h100")
