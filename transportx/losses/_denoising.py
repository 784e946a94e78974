"""Losses of networks that predict target, noise or score instead of the velocity.

The minimiser of each determines that of `flow_matching`: `fields.VelocityFrom` turns the
trained network into the velocity field. They weigh the times differently;
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
    r"""Denoiser loss: the mean squared error between a network and the target of each path.

    $\frac1b\sum_i |D(t_i, x_{t_i}, \mathrm{args}_i) - x_{1,i}|^2 / d$, one time per example. Its
    minimiser is the denoiser $E[x_1 \mid x_t = x, \mathrm{args}]$, for any source and any coupling.

    Args:
        network: `network(t, x, args) -> prediction of x1` of one example, of the shape of x.
        path: Interpolant.
        x0: Source examples, shape (b, ...), paired with `x1` row by row by a coupling.
        x1: Target examples, of the same shape.
        args: Conditions, a pytree of arrays with leading axis b, or None.
        key: Randomness of the times and of the path's noise.
        times: `times(num, dtype, key=key)`, the law of the times: `uniform_times`,
            `LogitNormalTimes`, `BetaTimes` or your own.
        weight: Weight of an error at time t in the mean, `weight(t) -> scalar`; 1 by default.

    Raises:
        ValueError: The batch is empty, `x0`, `x1` or `args` do not match, or `network`
            returns another shape than that of its point.

    Differentiation:
        With respect to the parameters of `network` and of `path`, x0, x1 and args.

    Example:
        >>> def network(t, x, args):
        ...     return jnp.zeros_like(x)
        >>> x0, x1 = jr.normal(jr.key(0), (4, 2)), 3 * jnp.ones((4, 2))
        >>> path = tx.interpolants.Linear()
        >>> float(tx.losses.denoiser_matching(network, path, x0, x1, key=jr.key(1)))
        9.0

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
    r"""Noise-prediction loss: regress a network on the noise of unit variance in each point.

    For sources from N(0, s^2 I), s = `source_scale`, that are independent of the targets, the
    noise of $x_t$ is $\epsilon = (\alpha x_0 + \gamma z) / \sigma_t$ with
    $\sigma_t^2 = \alpha^2 s^2 + \gamma^2$. The loss is the mean of
    $|\epsilon_\theta(t, x_t) - \epsilon|^2 / d$, one time per example; its minimiser is
    $E[\epsilon \mid x_t = x, \mathrm{args}]$.

    Args:
        network: `network(t, x, args) -> prediction of the noise` of one example, of the shape of x.
        path: Interpolant.
        x0: Source examples, shape (b, ...), drawn from N(0, source_scale^2 I).
        x1: Target examples, of the same shape.
        args: Conditions, a pytree of arrays with leading axis b, or None.
        key: Randomness of the times and of the path's noise.
        times: `times(num, dtype, key=key)`, the law of the times: `uniform_times`,
            `LogitNormalTimes`, `BetaTimes` or your own.
        weight: Weight of an error at time t in the mean, `weight(t) -> scalar`; 1 by default.
        source_scale: Standard deviation of the source in each coordinate, positive.

    Raises:
        ValueError: The batch is empty, `x0`, `x1` or `args` do not match, or `network`
            returns another shape than that of its point.

    Differentiation:
        With respect to the parameters of `network` and of `path`, x0, x1, `source_scale` and args.

    Example:
        >>> x0, x1 = jr.normal(jr.key(0), (4, 2)), jnp.zeros((4, 2))
        >>> def network(t, x, args):
        ...     return x / (1 - t)  # the noise itself, where all targets are zero
        >>> path = tx.interpolants.Linear()
        >>> loss = tx.losses.noise_matching(network, path, x0, x1, key=jr.key(1))
        >>> round(float(loss), 3)
        0.0

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
    r"""Denoising score matching loss: the mean of $|\sigma_t s(t, x_t) + \epsilon|^2 / d$.

    The squared error of the score with weight $\sigma_t^2$; the noise $\epsilon$ and its
    deviation $\sigma_t$ are those of `noise_matching`. The minimiser is the score
    $\nabla \log p_t$ of the marginals, for sources from N(0, source_scale^2 I) that are
    independent of the targets.

    Args:
        network: `network(t, x, args) -> score` of one example, of the shape of x.
        path: Interpolant.
        x0: Source examples, shape (b, ...), drawn from N(0, source_scale^2 I).
        x1: Target examples, of the same shape.
        args: Conditions, a pytree of arrays with leading axis b, or None.
        key: Randomness of the times and of the path's noise.
        times: `times(num, dtype, key=key)`, the law of the times: `uniform_times`,
            `LogitNormalTimes`, `BetaTimes` or your own.
        weight: Weight of an error at time t in the mean, `weight(t) -> scalar`; 1 by default.
        source_scale: Standard deviation of the source in each coordinate, positive.

    Raises:
        ValueError: The batch is empty, `x0`, `x1` or `args` do not match, or `network`
            returns another shape than that of its point.

    Differentiation:
        With respect to the parameters of `network` and of `path`, x0, x1, `source_scale` and args.

    Example:
        >>> x0, x1 = jr.normal(jr.key(0), (4, 2)), jnp.zeros((4, 2))
        >>> def network(t, x, args):
        ...     return -x / (1 - t) ** 2  # the score, where all targets are zero
        >>> path = tx.interpolants.Linear()
        >>> loss = tx.losses.score_matching(network, path, x0, x1, key=jr.key(1))
        >>> round(float(loss), 3)
        0.0

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
    r"""Sliced score matching: the mean of $(|s|^2 / 2 + \nabla\cdot s) / d$ along the paths.

    It needs positions only, so any source, coupling and path will do. The divergence is
    estimated by `num_probes` random signs, with one forward derivative each. The loss is not a
    square: at its minimum, the score, it is minus half the mean squared score over d.

    Args:
        network: `network(t, x, args) -> score` of one example, of the shape of x.
        path: Interpolant.
        x0: Source examples, shape (b, ...), paired with `x1` row by row by a coupling.
        x1: Target examples, of the same shape.
        args: Conditions, a pytree of arrays with leading axis b, or None.
        key: Randomness of the times and of the path's noise, and of the probes.
        times: `times(num, dtype, key=key)`, the law of the times: `uniform_times`,
            `LogitNormalTimes`, `BetaTimes` or your own.
        weight: Weight of an error at time t in the mean, `weight(t) -> scalar`; 1 by default.
        num_probes: Random signs per example, at least 1; the variance of the estimate falls as
            1 / num_probes and its cost grows with it.

    Raises:
        ValueError: The batch is empty, `x0`, `x1` or `args` do not match, `num_probes` is not
            a positive integer, or `network`
            returns another shape than that of its point.

    Differentiation:
        With respect to the parameters of `network` and of `path`, x0, x1 and args.

    Example:
        >>> def network(t, x, args):
        ...     return -x
        >>> x = jnp.ones((4, 2))
        >>> path = tx.interpolants.Linear()
        >>> float(tx.losses.sliced_score_matching(network, path, x, x, key=jr.key(0)))  # 1/2 - 1
        -0.5

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
    r"""Regress a network on the latent noise z of a path: its minimiser is $E[z \mid x_t = x]$.

    This is the second network of a stochastic interpolant between any two laws: the score is
    $-E[z \mid x_t] / \gamma$, and `flow_matching` trains the first network. The loss is the mean of
    $|\eta(t, x_t, \mathrm{args}) - z|^2 / d$, one time and one z per example.

    Args:
        network: `network(t, x, args) -> prediction of z` of one example, of the shape of x.
        path: Interpolant with noise, `path.has_noise`.
        x0: Source examples, shape (b, ...), paired with `x1` row by row by a coupling.
        x1: Target examples, of the same shape.
        args: Conditions, a pytree of arrays with leading axis b, or None.
        key: Randomness of the times and of the path's noise.
        times: `times(num, dtype, key=key)`, the law of the times: `uniform_times`,
            `LogitNormalTimes`, `BetaTimes` or your own.
        weight: Weight of an error at time t in the mean, `weight(t) -> scalar`; 1 by default.

    Raises:
        ValueError: The batch is empty, `x0`, `x1` or `args` do not match, `path` has no noise,
            or `network`
            returns another shape than that of its point.

    Differentiation:
        With respect to the parameters of `network` and of `path`, x0, x1 and args.

    Example:
        >>> def network(t, x, args):
        ...     return x / jnp.sqrt(t * (1 - t))  # z itself, where both ends are zero
        >>> path = tx.interpolants.BrownianBridge(1.0)
        >>> zeros = jnp.zeros((4, 2))
        >>> loss = tx.losses.latent_noise_matching(network, path, zeros, zeros, key=jr.key(0))
        >>> round(float(loss), 3)
        0.0

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
