"""From a config to what training and sampling need."""

import dataclasses
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, PRNGKeyArray

import transportx as tx
from experiments.data import images, points
from experiments.train.choices import ImagesData, MLPField, TransformerField
from experiments.train.config import Config

# Salts: every purpose has a key of its own, derived from the seed of the run.
_FIELD, _TRAIN, REPORT = 0, 1, 2


class Batch(NamedTuple):
    """Paired ends, with the labels of the targets; None where there are none."""

    x0: Float[Array, "b ..."]
    x1: Float[Array, "b ..."]
    labels: Int[Array, " b"] | None


class PointBatches(eqx.Module):
    """Fresh points of two laws, coupled."""

    source: points.Law
    target: points.Law
    coupling: tx.couplings.AbstractCoupling
    size: int

    def __call__(self, *, key: PRNGKeyArray) -> Batch:
        source_key, target_key, coupling_key = jr.split(key, 3)
        x0 = self.source(self.size, key=source_key)
        x1 = self.target(self.size, key=target_key)
        i0, i1 = self.coupling(x0, x1, key=coupling_key)
        return Batch(tx.couplings.take(x0, i0), tx.couplings.take(x1, i1), None)


class ImageBatches(eqx.Module):
    """Noise coupled, within each label, with images drawn with replacement.

    Labels travel with the images. They also enter the cost: a coupling blind to labels
    would tie the noise to the label within a batch, while sampling draws them apart
    (Cheng and Schwing, The Curse of Conditions, 2025).

    With a mesh, over which the images lie, every device draws its share of a batch from its
    own images: none travels before the batch is coupled.
    """

    images: Float[Array, "n h w c"] | Float[np.ndarray, "n h w c"]
    labels: Int[Array, " n"] | Int[np.ndarray, " n"]
    coupling: tx.couplings.AbstractCoupling
    num_labels: int
    size: int
    label_dropout: float
    mesh: Mesh | None = eqx.field(static=True, default=None)

    def __call__(self, *, key: PRNGKeyArray) -> Batch:
        source_key, target_key, coupling_key, label_key = jr.split(key, 4)
        x1, labels = self.draw_targets(key=target_key)
        x0 = jr.normal(source_key, x1.shape)
        marks = jax.nn.one_hot(labels, self.num_labels)
        within = tx.couplings.Conditional(self.coupling, _LABEL_WEIGHT)
        i0, i1 = within(x0, x1, marks, key=coupling_key)
        x0, (x1, labels) = tx.couplings.take(x0, i0), tx.couplings.take((x1, labels), i1)
        labels = tx.losses.drop_labels(
            labels,
            null_label=self.num_labels,
            probability=self.label_dropout,
            key=label_key,
        )
        return Batch(x0, x1, labels)

    def draw_targets(
        self, *, key: PRNGKeyArray
    ) -> tuple[Float[Array, "b h w c"], Int[Array, " b"]]:
        """Images and their labels, uncoupled."""
        images, labels = jnp.asarray(self.images), jnp.asarray(self.labels)
        if self.mesh is None:
            return _draw(images, labels, self.size, key)
        share, (axis,) = self.size // self.mesh.size, self.mesh.axis_names

        def draw_here(images, labels, key):
            return _draw(images, labels, share, jr.fold_in(key, jax.lax.axis_index(axis)))

        over = PartitionSpec(axis)
        draw = jax.shard_map(
            draw_here,
            mesh=self.mesh,
            in_specs=(over, over, PartitionSpec()),
            out_specs=over,
            check_vma=False,
        )
        return draw(images, labels, key)


def _draw(images: Array, labels: Array, size: int, key: PRNGKeyArray) -> tuple[Array, Array]:
    drawn = jr.randint(key, (size,), 0, labels.size)
    return images[drawn], labels[drawn]


class OnEveryDevice(tx.couplings.AbstractCoupling):
    """A coupling that each device computes of the whole batches: they are gathered once."""

    coupling: tx.couplings.AbstractCoupling
    mesh: Mesh = eqx.field(static=True)

    def __call__(
        self, x0: Float[Array, "n ..."], x1: Float[Array, "b ..."], *, key: PRNGKeyArray
    ) -> tx.couplings.Pairs:
        whole = NamedSharding(self.mesh, PartitionSpec())
        x0, x1 = jax.lax.with_sharding_constraint((x0, x1), whole)
        return jax.lax.with_sharding_constraint(self.coupling(x0, x1, key=key), whole)


class SharedBatches(eqx.Module):
    """Batches shared by the devices of a mesh, after they were coupled as one.

    Transport between each device's share would not be transport between batches.
    """

    draw_batch: PointBatches | ImageBatches
    mesh: Mesh = eqx.field(static=True)

    def __call__(self, *, key: PRNGKeyArray) -> Batch:
        sharding = NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names))
        return jax.lax.with_sharding_constraint(self.draw_batch(key=key), sharding)


# Of a label's squared distance: far above what two pairs of 28 x 28 images gain by crossing.
_LABEL_WEIGHT = 1e4


class Problem(NamedTuple):
    """A training run, ready to go."""

    state: tx.training.TrainState
    step: tx.training.Step
    draw_batch: PointBatches | ImageBatches | SharedBatches
    key: PRNGKeyArray


