"""A small transformer that names digits, which it reads as tokens."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from experiments.data import images
from experiments.transformer.choices import Network
from transportx import attention as att

Image = Float[Array, "h w 1"]
Tokens = Float[Array, "n d"]


class Classifier(eqx.Module):
    """Patches of an image as tokens, a transformer, and one more token that names the image."""

    embed: eqx.nn.Linear
    places: Tokens
    body: att.Transformer
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear
    patch: int = eqx.field(static=True)

    def __init__(self, network: Network, mixing: att.AbstractMixing, *, key: PRNGKeyArray):
        keys = jr.split(key, 4)
        width, patch = network.width, network.patch
        self.embed = eqx.nn.Linear(patch**2, width, key=keys[0])
        tokens = 1 + (images.SHAPES["digits"][0] // patch) ** 2
        self.places = jr.normal(keys[1], (tokens, width)) / 2
        self.body = att.Transformer(
            width,
            depth=network.depth,
            heads=network.heads,
            hidden=network.hidden,
            mixing=mixing,
            step=network.step,
            key=keys[2],
        )
        self.norm = eqx.nn.LayerNorm(width)
        self.head = eqx.nn.Linear(width, images.NUM_LABELS["digits"], key=keys[3])
        self.patch = patch

    def tokens(self, image: Image) -> Tokens:
        """What enters the first layer: patches in reading order, then the token that names."""
        embedded = jax.vmap(self.embed)(patches(image, self.patch))
        return self.places + jnp.pad(embedded, ((0, 1), (0, 0)))

    def __call__(self, image: Image) -> Float[Array, " labels"]:
        """Logits of one image's label."""
        return self.head(self.norm(self.body(self.tokens(image))[-1]))


def patches(image: Image, patch: int) -> Float[Array, "n pixels"]:
    """Square patches of an image, in reading order."""
    rows = image.shape[0] // patch
    return image.reshape(rows, patch, rows, patch).swapaxes(1, 2).reshape(-1, patch**2)
