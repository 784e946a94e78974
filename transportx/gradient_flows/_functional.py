"""Functionals of a measure: one definition, from which variation and gradient follow."""

import abc
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, ScalarLike

from transportx import _checks

Cloud = Float[Array, "n d"]
if TYPE_CHECKING:
    Particles = Probes = Any
else:
    Particles = Float[Array, "n d"] | PyTree[Float[Array, "n ..."]]
    Probes = Float[Array, "k d"] | PyTree[Float[Array, "k ..."]]
Weights = Float[Array, " n"]
Scalar = Float[Array, ""]


class Measure(NamedTuple):
    r"""A weighted set of particles: $\sum_i w_i\delta_{x_i}$.

    Attributes:
        x: Positions: a cloud (n, d), or a pytree whose arrays all have the leading axis n.
        weights: Masses, shape (n,).
    """

    x: Particles
    weights: Weights


class Derivatives(NamedTuple):
    r"""A functional at a measure, to first order.

    Attributes:
        value: F.
        gradient: The Wasserstein gradient $\nabla\frac{\delta F}{\delta\alpha}(x_i)$, like x.
        variation: The first variation $\frac{\delta F}{\delta\alpha}(x_i)$, shape (n,).
    """

    value: Scalar
    gradient: Particles
    variation: Weights


class AbstractFunctional(eqx.Module):
    r"""A functional F of measures $\alpha = \sum_i w_i \delta_{x_i}$ of finite support.

    A new functional is a subclass with one method, `value`, of a cloud (n, d) or of particles
    that are any pytree. First variation and gradient follow by autodiff, and so do sums and
    multiples: ``F + 0.5 * G``. Override `derivatives` where a closed form is cheaper, or knows
    the gradient also at particles of weight zero, which then move as probes.
    """

    @abc.abstractmethod
    def value(self, x: Any, weights: Weights) -> Scalar:
        """F of the particles `x` with these weights.

        It must be differentiable in both, and make sense for a point of weight zero, which
        changes nothing.
        """

    @property
    def conservative(self) -> bool:
        """Whether `derivatives` are those of `value`, so that a flow can only lower it."""
        return True

    @_checks.gate
    def gap(self, x: Particles, weights: Weights | None = None) -> Scalar:
        """Bound on the error of `value`: zero, up to rounding, where nothing is iterated."""
        return jnp.zeros((), as_measure(x, weights).weights.dtype)

    @_checks.gate
    def __call__(self, x: Particles, weights: Weights | None = None) -> Scalar:
        """F of a measure, of uniform weights by default."""
        return self.value(*as_measure(x, weights))

    @_checks.gate
    def first_variation(
        self,
        z: Probes,
        x: Particles,
        weights: Weights | None = None,
    ) -> Float[Array, " k"]:
        r"""$\frac{\delta F}{\delta\alpha}(z_k)$: what mass added at a point changes, per mass.

        Defined up to a constant where F lives on measures of one mass. It is the derivative
        by the weight of a further point, and costs a gradient of F with n + k points.

        Args:
            z: Points to evaluate it at, k of them, of the kind of `x`.
            x: Particles of the measure.
            weights: Their masses, shape (n,); uniform of total one by default.
        """
        x, weights = as_measure(x, weights)
        z, none = as_measure(z, None, "z")
        _check_kind(z, x)
        both = jax.tree.map(lambda *parts: jnp.concatenate(parts), x, z)

        def with_mass(extra):
            return self.value(both, jnp.concatenate([weights, extra]))

        return jax.grad(with_mass)(jnp.zeros(none.size, weights.dtype))

    @_checks.gate
    def gradient(self, x: Particles, weights: Weights | None = None) -> Particles:
        r"""Wasserstein gradient at the points: $\nabla_{x_i} F / w_i$, zero where w_i is.

        It equals the gradient of the first variation at x_i; for n particles of one weight
        it is $n \nabla_{x_i} F$.
        """
        return self.derivatives(x, weights).gradient

    @_checks.gate
    def value_and_gradient(
        self, x: Particles, weights: Weights | None = None
    ) -> tuple[Scalar, Particles]:
        """F and its Wasserstein gradient at the price of the gradient."""
        return self.derivatives(x, weights)[:2]

    @_checks.gate
    def derivatives(self, x: Particles, weights: Weights | None = None) -> Derivatives:
        """F, its Wasserstein gradient and its first variation at the price of the gradient."""
        x, weights = as_measure(x, weights)
        value, (slopes, variation) = jax.value_and_grad(self.value, (0, 1))(x, weights)
        return Derivatives(value, per_mass(slopes, weights), variation)

    def __add__(self, other: "AbstractFunctional") -> "AbstractFunctional":
        return FunctionalSum((self, other))

    def __sub__(self, other: "AbstractFunctional") -> "AbstractFunctional":
        return FunctionalSum((self, Scaled(-1.0, other)))

    def __mul__(self, factor: ScalarLike) -> "AbstractFunctional":
        return Scaled(factor, self)

    def __rmul__(self, factor: ScalarLike) -> "AbstractFunctional":
        return Scaled(factor, self)


