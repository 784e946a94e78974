"""The race of samplers: its audit against other truths, and the command at its smoke size."""

import importlib.util
import json

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import transportx as tx
from experiments import speed_sampling
from tests.helpers import assert_refused, command, refusal

PEERS = ("torch", "torchcfm", "torchdiffeq", "torchdyn", "flow_matching")
MISSING = [name for name in PEERS if importlib.util.find_spec(name) is None]
NAME = "experiments.speed_sampling"


@pytest.fixture(scope="module")
def field():
    return tx.fields.MLP(2, 8, 2, key=jr.key(90))


def carry(field, x, start, end, steps=2000):
    """RK4 in NumPy, float64, of the network written out, with SELU by `expm1`."""
    layers = [(np.asarray(e.weight, float), np.asarray(e.bias, float)) for e in field.layers]

    def velocity(t, x):
        hidden = np.concatenate([x, np.full((len(x), 1), t)], axis=1)
        for k, (matrix, bias) in enumerate(layers):
            hidden = hidden @ matrix.T + bias
            if k < len(layers) - 1:
                low = 1.6732632423543772 * np.expm1(np.minimum(hidden, 0))
                hidden = 1.0507009873554805 * np.where(hidden > 0, hidden, low)
        return hidden

    h = (end - start) / steps
    for t in start + h * np.arange(steps):
        a = velocity(t, x)
        b = velocity(t + h / 2, x + h / 2 * a)
        c = velocity(t + h / 2, x + h / 2 * b)
        d = velocity(t + h, x + h * c)
        x = x + h / 6 * (a + 2 * b + 2 * c + d)
    return x


def test_the_reference_of_densities_is_a_change_of_variables(field):
    """log p(x) = log normal(x0) + log |det dx0/dx|, the determinant by central differences."""
    x = np.asarray(jr.normal(jr.key(92), (4, 2), jnp.float32), float)
    half = 1e-4 * np.eye(2)
    ends = carry(field, np.concatenate([x, *(x + e for e in half), *(x - e for e in half)]), 1, 0)
    x0, ahead, behind = ends[:4], ends[4:12].reshape(2, 4, 2), ends[12:].reshape(2, 4, 2)
    jacobian = np.moveaxis((ahead - behind) / 2e-4, 1, 0)
    log_normal = -np.sum(x0**2, axis=1) / 2 - np.log(2 * np.pi)
    truth = log_normal + np.linalg.slogdet(jacobian)[1]
    answer = speed_sampling.reference(speed_sampling.log_prob, field, jnp.asarray(x, jnp.float32))
    # The difference quotient also straddles kinks, by its step.
    assert np.max(np.abs(answer - truth)) < 2e-4


@pytest.mark.skipif(bool(MISSING), reason=f"needs the extra `peers`: no {', '.join(MISSING)}")
def test_everyone_does_the_same_job_at_smoke_size(tmp_path):
    """The command itself refuses networks or fixed steps that differ."""
    out = tmp_path / "figures.json"
    process = command("--smoke", "--rounds", 1, "--out", out, module=NAME)
    assert process.returncode == 0, process.stderr
    cells = json.loads(out.read_text())["cells"]
    assert [len(rows) for rows in cells.values()] == [7, 8, 3, 3]
    for rows in cells.values():
        assert next(iter(rows.values()))["times_ours"]["median"] == 1
    assert all(row["error"]["rms"] < 1e-3 for row in cells["adaptive"].values())
    # First order: the error of 20 Euler steps, the same for all.
    errors = [row["error"]["rms"] for row in cells["plane"].values()]
    assert np.ptp(errors) < 1e-4 < 1e-2 < min(errors)


@pytest.mark.skipif(not MISSING, reason="the extra `peers` is installed")
def test_missing_peers_are_named():
    assert_refused(refusal("--smoke", module=NAME), "peers")
