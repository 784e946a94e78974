"""Dictionaries: functions of a point whose combinations are potentials."""

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
    r"""Products of powers $x_1^{e_1} \cdots x_d^{e_d}$ of total degree 1 to `degree`.

    Their number is $\binom{d + \mathrm{degree}}{d} - 1$; the constant, which moves nothing, is
    left out. Centre and scale the points first, or high degrees swamp low ones.

    Attributes:
        dim: Coordinates of a point.
        degree: The largest total degree.
    """

    dim: int = eqx.field(static=True)
    degree: int = eqx.field(static=True)

    def __check_init__(self):
        _checks.count("dim", self.dim)
        _checks.count("degree", self.degree)

    @property
    def exponents(self) -> np.ndarray:
        """One row a monomial, of rising degree."""
        powers = itertools.product(range(self.degree + 1), repeat=self.dim)
        rows = sorted((row for row in powers if 0 < sum(row) <= self.degree), key=sum)
        return np.array(rows)

    @_checks.gate
    def __call__(self, x: Point) -> Float[Array, " p"]:
        """All of them at one point."""
        powers = jnp.stack([x**k for k in range(self.degree + 1)])
        factors = [powers[column, axis] for axis, column in enumerate(self.exponents.T)]
        return functools.reduce(operator.mul, factors)


@_checks.gate
class Bumps(eqx.Module):
    r"""Gaussian bumps $\exp(-|x - c_k|^2 / 2 h^2)$: local, for potentials of unknown form.

    Attributes:
        centres: c, shape (p, d); a grid over the points, or some of them.
        bandwidth: h, in units of the points; about the distance of neighbouring centres.
    """

    centres: Float[Array, "p d"]
    bandwidth: ScalarLike

    def __check_init__(self):
        _checks.points("centres", self.centres)
        _checks.positive("bandwidth", self.bandwidth)

    @_checks.gate
    def __call__(self, x: Point) -> Float[Array, " p"]:
        """All of them at one point."""
        _checks.point("x", x, "centres", self.centres)
        squares = jnp.sum((x[None, :] - self.centres) ** 2, axis=1)
        return jnp.exp(-squares / (2 * _numbers.positive(self.bandwidth, squares.dtype) ** 2))
