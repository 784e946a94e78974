"""Entropies of densities that are constant on cells, and the boxes of cells they live on."""

import abc
import numbers

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, ScalarLike

from transportx import _checks
from transportx.gradient_flows._functional import AbstractFunctional, Cloud, Scalar, Weights


@_checks.gate
class CellBox(eqx.Module):
    """Equal cells of a box in d dimensions, known by their centres; a measure is their masses.

    Attributes:
        low: Lower corner.
        high: Upper corner.
        shape: Cells along each axis.

    Example:
        >>> box = tx.gradient_flows.CellBox((0.0, 0.0), (1.0, 2.0), (4, 4))
        >>> box.volume
        0.125
    """

    low: tuple[float, ...] = eqx.field(static=True)
    high: tuple[float, ...] = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)

    def __check_init__(self):
        if not len(self.low) == len(self.high) == len(self.shape) > 0:
            sizes = len(self.low), len(self.high), len(self.shape)
            _checks.reject("shape", f"and corners have lengths {sizes}", "give one number an axis")
        for low, high, count in zip(self.low, self.high, self.shape, strict=True):
            _checks.count("shape", count, least=2)
            if not low < high:
                _checks.reject("high", f"is {high} where `low` is {low}", "give low < high")

    @property
    def spacing(self) -> tuple[float, ...]:
        """Width of a cell along each axis."""
        ends = zip(self.low, self.high, self.shape, strict=True)
        return tuple((high - low) / count for low, high, count in ends)

    @property
    def volume(self) -> float:
        """Volume of one cell."""
        return float(np.prod(self.spacing))

    @property
    def centres(self) -> Float[Array, "n d"]:
        """Centres of the cells, the last axis fastest, in JAX's default precision."""
        ends = zip(self.low, self.spacing, self.shape, strict=True)
        axes = [low + width * (np.arange(count) + 0.5) for low, width, count in ends]
        corners = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        return jnp.asarray(corners.reshape(-1, len(axes)))

    @property
    def faces(self) -> tuple[Int[np.ndarray, " f"], Int[np.ndarray, " f"], Float[np.ndarray, " f"]]:
        """Cells before and behind each inner face, and the distance of their centres."""
        numbers = np.arange(int(np.prod(self.shape))).reshape(self.shape)
        before, behind, widths = [], [], []
        for axis, width in enumerate(self.spacing):
            before.append(np.delete(numbers, -1, axis).ravel())
            behind.append(np.delete(numbers, 0, axis).ravel())
            widths.append(np.full(before[-1].size, width))
        return np.concatenate(before), np.concatenate(behind), np.concatenate(widths)


class AbstractCellEnergy(AbstractFunctional):
    """A functional of the masses of cells, which are its points and do not move."""


class AbstractInternalEnergy(AbstractCellEnergy):
    r"""$F = \int U(\rho)\,dx$ of a density that is constant on cells.

    A subclass writes `energy_density`, convex.
    """

    volume: eqx.AbstractVar[ScalarLike | Float[Array, " n"]]

    @abc.abstractmethod
    def energy_density(self, density: Weights) -> Weights:
        """U at each density, with a finite value at zero."""

    @_checks.gate
    def value(self, x: Cloud, weights: Weights) -> Scalar:
        volume = jnp.asarray(self.volume, x.dtype)
        volume = jnp.where((volume > 0) & jnp.isfinite(volume), volume, jnp.nan)
        return jnp.sum(volume * self.energy_density(weights / volume))


@_checks.gate
class Entropy(AbstractInternalEnergy):
    r"""$\int \rho\log\rho$: its flow is the heat equation $\partial_t\rho = \Delta\rho$.

    Attributes:
        volume: Volume of one cell, or of each, shape (n,).
    """

    volume: ScalarLike | Float[Array, " n"]

    def __check_init__(self):
        _checks.positive("volume", self.volume)

    @_checks.gate
    def energy_density(self, density: Weights) -> Weights:
        present = density > 0
        return jnp.where(present, density * jnp.log(jnp.where(present, density, 1)), 0)


@_checks.gate
class PorousMedium(AbstractInternalEnergy):
    r"""$\frac1{m-1}\int\rho^m$: its flow is $\partial_t\rho = \Delta\rho^m$, with fronts.

    Attributes:
        volume: Volume of one cell, or of each, shape (n,).
        exponent: m, above one; near one it is the `Entropy`.
    """

    volume: ScalarLike | Float[Array, " n"]
    exponent: ScalarLike

    def __check_init__(self):
        _checks.positive("volume", self.volume)
        if isinstance(self.exponent, numbers.Real) and not float(self.exponent) > 1:
            _checks.reject("exponent", f"is {self.exponent}", "give a number above 1")

    @_checks.gate
    def energy_density(self, density: Weights) -> Weights:
        m = jnp.asarray(self.exponent, density.dtype)
        m = jnp.where(m > 1, m, jnp.nan)
        present = density > 0
        return jnp.where(present, jnp.where(present, density, 1) ** m, 0) / (m - 1)


def lives_on_cells(functional: AbstractFunctional) -> bool:
    """Whether an energy of cells is part of a functional."""

    def of_cells(part):
        return isinstance(part, AbstractCellEnergy)

    return any(map(of_cells, jax.tree.leaves(functional, is_leaf=of_cells)))
