"""Functionals of a measure: one definition, from which variation and gradient follow."""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from transportx import _checks

Cloud = Float[Array, "n d"]
Weights = Float[Array, " n"]
Scalar = Float[Array, ""]


class AbstractFunctional(eqx.Module):
    r"""A functional F of measures $\alpha = \sum_i w_i \delta_{x_i}$ of finite support.

    A new functional is a subclass with one method, `value`. First variation and gradient
    follow by autodiff, once, here; so do sums and multiples: ``F + 0.5 * G``.
    """

    @abc.abstractmethod
    def value(self, x: Cloud, weights: Weights) -> Scalar:
        """F of the points `x` with these weights.

        It must be differentiable in both, and make sense for a point of weight zero, which
        changes nothing.
        """

    @_checks.gate
    def __call__(self, x: Cloud, weights: Weights | None = None) -> Scalar:
        """F of a cloud, uniform by default."""
        return self.value(x, as_weights(x, weights))

    @_checks.gate
    def first_variation(
        self, z: Float[Array, "k d"], x: Cloud, weights: Weights | None = None
    ) -> Float[Array, " k"]:
        r"""$\frac{\delta F}{\delta\alpha}(z_k)$: what mass added at a point changes, per mass.

        Defined up to a constant where F lives on measures of one mass. It is the derivative
        by the weight of a further point, and costs a gradient of F with n + k points.
        """
        weights = as_weights(x, weights)
        _checks.points("z", z)
        _checks.same_dimension("z", z, "x", x)

        def with_mass(extra):
            return self.value(jnp.concatenate([x, z]), jnp.concatenate([weights, extra]))

        return jax.grad(with_mass)(jnp.zeros(z.shape[0], x.dtype))

    @_checks.gate
    def gradient(self, x: Cloud, weights: Weights | None = None) -> Cloud:
        r"""Wasserstein gradient at the points: $\nabla_{x_i} F / w_i$, zero where w_i is.

        It equals the gradient of the first variation at x_i; for n particles of one weight
        it is $n \nabla_{x_i} F$.
        """
        return self.value_and_gradient(x, weights)[1]

    @_checks.gate
    def value_and_gradient(self, x: Cloud, weights: Weights | None = None) -> tuple[Scalar, Cloud]:
        """Both at the price of the gradient."""
        weights = as_weights(x, weights)
        value, slopes = jax.value_and_grad(self.value)(x, weights)
        return value, per_mass(slopes, weights)

    def __add__(self, other: "AbstractFunctional") -> "AbstractFunctional":
        return Sum((self, other))

    def __sub__(self, other: "AbstractFunctional") -> "AbstractFunctional":
        return Sum((self, Scaled(-1.0, other)))

    def __mul__(self, factor: ScalarLike) -> "AbstractFunctional":
        return Scaled(factor, self)

    def __rmul__(self, factor: ScalarLike) -> "AbstractFunctional":
        return Scaled(factor, self)


@_checks.gate
class Sum(AbstractFunctional):
    """The sum of functionals, as `F + G` makes it."""

    terms: tuple[AbstractFunctional, ...]

    @_checks.gate
    def value(self, x: Cloud, weights: Weights) -> Scalar:
        total = jnp.zeros((), x.dtype)
        for term in self.terms:
            total = total + term.value(x, weights)
        return total


@_checks.gate
class Scaled(AbstractFunctional):
    """A multiple of a functional, as `0.5 * F` makes it.

    Attributes:
        factor: May be traced and differentiated.
        functional: What is multiplied.
    """

    factor: ScalarLike
    functional: AbstractFunctional

    @_checks.gate
    def value(self, x: Cloud, weights: Weights) -> Scalar:
        return jnp.asarray(self.factor, x.dtype) * self.functional.value(x, weights)


def per_mass(slopes: Cloud, weights: Weights) -> Cloud:
    """Derivatives by the points over their weights; zero where the weight is."""
    present = weights > 0
    inverse = jnp.where(present, 1 / jnp.where(present, weights, 1), 0)
    return slopes * inverse[:, None]


def as_weights(x: Cloud, weights: Weights | None, name: str = "x") -> Weights:
    """The weights of a cloud, checked, NaN where negative; uniform of total one by default."""
    _checks.points(name, x)
    if weights is None:
        return jnp.full(x.shape[0], 1 / x.shape[0], x.dtype)
    _checks.floating("weights", weights)
    if weights.shape != x.shape[:1]:
        problem = f"has shape {weights.shape}"
        _checks.reject("weights", problem, f"give one number a point, shape {x.shape[:1]}")
    return jnp.where(weights < 0, jnp.nan, weights)


def as_pytree(function: Callable[..., Any]) -> Callable[..., Any]:
    """A plain function as static structure, so that `jit` may take and return its owner."""
    plain = jax.tree_util.all_leaves([function])
    return jax.tree_util.Partial(function) if plain else function
