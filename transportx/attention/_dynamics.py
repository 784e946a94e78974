"""Tokens in motion: depth as time, layers as Euler steps."""

from collections.abc import Callable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, ScalarLike

from transportx import _checks
from transportx.attention._attention import Attention
from transportx.attention._sphere import normalise, tangent
from transportx.sampling import flow

Tokens = Float[Array, "n d"]


class TokenField(eqx.Module):
    r"""Velocity of all tokens at once: $\dot x_i = P_{x_i}(\Gamma[\alpha](x_i) + p(x_i) - c\,x_i)$.

    A field `field(t, x, args)` whose one example is a set of tokens (n, d), and whose args
    are their weights, so that everything in `sampling` takes it. On the sphere P is the
    projection onto the tangent, evaluated at x / |x| and scaled by |x|: norms are constant
    in depth, and an Euler step is x + h P(...) on unit tokens, renormalised: a residual
    layer with layer norm.

    Attributes:
        attention: Anything called with (x, y, weights), most often `Attention`.
        pointwise: p, the MLP of a transformer; acts on one token. Nothing by default.
        decay: c; 1 with `L2` and identity matrices is mean shift.
        sphere: Whether tokens live on the unit sphere.
    """

    attention: Callable[..., Array]
    pointwise: Callable[[Array], Array] | None = None
    decay: ScalarLike = 0.0
    sphere: bool = eqx.field(static=True, default=False)

    def __call__(
        self, t: Float[Array, ""], x: Tokens, args: Float[Array, " n"] | None = None
    ) -> Tokens:
        """Velocities of tokens `x` of weights `args`."""
        if not self.sphere:
            return self._free(x, args)
        unit = normalise(x)
        norms = jnp.linalg.norm(x, axis=1, keepdims=True)
        return norms * tangent(unit, self._free(unit, args))

    def retract(self, x: Float[Array, "*k n d"]) -> Float[Array, "*k n d"]:
        """Tokens where they live: normalised on the sphere, as they are elsewhere."""
        return normalise(x) if self.sphere else x

    def _free(self, x: Tokens, weights) -> Tokens:
        velocity = self.attention(x, x, weights)
        _checks.velocity(velocity, x)
        velocity = velocity - jnp.asarray(self.decay, x.dtype) * x
        return velocity if self.pointwise is None else velocity + jax.vmap(self.pointwise)(x)


def evolve(
    field: TokenField | Attention,
    tokens: Tokens,
    weights: Float[Array, " n"] | None = None,
    *,
    depth: ScalarLike,
    num_steps: int = 100,
    solver: diffrax.AbstractSolver | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    max_steps: int = 4096,
    depths: Float[Array, " k"] | None = None,
) -> Float[Array, "*k n d"]:
    """Carry tokens through a field, `sampling.flow` of the whole set; batch with `vmap`.

    With `num_steps` and the default solver this is a transformer of that many layers of
    shared weights and residual scale depth / num_steps.

    Args:
        field: Velocity of all tokens; an `Attention` is one in R^d.
        tokens: Tokens at depth 0; on the sphere they are normalised first.
        weights: Their masses; uniform by default.
        depth: How far to go; may be traced.
        num_steps: Fixed steps; not used when tolerances are given.
        solver: As in `sampling.flow`.
        rtol: Relative tolerance of adaptive steps, which the whole set shares.
        atol: Absolute tolerance of those.
        max_steps: Adaptive steps at most; more, as near a blow-up, give NaN.
        depths: Depths to record, rising from 0 to `depth`.

    Returns:
        Tokens at `depth`; or, given `depths`, of shape (k, n, d).

    Raises:
        ValueError: As `sampling.flow` and `Attention`, or `depth` is a Python number that is
            not positive.

    Differentiation:
        Reverse mode, as `sampling.flow`: in tokens, weights, depth and all matrices.
    """
    _checks.points("tokens", tokens)
    _checks.positive("depth", depth)
    field = TokenField(field) if isinstance(field, Attention) else field
    length = jnp.asarray(depth, tokens.dtype)

    def scaled(t, x, args):
        return length * field(length * t, x, args)

    if weights is not None:
        _checks.same_size("weights", weights, "tokens", tokens)
        weights = weights[None]
    moved = flow(
        scaled,
        field.retract(tokens)[None],
        weights,
        num_steps=num_steps,
        solver=solver,
        rtol=rtol,
        atol=atol,
        max_steps=max_steps,
        times=None if depths is None else jnp.asarray(depths, length.dtype) / length,
    )
    return field.retract(moved[0] if depths is None else moved[:, 0])
