"""Checkpoints: what they refuse to be taken for, and a folder that one process owns."""

import gc
import json
import resource
import shutil
import subprocess
import sys

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from experiments.harness.checkpoints import Checkpoints
from experiments.harness.command import UserError
from experiments.harness.config import Seeded
from experiments.harness.runs import RunFolder

CONFIG = "seed = 0\n"
STATE = {"weights": jnp.arange(12.0).reshape(3, 4), "count": jnp.array(7)}


@pytest.fixture
def saved(tmp_path):
    """Checkpoints of steps 2 and 4 of one run."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", CONFIG)
    checkpoints.save(2, STATE, {"seconds": 1.5})
    checkpoints.save(4, {**STATE, "count": jnp.array(8)}, {"seconds": 2.5})
    yield checkpoints
    checkpoints.close()


def reopened(saved, config=CONFIG):
    return Checkpoints(saved._folder, config)


def test_a_checkpoint_gives_back_what_was_saved(saved):
    state, meta = reopened(saved).restore(2, STATE)
    assert np.array_equal(state["weights"], STATE["weights"])
    assert int(state["count"]) == 7
    assert meta["seconds"] == 1.5


@pytest.mark.parametrize("step", [4, 3, 1])
def test_a_step_that_exists_or_is_lower_is_not_saved_in_silence(saved, step):
    with pytest.raises(UserError, match=f"step {step} is not after checkpoint .*4; move that away"):
        saved.save(step, STATE, {"seconds": 0.0})
    assert int(reopened(saved).restore(4, STATE)[0]["count"]) == 8


def test_a_checkpoint_under_another_name_is_not_that_step(saved):
    (saved._folder / "4").rename(saved._folder / "9")
    renamed = reopened(saved)
    assert renamed.latest() == 9
    with pytest.raises(UserError, match="checkpoints/9 is of step 4; name it that again"):
        renamed.restore(9, STATE)


def test_a_checkpoint_of_another_config_is_refused(saved):
    with pytest.raises(UserError, match="checkpoints/4 is of a run of another config"):
        reopened(saved, "seed = 1\n").restore(4, STATE)


@pytest.mark.parametrize(
    "other",
    [
        {"weights": jnp.zeros((3, 5)), "count": jnp.array(0)},
        {"weights": jnp.zeros((2, 4)), "count": jnp.array(0)},
        {"weights": jnp.zeros((4, 3)), "count": jnp.array(0)},
        {"weights": jnp.zeros((3, 4), jnp.float32), "count": jnp.array(0)},
        {"weights": jnp.zeros((3, 4))},
        {**STATE, "more": jnp.zeros(2)},
    ],
    ids=["wider", "shorter", "turned", "float32", "fewer", "more"],
)
def test_the_numbers_of_another_network_are_not_taken(saved, other):
    with pytest.raises(UserError, match=r"checkpoint .*4 is"):
        reopened(saved).restore(4, other)


def test_the_same_numbers_under_another_step_or_config_have_another_digest(saved, tmp_path):
    first = saved.meta(2)["digest"]
    for name, step, config in (("step", 3, CONFIG), ("config", 2, "seed = 1\n")):
        other = Checkpoints(tmp_path / name, config)
        other.save(step, STATE, {"seconds": 1.5})
        assert other.meta(step)["digest"] != first
        other.close()


def test_a_forged_step_is_found_by_the_digest(saved):
    shutil.copytree(saved._folder / "4", saved._folder / "9")
    path = next((saved._folder / "9" / "meta").rglob("metadata"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"step": 9}))
    with pytest.raises(UserError, match="do not match their digest"):
        reopened(saved).restore(9, STATE)


# Of a write that failed orbax leaves coroutines, which complain when they are collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_is_said_in_one_line_and_loses_no_checkpoint(saved):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    large = {"weights": jr.normal(jr.key(0), (300, 400)), "count": jnp.array(0)}
    # No file may be larger than this: as on a full disk, what is written is cut short.
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(UserError, match="no checkpoint written to .*make room") as refusal:
            saved.save(6, large, {"seconds": 0.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(refusal.value)
    again = reopened(saved)
    assert again.latest() == 4
    assert int(again.restore(4, STATE)[0]["count"]) == 8
    del refusal
    gc.collect()


def test_two_runs_in_one_folder_do_not_meet(tmp_path):
    config = Seeded(seed=3)
    first, second = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    first.start(config, resume=True)
    with pytest.raises(UserError, match="another process is running in .*run; wait for its end"):
        second.start(config, resume=True)
    first.release()
    second.start(config, resume=True)
    second.release()


def test_what_a_killed_process_held_is_free(tmp_path):
    code = (
        "import os, signal, sys, pathlib; from experiments.harness.runs import RunFolder\n"
        "from experiments.harness.config import Seeded\n"
        f"RunFolder(pathlib.Path({str(tmp_path)!r}) / 'run').claim(Seeded(seed=3))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code], check=False)
    assert killed.returncode == -9
    RunFolder(tmp_path / "run").start(Seeded(seed=3), resume=True)
