"""Training on several devices and in several processes, and its end by SIGTERM."""

import argparse
import dataclasses
import signal
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import transportx as tx
from experiments.faults import outcome
from experiments.harness import config as configs
from experiments.harness import devices, runs
from experiments.harness.checkpoints import Checkpoints
from experiments.harness.command import Terminated, UserError
from experiments.plan import programs
from experiments.train import problem, report
from experiments.train import run as train
from experiments.train.config import Config
from tests.helpers import command

POINTS, DIGITS = Path("configs/moons_to_8gaussians.toml"), Path("configs/digits.toml")


@pytest.fixture(autouse=True)
def as_users_run():
    """The strict promotion of the other tests is for our own code, not optax's schedules."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def smoke(*overrides):
    return configs.load(Config, POINTS, overrides=list(overrides), smoke=True)


def test_a_shared_batch_trains_as_the_same_parts_on_one_device():
    mesh, independent = devices.mesh(8), "coupling.kind=independent"
    made = problem.make(smoke(independent, "training.microbatches=16"))
    shared = problem.make(smoke(independent, "training.microbatches=2"), mesh)
    whole = eqx.filter_shard(made.state, devices.whole_on(mesh))

    def fit(made, state):
        return tx.training.fit(state, made.step, made.draw_batch, num_steps=5, key=made.key)

    (alone, losses), (together, shared_losses) = fit(made, made.state), fit(shared, whole)
    np.testing.assert_allclose(shared_losses, losses, rtol=1e-9)
    leaves = jax.tree.leaves(eqx.filter(devices.held_here(together), eqx.is_array))
    for one, other in zip(leaves, jax.tree.leaves(eqx.filter(alone, eqx.is_array)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)
    weights = together.field.layers[1].weight
    assert weights.sharding.is_fully_replicated
    assert len(weights.sharding.device_set) == 8


def test_each_device_gets_its_share_of_the_examples():
    mesh = devices.mesh(8)
    draw = problem.make(smoke(), mesh).draw_batch
    batch = jax.jit(lambda key: draw(key=key))(jax.random.key(0))
    assert batch.x0.sharding.spec == PartitionSpec("data")
    assert batch.x0.sharding.shard_shape(batch.x0.shape)[0] == batch.x0.shape[0] // 8


def test_images_lie_over_the_devices_and_each_draws_from_its_own():
    """Eight times five images, numbered by their label and their one pixel."""
    mesh = devices.mesh(8)
    number = np.arange(40, dtype=np.int32)
    pixels = number.astype(np.float32).reshape(-1, 1, 1, 1)
    independent = tx.couplings.Independent()
    batches = problem.ImageBatches(pixels, number, independent, 40, 64, 0.0, mesh)
    batches = devices.lay_over(mesh, batches)
    assert isinstance(batches.images, jax.Array)
    for shard in batches.images.addressable_shards:
        np.testing.assert_array_equal(shard.data, pixels[shard.index])
        assert len(shard.data) == 5

    def draw(pixels, number, key):
        return dataclasses.replace(batches, images=pixels, labels=number).draw_targets(key=key)

    arguments = batches.images, batches.labels, jax.random.key(0)
    program = jax.jit(draw).lower(*arguments).compile()
    assert programs.work(program).sent == {}
    images, labels = program(*arguments)
    np.testing.assert_array_equal(images[:, 0, 0, 0], labels)
    # Which device drew an example, and which holds the image.
    np.testing.assert_array_equal(labels // 5, np.arange(64) // 8)
    drawn = labels.reshape(8, 8) % 5
    assert len({tuple(row) for row in drawn.tolist()}) > 1


def test_training_images_are_cut_to_what_the_devices_divide():
    config = configs.load(Config, DIGITS, smoke=True)
    whole = problem.make(config).draw_batch
    shared = problem.make(config, devices.mesh(8)).draw_batch
    assert isinstance(shared, problem.SharedBatches)
    shared = shared.draw_batch
    assert isinstance(whole, problem.ImageBatches)
    assert isinstance(shared, problem.ImageBatches)
    assert (len(whole.labels), len(shared.labels)) == (899, 896)
    np.testing.assert_array_equal(shared.images, whole.images[:896])


@pytest.mark.parametrize("times", [None, (0.0, 0.5, 1.0)])
def test_devices_share_samples_and_change_none(times):
    """Thirteen of two labels: eight devices do not divide them."""
    config = configs.load(Config, DIGITS, overrides=["sampling.steps=2"], smoke=True)
    field = jax.tree.map(
        lambda leaf: leaf + 0.1 if eqx.is_inexact_array(leaf) else leaf, problem.make_field(config)
    )
    x0 = problem.draw_sources(config, 13, key=jax.random.key(0))
    labels = np.arange(13) % 2
    options = {"steps": 2, "guidance": 1.5, "times": None if times is None else jnp.array(times)}
    alone = problem.sample(config, field, x0, jnp.asarray(labels), **options)
    assert not np.allclose(alone if times is None else alone[-1], x0, atol=0.1)
    mesh = devices.mesh_here(8)
    together = problem.sample(config, field, x0, jnp.asarray(labels), **options, mesh=mesh)
    assert len(together.sharding.device_set) == 1
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("training.devices=3",), "must be a multiple of training.devices, 3"),
        (("training.devices=0",), "training.devices is 0; it must be at least 1"),
    ],
)
def test_devices_that_do_not_divide_the_batch_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        smoke(*settings)


def test_more_devices_than_there_are_are_refused():
    with pytest.raises(UserError, match="training.devices is 16; there are 8 here"):
        devices.mesh(16)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"processes": 2, "process": 2, "coordinator": "localhost:1"}, "--process is 2"),
        ({"processes": 0}, "--processes is 0"),
        ({"processes": 2}, "belong together"),
        ({"coordinator": "localhost:1"}, "belong together"),
        ({"processes": 2, "process": 1, "coordinator": "localhost"}, "write HOST:PORT"),
        ({"processes": 2, "coordinator": "auto"}, "counts the processes itself"),
        ({"coordinator": "auto"}, "no cluster found"),
        ({"processes": 2, "process": 1, "coordinator": "localhost:1"}, "nobody answers"),
    ],
)
def test_processes_that_cannot_meet_are_told_why(options, words, monkeypatch):
    monkeypatch.setattr(devices, "_PATIENCE", 1)
    alone = {"processes": 1, "process": 0, "coordinator": None}
    with pytest.raises(UserError, match=words):
        devices.join(argparse.Namespace(**(alone | options)))


@pytest.fixture
def restored_handler():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("restored_handler")
def test_sigterm_saves_a_checkpoint_and_the_run_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "write", lambda *_: {})
    config = smoke(
        "coupling.kind=independent",
        "training.steps=6",
        "training.chunk=2",
        "training.checkpoint_every=6",
    )
    undisturbed, stopped = runs.RunFolder(tmp_path / "one"), runs.RunFolder(tmp_path / "two")
    train.run(config, undisturbed, resume=False)

    def log_and_stop(folder, entry, log=runs.RunFolder.log):
        log(folder, entry)
        if entry["step"] == 2:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(runs.RunFolder, "log", log_and_stop)
    with pytest.raises(Terminated, match="after step 4; go on with --resume"):
        train.run(config, stopped, resume=False)
    assert Checkpoints(stopped.checkpoints, "").latest() == 4
    train.run(config, stopped, resume=True)
    assert outcome(stopped.path) == outcome(undisturbed.path)


@pytest.mark.long
@pytest.mark.parametrize("ending", ["KILL", "TERM"])
@pytest.mark.parametrize("processes", [1, 2])
def test_ten_ends_of_one_or_two_processes_lose_nothing(processes, ending):
    arguments = (POINTS, "--kills", 10, "--processes", processes, "--signal", ending)
    settings = ("report.num=200", "training.steps=2000", "training.checkpoint_every=200")
    options = [part for setting in settings for part in ("--set", setting)]
    process = command(*arguments, *options, module="experiments.faults")
    assert process.returncode == 0, process.stdout + process.stderr
    assert process.stdout.count(f"SIG{ending} ") == 10


@pytest.mark.long
def test_two_processes_with_their_own_images_lose_nothing():
    process = command(
        DIGITS, "--smoke", "--kills", 2, "--processes", 2, module="experiments.faults"
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert "losses and final state equal, bit for bit" in process.stdout
