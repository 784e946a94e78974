r"""Losses of networks that predict target, noise or score instead of the velocity.

Each has the same minimiser as `flow_matching`, said in other words: `fields.VelocityFrom`
turns the trained network into the velocity field. They weigh the times differently;
`flow_matching(VelocityFrom(network, ...), ...)` weighs them as velocities.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, ScalarLike

from transportx import _checks, _numbers
from transportx.interpolants import AbstractInterpolant, noised_target
from transportx.losses._regression import (
    Weight,
    answer,
    average,
    regression,
    unweighted,
    weighed,
)
from transportx.losses._times import Times, uniform_times

Batch = Float[Array, "b ..."]


@_checks.gate
def denoiser_matching(
    network: Callable[..., Array],
    path: AbstractInterpolant,
    x0: Batch,
    x1: Batch,
    args: PyTree[Array] = None,
    *,
    key: PRNGKeyArray,
    times: Times = uniform_times,
    weight: Weight = unweighted,
) -> Float[Array, ""]:
    r"""Regress a network on the target: its minimiser is $E[x_1 | x_t]$.

    Arguments, errors and differentiation as `flow_matching`; any source and coupling.

    References:
        Karras et al., Elucidating the design space of diffusion-based generative models,
        2022, equation 2.
    """

    def target(t, x0, x1, z):
        return x1

    return regression(network, target, path, x0, x1, args, key=key, times=times, weight=weight)


@_checks.gate
def noise_matching(
    network: Callable[..., Array],
    path: AbstractInterpolant,
    x0: Batch,
    x1: Batch,
    args: PyTree[Array] = None,
    *,
    key: PRNGKeyArray,
    times: Times = uniform_times,
    weight: Weight = unweighted,
    source_scale: ScalarLike = 1.0,
) -> Float[Array, ""]:
    r"""Regress a network on the noise of unit variance, $(\alpha x_0 + \gamma z) / \sigma_t$.

    For sources drawn from N(0, source_scale^2 I), independent of the targets. Other arguments as
    `flow_matching`.

    References:
        Ho, Jain and Abbeel, Denoising diffusion probabilistic models, 2020, equation 14.
    """

    def target(t, x0, x1, z):
        return _noise(path, t, x0, z, source_scale)[0]

    return regression(network, target, path, x0, x1, args, key=key, times=times, weight=weight)


@_checks.gate
def score_matching(
    network: Callable[..., Array],
    path: AbstractInterpolant,
    x0: Batch,
    x1: Batch,
    args: PyTree[Array] = None,
    *,
    key: PRNGKeyArray,
    times: Times = uniform_times,
    weight: Weight = unweighted,
    source_scale: ScalarLike = 1.0,
) -> Float[Array, ""]:
    r"""Denoising score matching, weighed by $\sigma_t^2$: mean of $|\sigma_t s + \epsilon|^2$.

    Its minimiser is the score of the marginals. Arguments as `noise_matching`.

    References:
        Vincent, A connection between score matching and denoising autoencoders, 2011; Song
        et al., 2021, equation 7.
    """

    def error(t, x0, x1, z, args):
        position = path.position(t, x0, x1, z)
        noise, sigma = _noise(path, t, x0, z, source_scale)
        score, noise = answer(network, t, position, args, noise)
        return weighed(weight, t, jnp.mean((sigma.astype(score.dtype) * score + noise) ** 2))

    return average(error, path, x0, x1, args, key=key, times=times)


@_checks.gate
def sliced_score_matching(
    network: Callable[..., Array],
    path: AbstractInterpolant,
    x0: Batch,
    x1: Batch,
    args: PyTree[Array] = None,
    *,
    key: PRNGKeyArray,
    times: Times = uniform_times,
    weight: Weight = unweighted,
    num_probes: int = 1,
) -> Float[Array, ""]:
    r"""Implicit score matching: mean of $|s|^2 / 2 + \nabla\cdot s$, over d.

    It needs positions alone, so that any source, coupling and path will do. The divergence
    is estimated along `num_probes` random signs, each one forward derivative. Not a square:
    negative at its minimum, where it is minus half the mean of the squared score.

    References:
        Hyvarinen, Estimation of non-normalized statistical models by score matching, 2005;
        Song, Garg, Shi and Ermon, Sliced score matching, 2019 (variance reduced).
    """
    _checks.count("num_probes", num_probes)
    path_key, probe_key = jr.split(key)

    def error(t, x0, x1, z, args_and_key):
        args, key = args_and_key
        position = path.position(t, x0, x1, z)

        def slope(probe):
            score, moved = jax.jvp(lambda x: network(t, x, args), (position,), (probe,))
            _checks.velocity(score, position)
            score, moved, probe = _numbers.matched(score, moved, probe)
            return jnp.mean(score**2) / 2 + jnp.mean(probe * moved)

        probes = jr.rademacher(key, (num_probes, *position.shape), position.dtype)
        return weighed(weight, t, jnp.mean(jax.vmap(slope)(probes)))

    conditions = args, jr.split(probe_key, x1.shape[0])
    return average(error, path, x0, x1, conditions, key=path_key, times=times)


@_checks.gate
def latent_noise_matching(
    network: Callable[..., Array],
    path: AbstractInterpolant,
    x0: Batch,
    x1: Batch,
    args: PyTree[Array] = None,
    *,
    key: PRNGKeyArray,
    times: Times = uniform_times,
    weight: Weight = unweighted,
) -> Float[Array, ""]:
    r"""Regress a network on a path's own noise z: its minimiser is $E[z | x_t]$.

    The second network of a stochastic interpolant between any two laws: the score is
    $-E[z | x_t] / \gamma$, and `flow_matching` trains the first. Arguments as that.

    Raises:
        ValueError: The path has no noise; or as `flow_matching`.

    References:
        Albergo, Boffi and Vanden-Eijnden, Stochastic Interpolants, 2023, equation 2.17.
    """
    if not path.has_noise:
        _checks.reject("path", "has no noise", "wrap it, as in Noised(path, BridgeNoise(1.0))")

    def target(t, x0, x1, z):
        return z

    return regression(network, target, path, x0, x1, args, key=key, times=times, weight=weight)


def _noise(path, t, x0, z, source_scale) -> tuple[Array, Array]:
    """Noise of unit variance in x_t, and its standard deviation."""
    alpha, _, gamma = path.coefficients(t)
    sigma = noised_target(path, t, source_scale).sigma
    return (alpha * x0 + gamma * z) / sigma, sigma
