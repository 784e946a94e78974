"""Dictionaries: functions of a point whose linear combinations are potentials."""

import functools
import itertools
import operator

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, ScalarLike

from transportx import _checks, _numbers

Point = Float[Array, " d"]


@_checks.gate
class Monomials(eqx.Module):
    r"""Monomials: products of powers $x_1^{e_1} \cdots x_d^{e_d}$ of total degree 1 to `degree`.

    Their number is $\binom{d + \mathrm{degree}}{d} - 1$; the constant, which has no gradient, is
    left out. Centre and scale the points first, or high degrees swamp low ones.

    Attributes:
        dim: Number of coordinates d of a point.
        degree: The largest total degree, at least 1.

    Example:
        >>> monomials = tx.learned_energies.Monomials(dim=2, degree=2)
        >>> monomials.exponents.tolist()
        [[0, 1], [1, 0], [0, 2], [1, 1], [2, 0]]
        >>> monomials(jnp.array([2.0, 3.0]))
        Array([3., 2., 9., 6., 4.], dtype=float32)
    """

    dim: int = eqx.field(static=True)
    degree: int = eqx.field(static=True)

    def __check_init__(self):
        _checks.count("dim", self.dim)
        _checks.count("degree", self.degree)

    @property
    def exponents(self) -> np.ndarray:
        """Exponents, one row per monomial, of rising degree."""
        powers = itertools.product(range(self.degree + 1), repeat=self.dim)
        rows = sorted((row for row in powers if 0 < sum(row) <= self.degree), key=sum)
        return np.array(rows)

    @_checks.gate
    def __call__(self, x: Point) -> Float[Array, " p"]:
        """Values of all monomials at one point (d,)."""
        powers = jnp.stack([x**k for k in range(self.degree + 1)])
        factors = [powers[column, axis] for axis, column in enumerate(self.exponents.T)]
        return functools.reduce(operator.mul, factors)


@_checks.gate
class Bumps(eqx.Module):
    r"""Gaussian bumps $\exp(-|x - c_k|^2 / 2 h^2)$: local, for potentials of unknown form.

    Attributes:
        centres: c, shape (p, d); a grid over the points, or some of them.
        bandwidth: h, positive, in units of the points; about the distance of neighbouring centres.

    Example:
        >>> bumps = tx.learned_energies.Bumps(jnp.array([[0.0], [1.0]]), bandwidth=1.0)
        >>> [round(float(value), 2) for value in bumps(jnp.array([0.0]))]
        [1.0, 0.61]
    """

    centres: Float[Array, "p d"]
    bandwidth: ScalarLike

    def __check_init__(self):
        _checks.points("centres", self.centres)
        _checks.positive("bandwidth", self.bandwidth)

    @_checks.gate
    def __call__(self, x: Point) -> Float[Array, " p"]:
        """Values of all bumps at one point (d,)."""
        _checks.point("x", x, "centres", self.centres)
        squares = jnp.sum((x[None, :] - self.centres) ** 2, axis=1)
        return jnp.exp(-squares / (2 * _numbers.positive(self.bandwidth, squares.dtype) ** 2))
