"""Diagnostics of paired states, such as layers of a network: is their update a gradient flow?"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transportx import _checks
from transportx.fields import asymmetry
from transportx.gradient_flows import AbstractFunctional
from transportx.gradient_flows.internal import Cloud, Scalar

States = Float[Array, "k n d"]
_FULL = jax.lax.Precision.HIGHEST


class EnergyAlong(NamedTuple):
    """Energy along paired states of k layers, and how its descent aligns with the updates.

    Attributes:
        energy: Energy of every state, shape (k,); a flow that descends it never lets it rise.
        falls: Fraction of the k - 1 steps that do not raise it.
        alignment: Cosine between each step and minus the Wasserstein gradient at its start, over
            all points and coordinates, shape (k - 1,); one where short steps follow the flow.

    Example:
        >>> bowl = tx.gradient_flows.Potential(lambda x: jnp.sum(x**2) / 2)
        >>> states = jnp.array([[[2.0]], [[1.0]], [[0.5]]])
        >>> tx.learned_energies.energy_along(bowl, states).energy.tolist()
        [2.0, 0.5, 0.125]
    """

    energy: Float[Array, " k"]
    falls: Scalar
    alignment: Float[Array, " k-1"]


class UpdateSpectrum(NamedTuple):
    """Spectrum of updates: variance, power and relaxation rate along each direction.

    Attributes:
        variance: Variance of the states along each direction, shape (d,).
        power: Mean square of the updates along each direction, shape (d,).
        rate: Relaxation rate of the states: minus the regression slope of update on state, (d,).

    Example:
        >>> x = jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
        >>> spectrum = tx.learned_energies.update_spectrum(x, -0.5 * x)
        >>> [round(float(value), 2) for value in spectrum.variance]
        [2.0, 0.5]
    """

    variance: Float[Array, " d"]
    power: Float[Array, " d"]
    rate: Float[Array, " d"]


class GradientShare(NamedTuple):
    """Fractions of the updates' mean square that two regressions explain, in sample.

    Attributes:
        gradient: Fraction explained by the gradient of the best combination of the features.
        any: Fraction explained by the best combination of their slopes in each coordinate on its
            own, and a constant: at least as much. The two are near each other where the updates
            are a gradient of such a combination.

    Example:
        >>> x = jr.normal(jr.key(0), (8, 2))
        >>> features = tx.learned_energies.Monomials(2, 2)
        >>> found = tx.learned_energies.gradient_share(x, -x, features)
        >>> round(float(found.gradient), 2), round(float(found.any), 2)
        (1.0, 1.0)
    """

    gradient: Scalar
    any: Scalar


@_checks.gate
def energy_along(functional: AbstractFunctional, states: States) -> EnergyAlong:
    """Evaluate an energy along paired states: row i of each layer is one particle.

    Args:
        functional: Energy of a cloud with uniform weights, with a Wasserstein gradient.
        states: Paired states, shape (k, n, d), k at least 2.

    Returns:
        Energies, the fraction of steps that do not raise them, and alignments.

    Raises:
        ValueError: `states` is not of shape (k, n, d), k at least 2.

    Differentiation:
        Forward and reverse, except for `falls`.

    Example:
        >>> bowl = tx.gradient_flows.Potential(lambda x: jnp.sum(x**2) / 2)
        >>> states = jnp.array([[[2.0]], [[1.0]], [[0.5]]])
        >>> along = tx.learned_energies.energy_along(bowl, states)
        >>> float(along.falls), along.alignment.tolist()
        (1.0, [1.0, 1.0])
    """
    _check_states(states)
    energy, slopes = jax.lax.map(functional.value_and_gradient, states)
    steps, slopes = jnp.diff(states, axis=0), slopes[:-1]
    lengths = jnp.sqrt(jnp.sum(steps**2, axis=(1, 2)) * jnp.sum(slopes**2, axis=(1, 2)))
    alignment = -jnp.sum(steps * slopes, axis=(1, 2)) / lengths
    falls = jnp.mean((jnp.diff(energy) <= 0).astype(energy.dtype))
    return EnergyAlong(energy, falls, alignment)


@_checks.gate
def update_asymmetry(update: Callable[[Array], Array], x: Cloud) -> Float[Array, " n"]:
    r"""Asymmetry of the Jacobian of update(x) - x at each point: zero for a gradient.

    It is `fields.asymmetry`, in [0, 1]. A residual layer of one token is such an update; one that
    mixes tokens has the whole sequence, flat, for its point. d forward derivatives per point.

    Args:
        update: `update(x) -> y` of one point (d,), of the same shape.
        x: Points, shape (n, d).

    Raises:
        ValueError: `x` is not a cloud, or the update changes the shape of a point.

    Example:
        >>> def update(x):
        ...     return x + jnp.array([x[1], -x[0]])  # a rotation
        >>> tx.learned_energies.update_asymmetry(update, jnp.ones((2, 2))).tolist()
        [1.0, 1.0]
    """
    _checks.points("x", x)

    def velocity(t, x, args):
        moved = update(x)
        _checks.same_shape("update(x)", moved, "x", x)
        return moved - x

    return jax.vmap(lambda point: asymmetry(velocity, jnp.zeros((), x.dtype), point))(x)


@_checks.gate
def gradient_share(x: Cloud, updates: Cloud, features: Callable[[Array], Array]) -> GradientShare:
    r"""Fraction of paired updates that is a gradient: two regressions, one of gradients only.

    Fits $u = \sum_k c_k \nabla\phi_k$ and, each coordinate on its own, $u_i = c_i +
    \sum_{jk} c_{ijk} \partial_j\phi_k$. It needs no model of the update. The points are all
    that it sees: on a curve every field is a gradient.

    Args:
        x: States, shape (n, d).
        updates: Change of each state, shape (n, d).
        features: `features(x) -> (p,)` of one point, such as `Monomials`.

    Raises:
        ValueError: Shapes do not fit.

    Example:
        >>> x = jr.normal(jr.key(0), (8, 2))
        >>> rotation = x @ jnp.array([[0.0, 1.0], [-1.0, 0.0]])
        >>> features = tx.learned_energies.Monomials(2, 2)
        >>> found = tx.learned_energies.gradient_share(x, rotation, features)
        >>> bool(found.gradient < found.any), round(float(found.any), 2)
        (True, 1.0)
    """
    _check_pair(x, updates)
    slopes = jax.vmap(jax.jacfwd(features))(x)
    n, num, dim = slopes.shape
    joint = slopes.swapaxes(1, 2).reshape(n * dim, num)
    alone = jnp.column_stack([jnp.ones(n, x.dtype), slopes.reshape(n, num * dim)])
    total = jnp.sum(updates**2)
    gradient = _explained(joint, updates.reshape(n * dim, 1)) / total
    return GradientShare(gradient, _explained(alone, updates) / total)


@_checks.gate
def update_spectrum(
    x: Cloud, updates: Cloud, directions: Float[Array, "d d"] | None = None
) -> UpdateSpectrum:
    r"""Relaxation rates of paired states along each direction, such as principal directions.

    The order in which scales relax tests the spectrum of the energy, not whether there is
    one: the flow of $\frac12 x^\top A x$ relaxes each eigenvector of A at its own rate, large
    scales first or small ones first as A has it, and a rotation among directions of one
    variance, which is no gradient, leaves all rates unchanged. Whether there is an energy,
    `update_asymmetry` or `gradient_share` tell.

    Args:
        x: States, shape (n, d).
        updates: Change of each state, shape (n, d).
        directions: Orthonormal columns, shape (d, d), such as Fourier modes; by default the
            principal directions of the states, of falling variance.

    Raises:
        ValueError: Shapes do not fit.

    Example:
        >>> x = jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
        >>> spectrum = tx.learned_energies.update_spectrum(x, -0.5 * x)
        >>> [round(float(value), 2) for value in spectrum.rate]
        [0.5, 0.5]
    """
    _check_pair(x, updates)
    centred = x - jnp.mean(x, axis=0)[None, :]
    if directions is None:
        covariance = jnp.matmul(centred.T, centred, precision=_FULL) / x.shape[0]
        basis = jnp.linalg.eigh(covariance)[1][:, ::-1]
    else:
        basis = directions
    if basis.shape != (x.shape[1], x.shape[1]):
        problem = f"has shape {basis.shape}"
        _checks.reject("directions", problem, f"give shape ({x.shape[1]}, {x.shape[1]})")
    along = jnp.matmul(centred, basis, precision=_FULL)
    pushed = jnp.matmul(updates, basis, precision=_FULL)
    variance = jnp.mean(along**2, axis=0)
    rate = -jnp.mean(along * pushed, axis=0) / variance
    return UpdateSpectrum(variance, jnp.mean(pushed**2, axis=0), rate)


@_checks.gate
def linear_cka(x: Cloud, y: Float[Array, "n e"]) -> Scalar:
    r"""Linear centred kernel alignment $|Y^\top X|_F^2 / (|X^\top X|_F\,|Y^\top Y|_F)$, in [0, 1].

    It measures how alike two layers describe the same n examples, of any widths: one for rotated
    and scaled copies. About $d/n$ and more by chance: give many more examples than coordinates.
    NaN where a layer is constant. Over all pairs of layers by two `vmap`.

    Args:
        x: First layer, shape (n, d).
        y: Second layer, shape (n, e), of the same examples.

    Raises:
        ValueError: A layer is not of shape (n, d), or they have unequal numbers of examples.

    Example:
        >>> x = jr.normal(jr.key(0), (8, 2))
        >>> round(float(tx.learned_energies.linear_cka(x, 3.0 * x[:, ::-1])), 2)
        1.0

    References:
        Kornblith, Norouzi, Lee and Hinton, Similarity of neural network representations
        revisited, 2019, section 3.
    """
    _checks.points("x", x)
    _checks.points("y", y)
    _checks.same_size("y", y, "x", x)

    def overlap(a, b):
        return jnp.sum(jnp.matmul(a.T, b, precision=_FULL) ** 2)

    x, y = x - jnp.mean(x, axis=0)[None, :], y - jnp.mean(y, axis=0)[None, :]
    return overlap(x, y) / jnp.sqrt(overlap(x, x) * overlap(y, y))


def _explained(design: Float[Array, "n p"], values: Float[Array, "n k"]) -> Scalar:
    """Sum of squares of the projection on the columns' span, whatever their rank."""
    lengths = jnp.linalg.norm(design, axis=0)
    scaled = design / jnp.where(lengths > 0, lengths, 1)[None, :]
    left, sizes, _ = jnp.linalg.svd(scaled, full_matrices=False)
    cutoff = max(design.shape) * jnp.finfo(sizes.dtype).eps * sizes[0]
    spanned = jnp.matmul(left.T, values, precision=_FULL)
    return jnp.sum(jnp.where(sizes <= cutoff, 0, jnp.sum(spanned**2, axis=1)))


def _check_pair(x: Array, updates: Array) -> None:
    _checks.points("x", x)
    _checks.same_shape("updates", updates, "x", x)


def _check_states(states: Array) -> None:
    if states.ndim != 3 or 0 in states.shape or states.shape[0] < 2:
        problem = f"has shape {states.shape}"
        _checks.reject("states", problem, "give two layers or more, shape (k, n, d)")
    _checks.floating("states", states)
