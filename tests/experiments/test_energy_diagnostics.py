"""The diagnostics of a trained network: what a run leaves, and what it refuses."""

import json
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import energy_diagnostics
from experiments.energy_diagnostics import Config
from experiments.harness import config as configs
from experiments.harness.command import UserError
from experiments.harness.runs import RunFolder

pytestmark = pytest.mark.slow

CONFIG = Path("configs/energy_diagnostics.toml")


def load(*overrides):
    return configs.load(Config, CONFIG, overrides=list(overrides), smoke=True)


def test_a_run_leaves_its_files_and_shares_are_shares(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        summary = energy_diagnostics.run(load(), folder)
    assert json.loads((folder.path / "summary.json").read_text()) == summary
    for name in ("layers.png", "similarity.png"):
        assert (folder.path / name).read_bytes().startswith(b"\x89PNG")
    for state in ("initial", "trained"):
        read = summary[state]
        shares = np.array([read["gradient_share"], read["any_share"]])
        assert np.all(shares[0] <= shares[1] + 1e-5)
        assert np.all((shares >= 0) & (shares <= 1 + 1e-5))
        assert np.allclose(np.diag(read["cka"]), 1, atol=1e-5)


def layers_by_hand():
    """A step of the energy's flow along the first axis, and a turn of the other two.

    The classes' scores are 2 x_1, -2 x_1 and nearly none, so that the energy is
    -log(2 cosh 2 x_1), and falls along +2 tanh(2 x_1).
    """
    start = energy_diagnostics.Residual(
        energy_diagnostics.Network(components=3, hidden=2, depth=2), key=jax.random.key(0)
    )
    inner = np.array([[[2.0, 0, 0], [0, 0, 0]], [[0, 1.0, 0], [0, 0, 1.0]]])
    outer = np.array([[[0.1, 0], [0, 0], [0, 0]], [[0, 0], [0, -0.1], [0.1, 0]]])
    scores = np.zeros((10, 3))
    scores[:2, 0] = 2.0, -2.0
    parts = {
        "layers": lambda m: [m.layers.layers[0].weight, m.layers.layers[1].weight],
        "biases": lambda m: [m.layers.layers[0].bias, m.layers.layers[1].bias],
        "head": lambda m: [m.head.weight, m.head.bias],
    }
    values = {
        "layers": [inner, outer],
        "biases": [np.zeros((2, 2)), np.zeros((2, 3))],
        "head": [scores, np.where(np.arange(10) < 2, 0.0, -40.0)],
    }
    for name, where in parts.items():
        start = eqx.tree_at(where, start, [jnp.asarray(v, jnp.float32) for v in values[name]])
    return start


def test_a_step_of_a_flow_is_told_from_a_turn():
    # Points whose moments are those of a ball, exactly; small, where tanh is nearly linear.
    corners = np.stack(np.meshgrid(*[[-1.0, 1.0]] * 3), axis=-1).reshape(-1, 3)
    x = jnp.asarray(0.02 * corners, jnp.float32)
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        read = {
            k: np.asarray(v) for k, v in energy_diagnostics.read_layers(layers_by_hand(), x).items()
        }
    assert np.allclose(read["asymmetry"], [0, 1], atol=1e-5)
    assert np.allclose(read["any_share"], 1, atol=1e-3)
    assert np.allclose(read["gradient_share"], [1, 0], atol=1e-3)
    assert np.allclose(read["alignment"], [1, 0], atol=1e-5)
    moved = 0.02 + 0.1 * np.tanh(0.04)
    fallen = np.log(np.cosh(2 * moved)) - np.log(np.cosh(0.04))
    assert np.allclose(-np.diff(read["energy"]), [fallen, 0], rtol=2e-3, atol=1e-7)
    # Away from the origin by 0.1 tanh(2 x) in x; the turn moves no direction to or from it.
    assert np.allclose(np.sort(read["rates"], axis=1), [[-0.2, 0, 0], [0, 0, 0]], atol=1e-3)
    assert np.allclose(np.diag(read["cka"]), 1, atol=1e-5)


def test_bad_settings_are_refused_by_name():
    with pytest.raises(UserError, match="network.depth is 0"):
        load("network.depth=0")
