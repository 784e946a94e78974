"""A trained transformer read as a flow of measures: what its layers do to the tokens of images."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import transportx as tx
from experiments.transformer.choices import Reading
from experiments.transformer.network import Classifier
from experiments.transformer.train import Trained
from transportx import attention as att

Tokens = Float[Array, "n d"]


class Layers(NamedTuple):
    """What was read: of l sets of tokens in b images, and of the l - 1 layers between them.

    Attributes:
        paths: The residual stream.
        energies: Interaction energy of the tokens' directions over its maximum, mean of images.
        clusters: Their number of clusters, mean of images.
        given: Sums of the attention's columns, mean of heads; 1 where all tokens give alike.
        row_error: Largest deviation of a row's sum from 1.
        column_error: Largest mean deviation of columns' sums from 1, of one head in one image.
        asymmetry: Distance of the layer's Jacobian from a symmetric one, mean of images.
        alignment: Cosine of attention and the gradient of its own energy, mean of images.
    """

    paths: Float[Array, "b l n d"]
    energies: Float[Array, " l"]
    clusters: Float[Array, " l"]
    given: Float[Array, "l b n"]
    row_error: Float[Array, " l"]
    column_error: Float[Array, " l"]
    asymmetry: Float[Array, " l"]
    alignment: Float[Array, " l"]


# What is drawn against depth and summed up, one number a layer or a set of tokens.
CURVES = ("energies", "clusters", "asymmetry", "alignment")


class Read(NamedTuple):
    """One network's layers, as they began and as they were trained."""

    untrained: Layers
    trained: Layers


def read(made: Trained, pictures: Float[np.ndarray, "b h w 1"], reading: Reading) -> Read:
    """Both states of one network on the same images."""
    shown = jnp.asarray(pictures[: reading.images])
    return Read(*(_read(model, shown, reading) for model in (made.untrained, made.model)))


@eqx.filter_jit
def _read(model: Classifier, pictures: Float[Array, "b h w 1"], reading: Reading) -> Layers:
    paths = jax.vmap(lambda picture: model.body.path(model.tokens(picture)))(pictures)
    along = jnp.moveaxis(paths, 1, 0)
    arrays, static = eqx.partition(model.body.blocks, eqx.is_array)

    def layer(pair):
        block, (tokens, few) = eqx.combine(pair[0], static), (pair[1], pair[1][: reading.jacobians])
        seen = jax.vmap(block.normalise)(tokens)
        matrices = jax.vmap(lambda x: block.attention.field.matrix(x, x))(seen)
        aligned = jax.lax.map(lambda pair: _alignment(block, *pair), (seen, matrices))
        skew = jax.lax.map(lambda x: _asymmetry(block, x), few)
        return *_shares(matrices), jnp.mean(skew), jnp.mean(aligned)

    energies, clusters = jax.lax.map(lambda tokens: _gathering(tokens, reading), along)
    return Layers(paths, energies, clusters, *jax.lax.map(layer, (arrays, along[:-1])))


def _gathering(tokens: Float[Array, "b n d"], reading: Reading) -> tuple[Array, Array]:
    """How near each other the directions are: energy and number of clusters."""
    units, identity = att.normalise(tokens), jnp.eye(tokens.shape[-1])
    interaction = att.Attention(identity, identity, identity, att.Unnormalised(1 / reading.beta))
    most = jnp.exp(reading.beta) / (2 * reading.beta)
    counts = jax.lax.map(lambda x: att.num_clusters(x, radius=reading.radius), units)
    return jnp.mean(jax.vmap(interaction.energy)(units)) / most, jnp.mean(counts.astype(float))


def _shares(matrices: Float[Array, "b h n n"]) -> tuple[Array, Array, Array]:
    """What tokens give, and how far rows and columns of the attention are from sums of 1."""
    rows, columns = jnp.sum(matrices, axis=-1), jnp.sum(matrices, axis=-2)
    column_errors = jnp.mean(jnp.abs(columns - 1), axis=-1)
    return jnp.mean(columns, axis=1), jnp.max(jnp.abs(rows - 1)), jnp.max(column_errors)


def _alignment(block: att.Block, seen: Tokens, matrix: Float[Array, "h n n"]) -> Float[Array, ""]:
    """Cosine of the attention among the tokens it sees and the gradient of its own energy."""
    attention = block.attention.field
    taken = jnp.einsum("hnm,md,hed->ne", matrix, seen, attention.value)
    uphill = att.AttentionEnergy(attention).gradient(seen)
    return jnp.sum(taken * uphill) / (jnp.linalg.norm(taken) * jnp.linalg.norm(uphill))


def _asymmetry(block: att.Block, tokens: Tokens) -> Float[Array, ""]:
    """Of the velocities of all tokens as one field: 0 if tokens descend or climb an energy."""

    def velocity(t, x, args):
        return block(x.reshape(tokens.shape)).reshape(-1)

    return tx.fields.asymmetry(velocity, jnp.zeros(()), tokens.reshape(-1))


def curves(reads: list[Read], state: str, name: str) -> Float[np.ndarray, "s l"]:
    """One curve along depth for every seed."""
    return np.stack([np.asarray(getattr(getattr(read, state), name)) for read in reads])


def figures(reads: list[Read]) -> dict[str, Any]:
    """Means over seeds, layer by layer, and the worst sums of rows and columns."""
    found: dict[str, Any] = {
        f"{name}_{state}": curves(reads, state, name).mean(axis=0).tolist()
        for name in CURVES
        for state in Read._fields
    }
    for name in ("row_error", "column_error"):
        found[name] = float(curves(reads, "trained", name).max())
    return found
