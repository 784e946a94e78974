"""Scalars to minimise: field, interpolant, batch and key in, one number out.

A loss averages over a batch what it does for one example. To add one, write a function of
that form; `transportx.training.make_step` takes any `loss(field, batch, *, key)`.
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
