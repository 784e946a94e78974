"""A law of times that learns where a loss is large."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray, ScalarLike

from transportx import _checks, _numbers
from transportx.losses._times import drawn_in, inside


@_checks.gate
class ImportanceTimes(eqx.Module):
    r"""Importance sampling of times: a histogram that follows the root mean square of the loss.

    The density in bin j is $q_j = u + (1 - u)\, \sqrt{m_j} / \mathrm{mean} \sqrt m$, with m the
    mean squared losses seen there. With the weight 1/q a loss has the mean that it has
    under uniform times, whatever m is: unbiased. Its variance is least, among laws that are
    constant in each bin, at the true m and u = 0.

    Example:
        >>> times = tx.losses.ImportanceTimes(jnp.ones(2))  # uniform to begin with
        >>> t, losses = jnp.array([0.1, 0.9]), jnp.array([1.0, 3.0])  # losses without the weight
        >>> times = times.updated(t, losses, rate=1.0)
        >>> times.mean_squares
        Array([1., 9.], dtype=float32)
        >>> round(float(times.density(t[1])), 2)  # 0.1 + 0.9 * 3 / 2
        1.45
        >>> def field(t, x, args):
        ...     return x
        >>> x0, x1 = jnp.zeros((4, 2)), jnp.ones((4, 2))
        >>> value = tx.losses.flow_matching(
        ...     field, tx.interpolants.Linear(), x0, x1,
        ...     key=jr.key(0), times=times, weight=times.weight,
        ... )
        >>> value.shape
        ()

    Attributes:
        mean_squares: m, one number per bin of equal width, shape (k,), zero or positive; all of
            them zero mean a uniform law. A negative number or NaN turns all times into NaN.
        uniform_share: u, in (0, 1], the weight of the uniform law; it bounds 1/q by 1/u.

    References:
        Nichol and Dhariwal, Improved denoising diffusion probabilistic models, 2021,
        equation 18.
    """

    mean_squares: Float[Array, " k"]
    uniform_share: ScalarLike = 0.1

    def __check_init__(self):
        if self.mean_squares.ndim != 1 or self.mean_squares.size == 0:
            problem = f"has shape {self.mean_squares.shape}"
            _checks.reject("mean_squares", problem, "give at least one bin, shape (k,)")
        _checks.floating("mean_squares", self.mean_squares)
        _checks.positive("uniform_share", self.uniform_share)
        _checks.fraction("uniform_share", self.uniform_share)

    @_checks.gate
    def __call__(self, num: int, dtype: Any, *, key: PRNGKeyArray) -> Float[Array, " b"]:
        """Draw `num` independent times in the open interval (0, 1).

        Args:
            num: Number of times.
            dtype: Floating-point dtype; for halves times are drawn in float32 and rounded.
            key: Randomness.
        """
        wide = drawn_in(num, dtype)
        density = self._density().astype(wide)
        reached = jnp.concatenate([jnp.zeros(1, wide), jnp.cumsum(density)])
        edges = jnp.linspace(0, 1, reached.size, dtype=wide)
        levels = jr.uniform(key, (num,), wide)
        return inside(jnp.interp(levels, reached / reached[-1], edges), dtype)

    @_checks.gate
    def density(self, t: Float[Array, ""]) -> Float[Array, ""]:
        """The density of the law at a time; NaN outside of [0, 1]."""
        known = (t >= 0) & (t <= 1)
        return jnp.where(known, self._density()[self._bin(t)], jnp.nan).astype(t.dtype)

    @_checks.gate
    def weight(self, t: Float[Array, ""]) -> Float[Array, ""]:
        """The weight 1/q of a loss at a time, which makes the mean of weighted losses unbiased."""
        return 1 / self.density(t)

    @_checks.gate
    def updated(
        self, t: Float[Array, " b"], losses: Float[Array, " b"], *, rate: ScalarLike = 0.1
    ) -> "ImportanceTimes":
        """The law after these losses were seen at these times, each loss without its weight.

        The mean squares of bins with losses move by `rate` towards those of the batch; other
        bins stay. Losses whose squares are not finite, and times outside of [0, 1], are
        left out: one of them would be remembered for ever.

        Args:
            t: Times, shape (b,).
            losses: The unweighted loss at each time, shape (b,).
            rate: Step towards the batch, in [0, 1]; outside of it the law becomes NaN.
        """
        _checks.same_shape("losses", losses, "t", t)
        _checks.fraction("rate", rate)
        before, losses, t = _numbers.widened((self.mean_squares, losses, t))
        bins, zero = jax.vmap(self._bin)(t), jnp.zeros_like(before)
        each = losses.astype(zero.dtype) ** 2
        counted = jnp.isfinite(each) & (t >= 0) & (t <= 1)
        squares = zero.at[bins].add(jnp.where(counted, each, 0))
        counts = zero.at[bins].add(counted.astype(zero.dtype))
        gap = squares / jnp.maximum(counts, 1) - before
        rate = jnp.asarray(rate, zero.dtype)
        moved = before + jnp.where((rate >= 0) & (rate <= 1), rate, jnp.nan) * gap
        after = jnp.where(counts > 0, moved, before).astype(self.mean_squares.dtype)
        return ImportanceTimes(after, self.uniform_share)

    def _density(self) -> Float[Array, " k"]:
        roots = jnp.sqrt(_numbers.widened(self.mean_squares))
        share = jnp.asarray(self.uniform_share, roots.dtype)
        share = jnp.where((share > 0) & (share <= 1), share, jnp.nan)
        mean = jnp.mean(roots)
        relative = jnp.where(mean == 0, 1, roots / jnp.where(mean == 0, 1, mean))
        return share + (1 - share) * relative

    def _bin(self, t: Float[Array, ""]) -> Array:
        last = self.mean_squares.size - 1
        return jnp.clip(jnp.floor(_numbers.widened(t) * (last + 1)).astype(int), 0, last)
