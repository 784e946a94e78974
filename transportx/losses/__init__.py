"""Losses that train a network on paths: field, interpolant, batch and key in, one scalar out.

Each loss is the mean over a batch of an error at one random time per example. A law of
times, the argument `times`, draws these times; a `weight` multiplies the error at each.

A flow map u(s, t, x, args), which samples in one step or a few, is trained from data by
`mean_flow`, `improved_mean_flow`, `shortcut` or `consistency`, and from a trained field by
`flow_map_distillation`. These take a law of pairs of times, `TimePairs`, and a weight of both;
`mean_flow_parts` shows what a loss is made of.

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

from transportx.losses._consistency import consistency as consistency
from transportx.losses._denoising import denoiser_matching as denoiser_matching
from transportx.losses._denoising import latent_noise_matching as latent_noise_matching
from transportx.losses._denoising import noise_matching as noise_matching
from transportx.losses._denoising import score_matching as score_matching
from transportx.losses._denoising import sliced_score_matching as sliced_score_matching
from transportx.losses._eulerian import GuidedPathVelocity as GuidedPathVelocity
from transportx.losses._eulerian import path_velocity as path_velocity
from transportx.losses._flow_matching import flow_matching as flow_matching
from transportx.losses._guidance import drop_labels as drop_labels
from transportx.losses._importance import ImportanceTimes as ImportanceTimes
from transportx.losses._mean_flow import improved_mean_flow as improved_mean_flow
from transportx.losses._mean_flow import mean_flow as mean_flow
from transportx.losses._mean_flow_parts import MeanFlowParts as MeanFlowParts
from transportx.losses._mean_flow_parts import mean_flow_parts as mean_flow_parts
from transportx.losses._self_consistency import flow_map_distillation as flow_map_distillation
from transportx.losses._self_consistency import shortcut as shortcut
from transportx.losses._time_pairs import TimePairs as TimePairs
from transportx.losses._times import BetaTimes as BetaTimes
from transportx.losses._times import LogitNormalTimes as LogitNormalTimes
from transportx.losses._times import uniform_times as uniform_times
