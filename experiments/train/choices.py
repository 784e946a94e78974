"""What a config may choose from, and the object that each choice makes."""

from typing import Annotated, Literal

import jax
from jaxtyping import PRNGKeyArray
from pydantic import Discriminator

import transportx as tx
from experiments.data import images, points
from experiments.harness import config as configs
from experiments.harness.command import UserError


@configs.section
class LinearPath:
    """Straight lines."""

    kind: Literal["linear"]

    def make(self) -> tx.interpolants.AbstractInterpolant:
        return tx.interpolants.Linear()


@configs.section
class TrigonometricPath:
    """Quarter circles."""

    kind: Literal["trigonometric"]

    def make(self) -> tx.interpolants.AbstractInterpolant:
        return tx.interpolants.Trigonometric()


@configs.section
class VariancePreservingPath:
    """The diffusion schedule."""

    kind: Literal["variance_preserving"]

    def make(self) -> tx.interpolants.AbstractInterpolant:
        return tx.interpolants.VariancePreserving()


@configs.section
class BrownianBridgePath:
    """Straight lines in noise of level `sigma`."""

    kind: Literal["brownian_bridge"]
    sigma: configs.Positive

    def make(self) -> tx.interpolants.AbstractInterpolant:
        return tx.interpolants.BrownianBridge(self.sigma)


@configs.section
class IndependentCoupling:
    """Noise and data paired as they come."""

    kind: Literal["independent"]

    def make(self) -> tx.couplings.AbstractCoupling:
        return tx.couplings.Independent()


@configs.section
class AssignmentCoupling:
    """Exact optimal transport within each batch."""

    kind: Literal["assignment"]

    def make(self) -> tx.couplings.AbstractCoupling:
        return tx.couplings.Assignment()


@configs.section
class EntropicCoupling:
    """Entropic transport within each batch; `epsilon` in units of the mean cost."""

    kind: Literal["entropic"]
    epsilon: configs.Positive

    def make(self) -> tx.couplings.AbstractCoupling:
        return tx.couplings.Entropic(self.epsilon)


@configs.section
class MLPField:
    """Fully connected network, for points."""

    kind: Literal["mlp"]
    width: configs.Count
    depth: configs.Count
    frequencies: configs.Whole

    def make(self, dim: int, *, key: PRNGKeyArray) -> tx.fields.MLP:
        return tx.fields.MLP(dim, self.width, self.depth, num_frequencies=self.frequencies, key=key)


@configs.section
class TransformerField:
    """Diffusion transformer, for images with labels.

    `products` is what the factors of matrix products are rounded to; `keep` what of a block
    is kept for its derivatives: all of it, its products with weights, or only what enters it.
    """

    kind: Literal["transformer"]
    patch: configs.Count
    width: configs.Count
    depth: configs.Count
    heads: configs.Count
    products: Literal["float32", "bfloat16"]
    keep: Literal["everything", "products", "inputs"]

    def __post_init__(self):
        if self.width % self.heads:
            raise UserError(f"field.heads is {self.heads}; it must divide width {self.width}")

    def make(
        self, shape: tuple[int, int, int], num_labels: int, *, key: PRNGKeyArray
    ) -> tx.fields.DiT:
        return tx.fields.DiT(
            shape,
            patch=self.patch,
            width=self.width,
            depth=self.depth,
            heads=self.heads,
            num_labels=num_labels,
            bfloat16=self.products == "bfloat16",
            keep=_POLICIES[self.keep],
            key=key,
        )


_POLICIES = {
    "everything": jax.checkpoint_policies.everything_saveable,
    "products": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "inputs": jax.checkpoint_policies.nothing_saveable,
}


@configs.section
class PointsData:
    """Two laws of the plane, drawn afresh for every batch."""

    kind: Literal["points"]
    source: points.Name
    target: points.Name

    def check_field(self, field: "Field") -> None:
        if not isinstance(field, MLPField):
            raise UserError(f"field.kind is {field.kind!r}; points need an mlp")


@configs.section
class ImagesData:
    """A labelled set of real images; the source is Gaussian noise."""

    kind: Literal["images"]
    name: images.Name

    def check_field(self, field: "Field") -> None:
        if not isinstance(field, TransformerField):
            raise UserError(f"field.kind is {field.kind!r}; images need a transformer")
        side = images.SHAPES[self.name][0]
        if side % field.patch:
            raise UserError(f"field.patch is {field.patch}; it must divide the side {side}")


Path = Annotated[
    LinearPath | TrigonometricPath | VariancePreservingPath | BrownianBridgePath,
    Discriminator("kind"),
]
Coupling = Annotated[
    IndependentCoupling | AssignmentCoupling | EntropicCoupling, Discriminator("kind")
]
Field = Annotated[MLPField | TransformerField, Discriminator("kind")]
Data = Annotated[PointsData | ImagesData, Discriminator("kind")]
