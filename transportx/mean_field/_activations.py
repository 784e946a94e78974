"""Activations of a neuron, and how far each is homogeneous."""

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transportx import _checks

Numbers = Float[Array, "..."]


class AbstractActivation(eqx.Module):
    """A function sigma of one number, applied to every entry of an array.

    `degree` is the p of sigma(c s) = c^p sigma(s) for all c > 0; None where there is none.
    """

    degree: eqx.AbstractVar[float | int | None]

    @abc.abstractmethod
    def __call__(self, s: Numbers) -> Numbers:
        """Every entry's image."""


class Identity(AbstractActivation):
    """The identity, sigma(s) = s: second moments obey their own equation, `linear_training`."""

    degree: ClassVar[int] = 1

    @_checks.gate
    def __call__(self, s: Numbers) -> Numbers:
        return s


class Relu(AbstractActivation):
    """max(s, 0), with derivative zero at zero.

    Example:
        >>> tx.mean_field.Relu()(jnp.array([-1.0, 2.0])).tolist()
        [0.0, 2.0]
    """

    degree: ClassVar[int] = 1

    @_checks.gate
    def __call__(self, s: Numbers) -> Numbers:
        return jax.nn.relu(s)


@_checks.gate
class RectifiedPower(AbstractActivation):
    """max(s, 0)^p.

    Attributes:
        degree: p, a Python number of at least 1; integers are cheaper. From above 1 on the
            flow of neurons is smooth, and has a unique solution.
    """

    degree: float | int = eqx.field(static=True)

    def __check_init__(self):
        _checks.exponent("degree", self.degree)

    @_checks.gate
    def __call__(self, s: Numbers) -> Numbers:
        positive = s > 0
        return jnp.where(positive, jnp.where(positive, s, 1) ** self.degree, 0)


class Tanh(AbstractActivation):
    """tanh(s): bounded and smooth, not homogeneous.

    Example:
        >>> round(float(tx.mean_field.Tanh()(jnp.array(1.0))), 2)
        0.76
    """

    degree: ClassVar[None] = None

    @_checks.gate
    def __call__(self, s: Numbers) -> Numbers:
        return jnp.tanh(s)
