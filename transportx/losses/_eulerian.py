"""The Eulerian equation of a flow map at one example, with a velocity to regress on."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree, ScalarLike

from transportx import _checks, _numbers

Time = Float[Array, ""]
Point = Float[Array, "*d"]
# What an adaptive weight adds to a mean squared error.
_FLOOR = 1e-3


@_checks.gate
def path_velocity(
    u: Callable[..., Array], s: Time, x: Point, args: PyTree[Array], velocity: Point
) -> Point:
    """The velocity of the path itself, which `mean_flow` regresses on where nothing guides it.

    Args:
        u: Flow map.
        s: Time.
        x: Point of the path at that time.
        args: Condition of the point.
        velocity: Velocity of the path at that time, of the shape of `x`.

    Example:
        >>> u, t = tx.fields.MLPFlowMap(1, 4, 1, key=jr.key(0)), jnp.array(0.5)
        >>> tx.losses.path_velocity(u, t, jnp.zeros(1), None, jnp.ones(1)).tolist()
        [1.0]
    """
    return velocity


@_checks.gate
class GuidedPathVelocity(eqx.Module):
    r"""Classifier-free guidance built into training: the velocity of a path, pushed to its label.

    $u_\emptyset + w (\dot x_s - u_\emptyset)$ with $u_\emptyset = u(s, s, x, \emptyset)$ held
    constant (stop-gradient), and $\dot x_s$ alone where the label is the null label. Given labels
    that were dropped at random, the map of the guided field of strength w is learnt: one evaluation
    per step does what `fields.Guided` does with two.

    Attributes:
        strength: The factor w, any finite number; may be traced. 1 is no guidance.
        null_label: The integer label that means "no label".

    Raises:
        ValueError: `strength` is infinite or NaN; when called, labels are no integers.

    Example:
        >>> def u(s, t, x, label):
        ...     return jnp.where(label == 3, 0.0, 1.0) * x
        >>> velocity, label = tx.losses.GuidedPathVelocity(2.0, 3), jnp.array(0)
        >>> velocity(u, jnp.array(0.5), jnp.ones(2), label, jnp.ones(2)).tolist()
        [2.0, 2.0]

    References:
        Geng et al., Mean flows for one-step generative modeling, 2025, section 4.2.
    """

    strength: ScalarLike
    null_label: int = eqx.field(static=True)

    def __check_init__(self):
        _checks.finite("strength", self.strength)

    @_checks.gate
    def __call__(
        self, u: Callable[..., Array], s: Time, x: Point, args: Int[Array, ""], velocity: Point
    ) -> Point:
        """Velocity of the path, pushed to its label.

        Args:
            u: Flow map, called with `null_label` at `s`.
            s: Time.
            x: Point of the path at that time.
            args: Integer label of the point.
            velocity: Velocity of the path at that time.
        """
        _checks.label_value("null_label", self.null_label, args)
        plain = jax.lax.stop_gradient(u(s, s, x, jnp.full_like(args, self.null_label)))
        _checks.velocity(plain, x, "u")
        plain, own = _numbers.matched(plain, velocity)
        strength = jnp.asarray(self.strength, plain.dtype)
        return jnp.where(args == self.null_label, own, plain + strength * (own - plain))


class Eulerian(eqx.Module):
    """A regression by the Eulerian equation at one example: `error = average - velocity - term`."""

    error: Array
    velocity: Array
    derivative: Array


def eulerian(u, path, s, t, x0, x1, z, args, velocity, *, own: bool = False) -> Eulerian:
    """The error of a flow map in the Eulerian equation at one example.

    The derivative goes along the velocity of the path, or along the map's own.
    """
    x, of_path = path(s, x0, x1, z)
    wanted = velocity(u, s, x, args, of_path)
    _checks.velocity(wanted, x, "velocity")
    along = u(s, s, x, args) if own else wanted
    _checks.velocity(along, x, "u")
    value, derivative = derivative_along(u, s, t, x, args, along)
    value, wanted, derivative = _numbers.matched(value, wanted, derivative)
    return Eulerian(value - wanted - derivative, wanted, derivative)


def derivative_along(u, s, t, x, args, velocity) -> tuple[Array, Array]:
    """u(s, t, x), and (t - s) (d_s u + Du velocity) held constant."""

    def average_velocity(s, x):
        value = u(s, t, x, args)
        _checks.velocity(value, x, "u")
        return value

    tangents = jnp.ones_like(s), jax.lax.stop_gradient(velocity.astype(x.dtype))
    value, rate = jax.jvp(average_velocity, (s, x), tangents)
    return value, jax.lax.stop_gradient((t - s).astype(rate.dtype) * rate)


def adapted(error: Array, adaptive: ScalarLike) -> Float[Array, ""]:
    """The mean squared error, times its adaptive weight."""
    square = jnp.mean(error**2)
    power = _numbers.not_negative(adaptive, square.dtype)
    return jax.lax.stop_gradient((square + _FLOOR) ** (-power)) * square