def make(config: Config, mesh: Mesh | None = None) -> Problem:
    """State, step, batches and key of a run.

    With a mesh its devices share every batch, and the state is to lie whole on each: data
    parallelism, gradients averaged once a step. Entropic couplings share their costs too;
    exact ones run whole on every device. Images are to lie over the devices, cut to a
    multiple of their number, which leaves out fewer than that; until `devices.lay_over` puts
    them there they are the host's, so that no device ever holds them all.
    """
    path = config.path.make()
    optimizer = make_optimizer(config)

    def loss(field, batch: Batch, *, key):
        return tx.losses.flow_matching(field, path, batch.x0, batch.x1, batch.labels, key=key)

    step = tx.training.make_step(
        loss,
        optimizer,
        average_decay=config.training.average_decay,
        num_microbatches=config.training.microbatches,
        mesh=mesh,
    )
    draw_batch = _make_batches(config, mesh)
    if mesh is not None:
        step, draw_batch = _keeping_whole(step, mesh), SharedBatches(draw_batch, mesh)
    state = tx.training.init(make_field(config), optimizer)
    return Problem(state, step, draw_batch, jr.fold_in(jr.key(config.seed), _TRAIN))


def _keeping_whole(step: tx.training.Step, mesh: Mesh) -> tx.training.Step:
    """The step, with its state whole on every device."""
    whole = NamedSharding(mesh, PartitionSpec())

    def step_whole(state, batch: Batch, *, key):
        return eqx.filter_shard(step(state, batch, key=key), whole)

    return step_whole


def _make_coupling(config: Config, mesh: Mesh | None) -> tx.couplings.AbstractCoupling:
    coupling = config.coupling.make()
    if mesh is None:
        return coupling
    if isinstance(coupling, tx.couplings.Entropic):
        return dataclasses.replace(coupling, layout=tx.geometry.Layout(mesh=mesh))
    return OnEveryDevice(coupling, mesh)


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """Adam after a linear warm-up, decaying to zero along a cosine; gradients clipped at 1."""
    training = config.training
    warmup = min(training.warmup_steps, training.steps - 1)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, training.learning_rate, warmup, training.steps
    )
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))


def make_field(config: Config) -> tx.fields.MLP | tx.fields.DiT:
    """The untrained field of a run."""
    key = jr.fold_in(jr.key(config.seed), _FIELD)
    match config.field, config.data:
        case MLPField(), _:
            return config.field.make(2, key=key)
        case TransformerField(), ImagesData():
            name = config.data.name
            return config.field.make(images.SHAPES[name], images.NUM_LABELS[name], key=key)
        case _:
            raise AssertionError("the config checks that data and field belong together")


def draw_sources(config: Config, num: int, *, key: PRNGKeyArray) -> Float[Array, "n ..."]:
    """Fresh examples at time 0."""
    if isinstance(config.data, ImagesData):
        return jr.normal(key, (num, *images.SHAPES[config.data.name]))
    return points.LAWS[config.data.source](num, key=key)


def sample(
    config: Config,
    field: tx.fields.MLP | tx.fields.DiT,
    x0: Float[Array, "n ..."],
    labels: Int[Array, " n"] | None,
    *,
    steps: int,
    guidance: float,
    times: Float[Array, " k"] | None = None,
    mesh: Mesh | None = None,
) -> Array:
    """Carry sources to samples, in slices of one size so that memory stays bounded.

    With a mesh its devices share every slice, which then is as many times larger.
    """
    velocity = field
    if isinstance(config.data, ImagesData) and guidance != 1:
        velocity = tx.fields.Guided(field, guidance, images.NUM_LABELS[config.data.name])
    if mesh is not None:
        velocity = eqx.filter_shard(velocity, NamedSharding(mesh, PartitionSpec()))
    size = _SLICE * (1 if mesh is None else mesh.size)
    slices = [slice(low, low + size) for low in range(0, x0.shape[0], size)]
    parts = [
        _flow_shared(
            velocity, (x0[part], None if labels is None else labels[part]), steps, times, mesh
        )
        for part in slices
    ]
    return jnp.concatenate(parts, axis=0 if times is None else 1)


# Examples sampled at once by a device: 1,000 images of 28 x 28 keep a transformer under 1 GB.
_SLICE = 1000


def _flow_shared(field, sources: tuple[Array, Array | None], steps: int, times, mesh) -> Array:
    """What becomes of the sources, by the devices of a mesh and back on the first."""
    if mesh is None:
        return _flow(field, *sources, steps, times)
    num = sources[0].shape[0]
    # Copies of the first fill up what the devices do not divide.
    rows = np.arange(-(-num // mesh.size) * mesh.size) % num
    over = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    sources = jax.device_put(jax.tree.map(lambda leaf: leaf[rows], sources), over)
    found = np.asarray(_flow(field, *sources, steps, times))
    return jnp.asarray(found[:num] if times is None else found[:, :num])


@eqx.filter_jit
def _flow(field, x0, labels, steps: int, times):
    return tx.sampling.flow(field, x0, labels, steps=steps, times=times)


def _make_batches(config: Config, mesh: Mesh | None) -> PointBatches | ImageBatches:
    size, coupling = config.training.batch, _make_coupling(config, mesh)
    if isinstance(config.data, ImagesData):
        train, _ = images.load_halves(config.data.name)
        return ImageBatches(
            jnp.asarray(train.images) if mesh is None else _cut(train.images, mesh),
            jnp.asarray(train.labels) if mesh is None else _cut(train.labels, mesh),
            coupling,
            images.NUM_LABELS[config.data.name],
            size,
            config.training.label_dropout,
            mesh,
        )
    laws = points.LAWS
    return PointBatches(laws[config.data.source], laws[config.data.target], coupling, size)


def _cut(part: np.ndarray, mesh: Mesh) -> np.ndarray:
    """The first rows, as many as the devices divide."""
    return part[: len(part) // mesh.size * mesh.size]


def count_parameters(field: tx.fields.MLP | tx.fields.DiT) -> int:
    """How many numbers are trained."""
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(field, eqx.is_inexact_array)))
