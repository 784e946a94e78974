"""Additive noise: a Brownian motion in every coordinate, at a level that may depend on time."""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from transportx import _checks

# The bits of a NaN, which no time has: what areas are drawn from, beside increments.
_NO_TIME = 0xFFFFFFFF


@_checks.gate
class Noise(eqx.Module):
    r"""The noise $s(t)\,dW$ of a stochastic equation, with W a Brownian motion per coordinate.

    Attributes:
        level: The level s, `level(t, args) -> scalar`, in units of the state over the root of time.
        key: Randomness.

    Example:
        >>> noise = tx.evolution.Noise(lambda t, args: 1.0, jr.key(0))
        >>> made = tx.evolution.integrate(
        ...     lambda t, y, args: 0 * y, jnp.zeros(500), steps=10, noise=noise
        ... )
        >>> round(float(made.states.std()), 1)  # W_1 is standard normal
        1.0
    """

    level: Callable[[Float[Array, ""], PyTree[Array]], Float[Array, ""]]
    key: PRNGKeyArray

    @_checks.gate
    def term(self, state: PyTree[Array]) -> diffrax.AbstractTerm:
        """The term of a stochastic equation that diffrax's solvers integrate.

        Args:
            state: A state like those to come: its shapes and dtypes are those of the Brownian
                motion.
        """
        return _Additive(self.level, self.key, jax.eval_shape(lambda: state))


class _Additive(diffrax.AbstractTerm):
    """Increments depend only on where a step begins: a repeated step draws the same ones."""

    level: Callable[..., Array]
    key: PRNGKeyArray
    like: PyTree[jax.ShapeDtypeStruct] = eqx.field(static=True)

    def vf(self, t: Any, y: Any, args: Any) -> Any:
        dtype = jax.tree.leaves(self.like)[0].dtype
        return jnp.asarray(self.level(jnp.asarray(t, dtype), args), dtype)

    # The signature is diffrax's.
    def contr(self, t0: Any, t1: Any, use_levy: bool = False, **_: Any) -> Any:  # noqa: FBT001, FBT002
        begun = jax.lax.bitcast_convert_type(jnp.asarray(t0, jnp.float32), jnp.uint32)
        length = jnp.asarray(t1 - t0)
        increments = self._normal(jr.fold_in(self.key, begun), jnp.sqrt(length))
        if not use_levy:
            return increments
        areas = jr.split(jr.fold_in(jr.fold_in(self.key, _NO_TIME), begun))
        # Variances of the space-time and the space-time-time area, independent of the increment.
        first, second = (
            self._normal(key, jnp.sqrt(length / ratio))
            for key, ratio in zip(areas, (12, 720), strict=True)
        )
        return diffrax.SpaceTimeTimeLevyArea(dt=length, W=increments, H=first, K=second)

    def prod(self, vf: Any, control: Any) -> Any:
        return jax.tree.map(lambda part: vf.astype(part.dtype) * part, control)

    def _normal(self, key, deviation) -> PyTree[Array]:
        leaves, structure = jax.tree.flatten(self.like)
        keys = [key] if len(leaves) == 1 else jr.split(key, len(leaves))
        drawn = [
            deviation.astype(leaf.dtype) * jr.normal(key, leaf.shape, leaf.dtype)
            for key, leaf in zip(keys, leaves, strict=True)
        ]
        return jax.tree.unflatten(structure, drawn)
