"""Generators trained by descent: each step compresses one of a Wasserstein gradient flow."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree, ScalarLike

from transportx import _checks, _numbers
from transportx.gradient_flows._functional import AbstractFunctional, Cloud, Scalar

Batch = Float[Array, "b ..."]
Target = Float[Array, "m ..."]


@_checks.gate
def descent_loss(
    functional_of_batch: Callable[..., AbstractFunctional],
    generator: Callable[..., Array],
    z: Batch,
    x1: Target,
    args: PyTree[Array] = None,
    *,
    step: ScalarLike,
    features: Callable[[Array], Array] | None = None,
    weights: Float[Array, " m"] | None = None,
    z_self: Batch | None = None,
) -> Scalar:
    r"""Descent loss: train a generator to follow the Wasserstein gradient flow of a functional.

    The batch $x_i = g(z_i)$ is moved by one step of the flow and held there as the target of a
    regression, the mean of $|x_i - \mathrm{sg}[x_i - \tau \nabla\frac{\delta F}{\delta\alpha}
    (x_i)]|^2 / d$. The derivative of this function is that of the regression, $2\tau/d$ times the
    derivative of F through the generator; its value is F of the batch, the number that shows
    progress, whose bound `descent_parts` has. Methods of `optax` that search along a line by values
    do not fit it, and it is no mean over examples: a microbatch is a batch of its own.

    A generator of class labels is trained with one functional per class: with batches that have a
    leading axis of classes, `jax.vmap` this loss over `z`, `x1` and `args` and take the mean.

    Args:
        functional_of_batch: `functional_of_batch(y) -> F` of points y of the target, shape (m, d):
            `energy_distance_squared`, or `SinkhornDivergenceTo`, `MMD`, `SlicedWasserstein`,
            `Drifting` with their options bound by `equinox.Partial`. Their `layout` shares
            pairs among devices. Called with the keyword `weights` where these are given.
        generator: `generator(z, args) -> x` of one example, of the shape of an example of `x1`.
        z: Noise, shape (b, ...).
        x1: Target examples, shape (m, ...); their number may differ from b.
        args: Conditions of the generator, a pytree of arrays with leading axis b, or None.
        step: Step tau of the flow, positive; may be traced. With a generator that is a table of b
            points and gradient steps of size b d / 2, a training step is one Euler step of it.
        features: `features(x) -> array` of one example, in whose space the functional acts and the
            error is taken; the example itself by default.
        weights: Weights of `x1`, not negative, such as zeros of rows that fill a class up, shape
            (m,). They are divided by their sum; a class without examples has a loss of NaN.
        z_self: Noise of a second, independent batch, which stands for the first one where a
            functional compares it with itself: the gradient is that of F to `x1` less that of F to
            the second batch. So it is zero in the mean where both laws are equal, which that of
            one batch is not: a batch of points is not its law. Shape (b, ...), with the same
            `args`.

    Returns:
        F at the generated batch; NaN where a point, a solve or a number is.

    Raises:
        ValueError: A batch is empty; `args`, `weights` or `z_self` do not match; `step` is a Python
            number that is not positive; the generator returns examples of another shape than those
            of `x1`.

    Differentiation:
        In `z`, `args` and the parameters of `generator` and `features`, with the target held
        constant; `x1` and the functional have none.

    Example:
        >>> gf = tx.gradient_flows
        >>> def generator(z, args):
        ...     return 2 * z
        >>> z, x1 = jr.normal(jr.key(0), (2, 64, 3))
        >>> loss = gf.descent_loss(gf.energy_distance_squared, generator, z, x1, step=0.1)
        >>> bool(loss > 0)
        True
        >>> divergence = eqx.Partial(gf.SinkhornDivergenceTo, epsilon=0.5)
        >>> nearer = gf.descent_loss(divergence, lambda z, args: z, z, x1, step=0.1)
        >>> bool(nearer < gf.descent_loss(divergence, generator, z, x1, step=0.1))
        True

    References:
        Deng et al., Generative modeling via drifting, 2026; W-Flow (arXiv 2605.11755) and Sinkhorn
        drifting (arXiv 2603.12366), 2026, for the Sinkhorn divergence.
    """
    moved = _move(functional_of_batch, generator, z, x1, args, step, features, weights, z_self)
    error = moved.error
    # Its value is that of the functional, its derivative that of the regression.
    value = moved.value + (error - jax.lax.stop_gradient(error))
    return _numbers.as_given(value, x1)


@_checks.gate
class DescentParts(eqx.Module):
    """A descent step by its parts: how far the generator is, how sure that is, how fast it moves.

    Attributes:
        value: The functional at the generated batch, the value of `descent_loss`.
        gap: Bound on the error of `value`, from the duality gaps of plans; zero of functionals in
            closed form.
        error: The regression whose derivative trains the generator: step^2 times the mean square of
            the coordinates of the gradient.
        speed: Root mean square norm of the Wasserstein gradient over the points.
        fastest: Largest such norm: what spikes where training is about to fail.
    """

    value: Scalar
    gap: Scalar
    error: Scalar
    speed: Scalar
    fastest: Scalar


@_checks.gate
def descent_parts(
    functional_of_batch: Callable[..., AbstractFunctional],
    generator: Callable[..., Array],
    z: Batch,
    x1: Target,
    args: PyTree[Array] = None,
    *,
    step: ScalarLike,
    features: Callable[[Array], Array] | None = None,
    weights: Float[Array, " m"] | None = None,
    z_self: Batch | None = None,
) -> DescentParts:
    """Split a step of `descent_loss` into its parts: value with its bound, and speeds.

    For the log of a training run. The bound takes one more solve of the functional.

    Args:
        functional_of_batch: `functional_of_batch(y) -> F` of points y of the target, shape (m, d).
        generator: `generator(z, args) -> x` of one example.
        z: Noise, shape (b, ...).
        x1: Target examples, shape (m, ...).
        args: Conditions of the generator, a pytree of arrays with leading axis b, or None.
        step: Step of the flow, positive; may be traced.
        features: `features(x) -> array` of one example, in whose space the functional acts; the
            example itself by default.
        weights: Weights of `x1`, not negative, shape (m,); divided by their sum.
        z_self: Noise of a second, independent batch for what compares the first one with itself.

    Returns:
        The parts, all NaN where a point or a number is.

    Raises:
        ValueError: What `descent_loss` refuses.

    Example:
        >>> gf = tx.gradient_flows
        >>> z = jr.normal(jr.key(0), (8, 2))
        >>> parts = gf.descent_parts(
        ...     gf.energy_distance_squared, lambda z, args: z, z, z + 1.0, step=0.1
        ... )
        >>> float(parts.gap), bool(parts.fastest >= parts.speed)
        (0.0, True)
    """
    moved = _move(functional_of_batch, generator, z, x1, args, step, features, weights, z_self)
    gap = moved.functional.gap(moved.x)
    squares = jnp.sum(moved.gradient**2, axis=1)
    speeds = jnp.sqrt(jnp.mean(squares)), jnp.sqrt(jnp.max(squares))
    parts = DescentParts(moved.value, gap, moved.error, *speeds)
    sound = jnp.isfinite(moved.value) & jnp.isfinite(moved.error)
    parts = jax.tree.map(lambda part: jnp.where(sound, part, jnp.nan), parts)
    return _numbers.as_given(parts, x1)


class _Moved(NamedTuple):
    """Points, held constant, the functional with its value and gradient there, and the error."""

    x: Cloud
    functional: AbstractFunctional
    value: Scalar
    gradient: Cloud
    error: Scalar


def _move(functional_of_batch, generator, z, x1, args, step, features, weights, z_self) -> _Moved:
    _checks.positive("step", step)
    made = _generate(generator, z, x1, args, features, "z")
    target = _points(x1, features)
    x, target = _numbers.matched(made, target)
    held, target = jax.lax.stop_gradient((x, target))
    functional = _functional(functional_of_batch, target, _shares(weights, x1, target))
    found = functional.derivatives(held)
    gradient = found.gradient
    if z_self is not None:
        _checks.same_size("z_self", z_self, "z", z)
        second = _generate(generator, z_self, x1, args, features, "z_self")
        second = jax.lax.stop_gradient(second.astype(x.dtype))
        # What compares the batch with itself is the same in both, and cancels.
        gradient = gradient - functional_of_batch(second).derivatives(held).gradient
    value, gradient = jax.lax.stop_gradient((found.value, gradient))
    tau = _checks.positive_value("step", step, x.dtype)
    # The error is not the difference of two numbers that round: x - held is exactly zero.
    error = jnp.mean((x - held + tau * gradient) ** 2)
    return _Moved(held, functional, value, gradient, error)


def _functional(functional_of_batch, target, shares) -> AbstractFunctional:
    named = {} if shares is None else {"weights": shares}
    functional = functional_of_batch(target, **named)
    if not isinstance(functional, AbstractFunctional):
        cure = "return a functional, as `tx.gradient_flows.energy_distance_squared` does"
        problem = f"returns {type(functional).__name__}"
        _checks.reject("functional_of_batch", problem, cure)
    return functional


def _generate(generator, z, x1, args, features, name) -> Cloud:
    """What the generator makes of noise, as points."""
    for leaf in jax.tree.leaves(args):
        _checks.same_size("args", leaf, name, z)
    made = jax.vmap(generator)(z, args)
    if not isinstance(made, jax.Array):
        cure = "return an array, one example"
        _checks.reject("generator", f"returns {type(made).__name__}", cure)
    _checks.same_dimension("generator(z)", made, "x1", x1)
    return _points(made, features)


def _points(examples: Array, features: Callable[[Array], Array] | None) -> Cloud:
    """Examples, or their features, as points in float32 at least."""
    found = examples if features is None else jax.vmap(features)(examples)
    if not isinstance(found, jax.Array):
        cure = "return an array"
        _checks.reject("features", f"returns {type(found).__name__}", cure)
    return _numbers.widened(found.reshape(found.shape[0], -1))


def _shares(weights: Array | None, x1: Array, target: Cloud) -> Array | None:
    """Weights over their sum; NaN where one is negative, or all are zero."""
    if weights is None:
        return None
    _checks.same_size("weights", weights, "x1", x1)
    weights = weights.astype(target.dtype)
    weights = jnp.where(weights < 0, jnp.nan, weights)
    return weights / jnp.sum(weights)
