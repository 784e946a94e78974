"""Tokens as measures: attention as a field that a weighted set of tokens makes of itself.

A *mixing* turns the scores of one head into weights: `Softmax`, `L2`, `Unnormalised`,
`LinearAttention` or `SinkhornAttention`, each with the potential and the energy that go with it.
`Attention` adds the matrices Q, K, V and the heads: the field Gamma[alpha](x). `TokenField`
puts it into motion, in R^d or on the sphere, and `evolve` integrates it in depth;
`evolve_gaussian` does so for infinitely many tokens of a Gaussian law, and `MixtureContext` is
the field of infinitely many tokens of a Gaussian mixture. `SelfAttention`, `Block` and
`Transformer` are layers to train, whose fields these are. Memory grows with the number of tokens,
not with their pairs; mixings with a `layout` over a mesh share them among its devices, over which
the tokens lie at every depth.

To add a mixing, subclass `AbstractMixing`, with `__call__`, `potential` and `energy`;
`AbstractClosedMixing`, with `on_gaussian` too, if its field on a Gaussian is affine;
`AbstractOnMixtures`, with `on_mixture`, if that on a mixture has a closed form; or
`AbstractAverage`, with its scores in place of `__call__`, if it is a softmax of something.
"""

from transportx.attention._attention import Attention as Attention
from transportx.attention._attention import gradient_attention as gradient_attention
from transportx.attention._blow_up import BlowUp as BlowUp
from transportx.attention._blow_up import blow_up_depth as blow_up_depth
from transportx.attention._blow_up import softmax_blow_up as softmax_blow_up
from transportx.attention._blow_up import softmax_gaussian_map as softmax_gaussian_map
from transportx.attention._clusters import Plateau as Plateau
from transportx.attention._clusters import angle_histogram as angle_histogram
from transportx.attention._clusters import cluster_counts as cluster_counts
from transportx.attention._clusters import cluster_labels as cluster_labels
from transportx.attention._clusters import longest_plateau as longest_plateau
from transportx.attention._clusters import num_clusters as num_clusters
from transportx.attention._clusters import order_parameter as order_parameter
from transportx.attention._clusters import time_to_cluster as time_to_cluster
from transportx.attention._dynamics import TokenField as TokenField
from transportx.attention._dynamics import TokenPath as TokenPath
from transportx.attention._dynamics import evolve as evolve
from transportx.attention._dynamics import token_path as token_path
from transportx.attention._energies import AttentionEnergy as AttentionEnergy
from transportx.attention._energies import energy_rate as energy_rate
from transportx.attention._energies import squared_speed as squared_speed
from transportx.attention._gaussians import GaussianTokens as GaussianTokens
from transportx.attention._gaussians import evolve_gaussian as evolve_gaussian
from transportx.attention._gaussians import gaussian_field as gaussian_field
from transportx.attention._gaussians import gaussian_rates as gaussian_rates
from transportx.attention._layers import Block as Block
from transportx.attention._layers import SelfAttention as SelfAttention
from transportx.attention._linear import LinearAttention as LinearAttention
from transportx.attention._lipschitz import Stretch as Stretch
from transportx.attention._lipschitz import field_lipschitz_bound as field_lipschitz_bound
from transportx.attention._lipschitz import lipschitz_bound as lipschitz_bound
from transportx.attention._lipschitz import local_lipschitz as local_lipschitz
from transportx.attention._mixing import AbstractAverage as AbstractAverage
from transportx.attention._mixing import AbstractClosedMixing as AbstractClosedMixing
from transportx.attention._mixing import AbstractMixing as AbstractMixing
from transportx.attention._mixing import AbstractOnMixtures as AbstractOnMixtures
from transportx.attention._mixing import Context as Context
from transportx.attention._mixing import Taken as Taken
from transportx.attention._mixtures import MixtureContext as MixtureContext
from transportx.attention._sinkhorn import SinkhornAttention as SinkhornAttention
from transportx.attention._softmax import L2 as L2
from transportx.attention._softmax import Softmax as Softmax
from transportx.attention._sphere import normalise as normalise
from transportx.attention._sphere import tangent as tangent
from transportx.attention._transformer import Transformer as Transformer
from transportx.attention._unnormalised import Unnormalised as Unnormalised
