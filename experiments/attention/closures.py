"""Gaussian tokens: the closure of softmax and of L2 attention, with particles beside it."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float

import transportx as tx
from experiments.harness import config as configs
from transportx import attention as att

_MEAN, _COVARIANCE = (0.3, 0.1), ((0.6, 0.25), (0.25, 0.3))
_L2_TEMPERATURE = 1.0


@configs.section
class Gaussian:
    """Gaussian tokens in softmax and L2 attention."""

    tokens: configs.Several
    share: configs.Fraction
    steps: configs.Count
    ellipses: configs.Several


class GaussianPath(NamedTuple):
    """Moments of Gaussian tokens at recorded depths; particles, and their law, half way."""

    depths: Float[np.ndarray, " k"]
    means: Float[np.ndarray, "k d"]
    covariances: Float[np.ndarray, "k d d"]
    tokens: Float[np.ndarray, "n d"]
    middle: Float[np.ndarray, "d d"]


class Gaussians(NamedTuple):
    """Both attentions, and the blow-up of softmax: as detected, and by its formula."""

    softmax: GaussianPath
    l2: GaussianPath
    blow_up: float
    blow_up_exact: float


def spread_out(config: Gaussian, *, seed: int) -> Gaussians:
    """Softmax up to its blow-up, and L2 as far."""
    mean, covariance, identity = jnp.array(_MEAN), jnp.array(_COVARIANCE), jnp.eye(2)
    start = jr.multivariate_normal(jr.key(seed), mean, covariance, (config.tokens,))

    @jax.jit
    def blow_ups(covariance):
        softmax = att.Attention(identity, identity, identity, att.Softmax())
        exact = att.softmax_blow_up(covariance)
        steps = tx.evolution.AdaptiveSteps(1e-5, 1e-5)
        found = att.blow_up_depth(softmax, mean, covariance, horizon=2 * exact, steps=steps)
        return exact, found.depth

    exact, found = map(float, blow_ups(covariance))
    depth = config.share * exact

    @eqx.filter_jit
    def spread(mixing):
        attention = att.Attention(identity, identity, identity, mixing)
        # Every second one is drawn; that in the middle is half way.
        depths = jnp.linspace(0, depth, 2 * config.ellipses - 1)
        law = att.evolve_gaussian(attention, mean, covariance, depth=depth, depths=depths)
        # Half way only: what blows up the law is its tail, which particles do not have.
        tokens = att.evolve(attention, start, depth=depth / 2, steps=config.steps)
        drawn = (part[::2] for part in (depths, law.mean, law.covariance))
        return *drawn, tokens, law.covariance[config.ellipses - 1]

    def held(mixing):
        return GaussianPath(*map(np.asarray, spread(mixing)))

    return Gaussians(held(att.Softmax()), held(att.L2(_L2_TEMPERATURE)), found, exact)


def figures(made: Gaussians) -> dict[str, Any]:
    """Times, and how far the particles' covariance is from the closure's, relative to it."""
    return {
        "blow_up": made.blow_up,
        "blow_up_exact": made.blow_up_exact,
        "particle_error_softmax": _covariance_error(made.softmax),
        "particle_error_l2": _covariance_error(made.l2),
    }


def _covariance_error(spread: GaussianPath) -> float:
    gap = np.cov(spread.tokens.T) - spread.middle
    return float(np.linalg.norm(gap) / np.linalg.norm(spread.middle))