class AbstractStochasticFunctional(AbstractFunctional):
    """A functional known by unbiased estimates, as a risk is by batches of its data.

    `flow` descends an estimate drawn anew at every step, and records the functional itself. A
    subclass writes `draw` beside `value`.
    """

    @abc.abstractmethod
    def draw(self, key: PRNGKeyArray) -> AbstractFunctional:
        """One estimate, whose gradient is on average that of the functional."""


@_checks.gate
class FunctionalSum(AbstractFunctional):
    """The sum of functionals, as `F + G` makes it.

    Attributes:
        terms: One functional or more, of particles of one kind.
    """

    terms: tuple[AbstractFunctional, ...]

    def __check_init__(self):
        if not self.terms:
            _checks.reject("terms", "is empty", "give at least one functional")

    @property
    def conservative(self) -> bool:
        return all(term.conservative for term in self.terms)

    @_checks.gate
    def gap(self, x: Particles, weights: Weights | None = None) -> Scalar:
        return functools.reduce(jnp.add, [term.gap(x, weights) for term in self.terms])

    @_checks.gate
    def value(self, x: Particles, weights: Weights) -> Scalar:
        values = [term.value(x, weights) for term in self.terms]
        return functools.reduce(jnp.add, values)

    @_checks.gate
    def derivatives(self, x: Particles, weights: Weights | None = None) -> Derivatives:
        each = [term.derivatives(x, weights) for term in self.terms]
        return jax.tree.map(lambda *parts: functools.reduce(jnp.add, parts), *each)


@_checks.gate
class Scaled(AbstractFunctional):
    """A multiple of a functional, as `0.5 * F` makes it.

    Attributes:
        factor: May be traced and differentiated.
        functional: The functional that is multiplied.
    """

    factor: ScalarLike
    functional: AbstractFunctional

    @property
    def conservative(self) -> bool:
        return self.functional.conservative

    @_checks.gate
    def gap(self, x: Particles, weights: Weights | None = None) -> Scalar:
        gap = self.functional.gap(x, weights)
        return jnp.abs(jnp.asarray(self.factor, gap.dtype)) * gap

    @_checks.gate
    def value(self, x: Particles, weights: Weights) -> Scalar:
        value = self.functional.value(x, weights)
        return jnp.asarray(self.factor, value.dtype) * value

    @_checks.gate
    def derivatives(self, x: Particles, weights: Weights | None = None) -> Derivatives:
        found = self.functional.derivatives(x, weights)
        return jax.tree.map(lambda part: jnp.asarray(self.factor, part.dtype) * part, found)


def per_mass(slopes: Particles, weights: Weights) -> Particles:
    """Derivatives by the particles over their weights; zero where the weight is."""
    present = weights > 0
    inverse = jnp.where(present, 1 / jnp.where(present, weights, 1), 0)

    def over(slope):
        axes = range(1, slope.ndim)
        scaled = slope * jnp.expand_dims(inverse.astype(slope.dtype), axes)
        return jnp.where(jnp.expand_dims(weights == 0, axes), 0, scaled)

    return jax.tree.map(over, slopes)


def dots(one: Particles, other: Particles) -> Weights:
    """Inner products of two tangent vectors, particle by particle."""
    products = jax.tree.map(lambda a, b: jnp.sum(a * b, tuple(range(1, a.ndim))), one, other)
    return functools.reduce(jnp.add, jax.tree.leaves(products))


def as_measure(x: Particles, weights: Weights | None, name: str = "x") -> Measure:
    """Particles as arrays with their weights, checked."""
    return Measure(x, as_weights(x, weights, name))


def as_weights(x: Particles, weights: Weights | None, name: str = "x") -> Weights:
    """The weights of particles, checked, NaN where negative; uniform of total one by default."""
    count, dtype = _check_particles(name, x)
    if weights is None:
        return jnp.full(count, 1 / count, dtype)
    _checks.floating("weights", weights)
    if weights.shape != (count,):
        problem = f"has shape {weights.shape}"
        _checks.reject("weights", problem, f"give one number per point, shape {(count,)}")
    return jnp.where(weights < 0, jnp.nan, weights)


def _check_particles(name: str, x: Particles) -> tuple[int, Any]:
    """Their number, and the dtype of their weights."""
    leaves = jax.tree.leaves(x)
    for leaf in leaves:
        _checks.batch(name, leaf)
        _checks.same_size(name, leaf, name, leaves[0])
    if leaves[0] is x:
        _checks.points(name, x)
    return leaves[0].shape[0], leaves[0].dtype


def _check_kind(z: Probes, x: Particles) -> None:
    """Refuse points that are not of the kind of the particles."""
    if jax.tree.structure(z) != jax.tree.structure(x):
        problem = f"is {jax.tree.structure(z)} where `x` is {jax.tree.structure(x)}"
        _checks.reject("z", problem, "give points of one kind")
    for one, other in zip(jax.tree.leaves(z), jax.tree.leaves(x), strict=True):
        _checks.same_dimension("z", one, "x", other)


def as_pytree(function: Callable[..., Any]) -> Callable[..., Any]:
    """A plain function as static structure, so that `jit` may take and return its owner."""
    plain = jax.tree_util.all_leaves([function])
    return jax.tree_util.Partial(function) if plain else function
