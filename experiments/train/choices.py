"""What a config may choose from, and the object that each choice makes."""

import dataclasses
from typing import Literal

import jax
from jaxtyping import PRNGKeyArray

import transportx as tx
from experiments.data import images, points
from experiments.harness.command import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearPath:
    """Straight lines."""

    kind: Literal["linear"]

    def make(self) -> tx.interpolants.AbstractInterpolant:
        return tx.interpolants.Linear()


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrigonometricPath:
    """Quarter circles."""

    kind: Literal["trigonometric"]

    def make(self) -> tx.interpolants.AbstractInterpolant:
        return tx.interpolants.Trigonometric()


@dataclasses.dataclass(frozen=True, kw_only=True)
class VariancePreservingPath:
    """The diffusion schedule."""

    kind: Literal["variance_preserving"]

    def make(self) -> tx.interpolants.AbstractInterpolant:
        return tx.interpolants.VariancePreserving()


@dataclasses.dataclass(frozen=True, kw_only=True)
class BrownianBridgePath:
    """Straight lines in noise of level `sigma`."""

    kind: Literal["brownian_bridge"]
    sigma: float

    def __post_init__(self):
        if self.sigma <= 0:
            raise UserError(f"path.sigma is {self.sigma}; it must be positive")

    def make(self) -> tx.interpolants.AbstractInterpolant:
        return tx.interpolants.BrownianBridge(self.sigma)


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndependentCoupling:
    """Noise and data paired as they come."""

    kind: Literal["independent"]

    def make(self) -> tx.couplings.AbstractCoupling:
        return tx.couplings.Independent()


@dataclasses.dataclass(frozen=True, kw_only=True)
class AssignmentCoupling:
    """Exact optimal transport within each batch."""

    kind: Literal["assignment"]

    def make(self) -> tx.couplings.AbstractCoupling:
        return tx.couplings.Assignment()


@dataclasses.dataclass(frozen=True, kw_only=True)
class EntropicCoupling:
    """Entropic transport within each batch; `epsilon` in units of the mean cost."""

    kind: Literal["entropic"]
    epsilon: float

    def __post_init__(self):
        if self.epsilon <= 0:
            raise UserError(f"coupling.epsilon is {self.epsilon}; it must be positive")

    def make(self) -> tx.couplings.AbstractCoupling:
        return tx.couplings.Entropic(self.epsilon)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MLPField:
    """Fully connected network, for points."""

    kind: Literal["mlp"]
    width: int
    depth: int
    frequencies: int

    def __post_init__(self):
        _positive("field", width=self.width, depth=self.depth)
        if self.frequencies < 0:
            raise UserError(f"field.frequencies is {self.frequencies}; it must be at least 0")

    def make(self, dim: int, *, key: PRNGKeyArray) -> tx.fields.MLP:
        return tx.fields.MLP(dim, self.width, self.depth, num_frequencies=self.frequencies, key=key)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerField:
    """Diffusion transformer, for images with labels.

    `products` is what the factors of matrix products are rounded to; `keep` what of a block
    is kept for its derivatives: all of it, its products with weights, or only what enters it.
    """

    kind: Literal["transformer"]
    patch: int
    width: int
    depth: int
    heads: int
    products: Literal["float32", "bfloat16"]
    keep: Literal["everything", "products", "inputs"]

    def __post_init__(self):
        _positive("field", patch=self.patch, width=self.width, depth=self.depth, heads=self.heads)
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class PointsData:
    """Two laws of the plane, drawn afresh for every batch."""

    kind: Literal["points"]
    source: points.Name
    target: points.Name

    def check_field(self, field: "Field") -> None:
        if not isinstance(field, MLPField):
            raise UserError(f"field.kind is {field.kind!r}; points need an mlp")


@dataclasses.dataclass(frozen=True, kw_only=True)
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


Path = LinearPath | TrigonometricPath | VariancePreservingPath | BrownianBridgePath
Coupling = IndependentCoupling | AssignmentCoupling | EntropicCoupling
Field = MLPField | TransformerField
Data = PointsData | ImagesData


def _positive(section: str, **values: int) -> None:
    for key, value in values.items():
        if value < 1:
            raise UserError(f"{section}.{key} is {value}; it must be at least 1")
