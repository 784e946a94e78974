"""Is a layer a step of a gradient flow? A residual network of digits, asked layer by layer.

    python -m experiments.energy_diagnostics configs/energy_diagnostics.toml
        [--set section.key=value ...] [--out DIR] [--smoke]

Trains residual layers x + f(x) on the principal components of every other of the 8 x 8 digits,
and asks of each update on the rest, before training and after: how asymmetric its Jacobian is,
which share of it is a gradient, whether an energy (minus the log-sum of the exponentials of the
classes' scores) falls along it, how fast each principal direction relaxes, and how alike layers
are. The order in which scales relax tests the spectrum of an energy, not whether there is one.

Writes to the run folder (`runs/NAME`): the resolved `config.toml`, `layers.png`,
`similarity.png` and `summary.json`.
"""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import transportx.gradient_flows as gf
import transportx.learned_energies as le
from experiments.harness import config as configs
from experiments.harness.main import main
from experiments.harness.runs import RunFolder, environment

_CLASSES = 10


@configs.section
class Network:
    """Its sizes."""

    components: configs.Several
    hidden: configs.Count
    depth: configs.Count


@configs.section
class Training:
    """How it is trained, by Adam with a rate that falls to zero by a cosine."""

    steps: configs.Count
    batch: configs.Count
    learning_rate: configs.Positive
    noise: configs.NotNegative


@configs.section
class Config(configs.Seeded):
    """One run, whole."""

    network: Network
    training: Training


class Residual(eqx.Module):
    """Layers x + f(x), all of one shape and stacked, and scores of the classes at the end."""

    layers: eqx.nn.MLP
    head: eqx.nn.Linear

    def __init__(self, config: Network, *, key: PRNGKeyArray):
        layer_key, head_key = jr.split(key)
        dim = config.components

        @eqx.filter_vmap
        def layer(key):
            return eqx.nn.MLP(dim, dim, config.hidden, 1, jnp.tanh, key=key)

        self.layers = layer(jr.split(layer_key, config.depth))
        self.head = eqx.nn.Linear(dim, _CLASSES, key=head_key)

    def states(self, x: Float[Array, " d"]) -> Float[Array, "l d"]:
        """The stream before the first layer and after each."""
        arrays, rest = eqx.partition(self.layers, eqx.is_array)

        def step(x, layer):
            moved = x + eqx.combine(layer, rest)(x)
            return moved, moved

        _, along = jax.lax.scan(step, x, arrays)
        return jnp.concatenate([x[None, :], along])


def run(config: Config, folder: RunFolder) -> dict[str, Any]:
    """Train, read and draw; returns the summary."""
    folder.claim(config)
    x, labels = _digits(config.network.components)
    start = Residual(config.network, key=jr.key(config.seed))
    trained = _train(config, start, x[::2], labels[::2])
    fresh = x[1::2]
    reads = {"initial": read_layers(start, fresh), "trained": read_layers(trained, fresh)}
    last = jax.vmap(lambda x: trained.head(trained.states(x)[-1]))(fresh)
    summary = {
        "accuracy": float(jnp.mean((jnp.argmax(last, axis=1) == labels[1::2]).astype(float))),
        **{name: {k: np.asarray(v).tolist() for k, v in r.items()} for name, r in reads.items()},
        "environment": environment(),
    }
    _draw(folder.path, reads)
    folder.write_summary(summary)
    return summary


def _digits(components: int) -> tuple[Array, Array]:
    images, labels = load_digits(return_X_y=True)
    centred = images - images.mean(axis=0)
    directions = np.linalg.svd(centred, full_matrices=False)[2][:components]
    places = centred @ directions.T
    return jnp.asarray(places / places.std(), jnp.float32), jnp.asarray(labels, jnp.int32)


