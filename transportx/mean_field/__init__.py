r"""Two-layer networks as measures over their neurons, and training as a flow of these.

A `Network` is points (w_i, u_i) with weights: $f(x) = \sum_i a_i u_i \sigma(\langle w_i,
x\rangle)$. A `Risk` is a functional of that measure, whose particles are its `Neurons`;
everything in `gradient_flows` applies to it: ``flow(risk, *network.measure, ...)`` with any
dynamics, and `birth_death`. `train` is that flow read as networks; with `MiniBatches` it is
stochastic gradient descent. A `Training` records risk and dissipation, and ends in a
`tx.Status`. Memory grows with neurons plus data, not with their product. A `ResidualNetwork` is
such a measure in every layer, and `ResidualRisk` its functional.

Neurons follow $\dot\theta_i = -\nabla V(\theta_i)$, which for n of weight 1 / n is
$-n\nabla_{\theta_i}R$: the width drops out of time, so that wider networks approach a limit.

A new activation is an `AbstractActivation` with its degree, without arrays; new dynamics are
those of `gradient_flows`; a loss is any function of one prediction and target.
"""

from transportx.mean_field._activations import AbstractActivation as AbstractActivation
from transportx.mean_field._activations import Identity as Identity
from transportx.mean_field._activations import RectifiedPower as RectifiedPower
from transportx.mean_field._activations import Relu as Relu
from transportx.mean_field._activations import Tanh as Tanh
from transportx.mean_field._homogeneous import alignment as alignment
from transportx.mean_field._homogeneous import invariants as invariants
from transportx.mean_field._homogeneous import strengths as strengths
from transportx.mean_field._losses import logistic_loss as logistic_loss
from transportx.mean_field._losses import softmax_loss as softmax_loss
from transportx.mean_field._losses import square_loss as square_loss
from transportx.mean_field._moments import LinearTraining as LinearTraining
from transportx.mean_field._moments import linear_training as linear_training
from transportx.mean_field._moments import second_moments as second_moments
from transportx.mean_field._network import Network as Network
from transportx.mean_field._network import Neurons as Neurons
from transportx.mean_field._network import random_network as random_network
from transportx.mean_field._residual import ResidualNetwork as ResidualNetwork
from transportx.mean_field._residual import ResidualRisk as ResidualRisk
from transportx.mean_field._residual import conditional_wasserstein2 as conditional_wasserstein2
from transportx.mean_field._residual import random_residual_network as random_residual_network
from transportx.mean_field._risk import MiniBatches as MiniBatches
from transportx.mean_field._risk import Risk as Risk
from transportx.mean_field._train import Training as Training
from transportx.mean_field._train import as_training as as_training
from transportx.mean_field._train import train as train
