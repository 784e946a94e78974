"""Losses that train a network on paths: field, interpolant, batch and key in, one scalar out.

Each loss is the mean over a batch of an error at one random time per example. A law of
times, the argument `times`, draws these times; a `weight` multiplies the error at each.
To add a loss, write a function of that form; `transportx.training.make_step` takes any
`loss(field, batch, *, key)`.

Example:
    >>> def field(t, x, args):
    ...     return jnp.ones_like(x)
    >>> x0 = jnp.zeros((4, 2))
    >>> loss = tx.losses.flow_matching
    >>> float(loss(field, tx.interpolants.Linear(), x0, x0 + 3.0, key=jr.key(0)))
    4.0
"""

from transportx.losses._denoising import denoiser_matching as denoiser_matching
from transportx.losses._denoising import latent_noise_matching as latent_noise_matching
from transportx.losses._denoising import noise_matching as noise_matching
from transportx.losses._denoising import score_matching as score_matching
from transportx.losses._denoising import sliced_score_matching as sliced_score_matching
from transportx.losses._flow_matching import flow_matching as flow_matching
from transportx.losses._guidance import drop_labels as drop_labels
from transportx.losses._importance import ImportanceTimes as ImportanceTimes
from transportx.losses._times import BetaTimes as BetaTimes
from transportx.losses._times import LogitNormalTimes as LogitNormalTimes
from transportx.losses._times import uniform_times as uniform_times