@eqx.filter_jit
def _train(config: Config, model: Residual, x, labels) -> Residual:
    training = config.training
    optimizer = optax.adam(optax.cosine_decay_schedule(training.learning_rate, training.steps))
    arrays, rest = eqx.partition(model, eqx.is_array)

    def loss(arrays, rows, key):
        model = eqx.combine(arrays, rest)
        seen = x[rows] + training.noise * jr.normal(key, (training.batch, x.shape[1]), x.dtype)
        scores = jax.vmap(lambda x: model.head(model.states(x)[-1]))(seen)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores, labels[rows]))

    def step(state, key):
        arrays, memory = state
        row_key, noise_key = jr.split(key)
        rows = jr.randint(row_key, (training.batch,), 0, len(labels))
        updates, memory = optimizer.update(jax.grad(loss)(arrays, rows, noise_key), memory)
        return (eqx.apply_updates(arrays, updates), memory), None

    keys = jr.split(jr.key(config.seed + 1), training.steps)
    (arrays, _), _ = jax.lax.scan(step, (arrays, optimizer.init(arrays)), keys)
    return eqx.combine(arrays, rest)


@eqx.filter_jit
def read_layers(model: Residual, x: Float[Array, "n d"]) -> dict[str, Array]:
    """Every diagnostic of every layer, from these points on."""
    states = jax.vmap(model.states)(x).swapaxes(0, 1)
    arrays, rest = eqx.partition(model.layers, eqx.is_array)
    features = le.Monomials(x.shape[1], 2)
    energy = gf.Potential(lambda x: -jax.nn.logsumexp(model.head(x)))
    along = le.energy_along(energy, states)

    def layer(given):
        arrays, before, after = given
        block = eqx.combine(arrays, rest)
        skew = le.update_asymmetry(lambda x: x + block(x), before)
        share = le.gradient_share(before, after - before, features)
        return jnp.mean(skew), *share, le.update_spectrum(before, after - before).rate

    skew, gradient, anything, rates = jax.lax.map(layer, (arrays, states[:-1], states[1:]))
    similar = jax.lax.map(lambda a: jax.lax.map(lambda b: le.linear_cka(a, b), states), states)
    found = {"asymmetry": skew, "gradient_share": gradient, "any_share": anything}
    return found | {
        "rates": rates,
        "energy": along.energy,
        "alignment": along.alignment,
        "cka": similar,
    }


def _draw(path: Path, reads: dict[str, dict[str, Array]]) -> None:
    names = "asymmetry", "gradient_share", "any_share", "alignment", "energy"
    figure = Figure(figsize=(3 * len(names) + 3, 3), layout="constrained")
    axes = figure.subplots(1, len(names) + 1)
    for axis, name in zip(axes, names, strict=False):
        for state, read in reads.items():
            axis.plot(np.asarray(read[name]), "o-", label=state)
        axis.set(title=name.replace("_", " "), xlabel="layer")
    axes[0].legend(fontsize=8)
    axes[-1].plot(np.asarray(reads["trained"]["rates"]).T)
    axes[-1].set(title="rates, trained; a line a layer", xlabel="principal direction")
    figure.savefig(path / "layers.png", dpi=90)
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    for axis, (state, read) in zip(figure.subplots(1, 2), reads.items(), strict=True):
        axis.imshow(np.asarray(read["cka"]), vmin=0, vmax=1, cmap="viridis")
        axis.set(title=f"linear CKA, {state}", xlabel="layer", ylabel="layer")
    figure.savefig(path / "similarity.png", dpi=90)


def show(summary: dict[str, Any], folder: RunFolder) -> None:
    """Print what was read, layer by layer."""
    print(
        f"accuracy on the half of the digits that did not train: {100 * summary['accuracy']:.1f} %"
    )
    for state in ("initial", "trained"):
        for name in ("asymmetry", "gradient_share", "any_share", "alignment", "energy"):
            values = " ".join(f"{value:7.3f}" for value in summary[state][name])
            print(f"  {state:8s} {name:15s} {values}")
    print(f"pictures and summary.json are in {folder.path}")


if __name__ == "__main__":
    main("energy_diagnostics", __doc__, Config, run, show)
