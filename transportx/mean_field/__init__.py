r"""Two-layer networks as measures over their neurons, and training as a flow of these.

A `Network` is points (w_i, u_i) with weights: $f(x) = \sum_i a_i u_i \sigma(\langle w_i,
x\rangle)$. A `Risk` is a functional of that measure, with value, first variation V and
Wasserstein gradient. `train` lets neurons descend it, by `Wasserstein`, with noise by `Langevin`
or with weights that react by `BirthDeath`; `sgd` takes plain gradient steps on the same clock,
`birth_death` draws neurons anew. A `Training` records risk and dissipation, and ends in a
`tx.Status`. Nothing here holds all pairs of many neurons and many data. A
`ResidualNetwork` is such a measure in every layer, and `train_residual` its descent.

Neurons follow $\dot\theta_i = -\nabla V(\theta_i)$, which for n of weight 1 / n is
$-n\nabla_{\theta_i}R$: the width drops out of time, so that wider networks approach a limit.

A new activation is an `AbstractActivation` with its degree; new dynamics are an
`AbstractDynamics`; a loss is any function of one prediction and target.
"""

from transportx.mean_field._activations import AbstractActivation as AbstractActivation
from transportx.mean_field._activations import Linear as Linear
from transportx.mean_field._activations import Power as Power
from transportx.mean_field._activations import Relu as Relu
from transportx.mean_field._activations import Tanh as Tanh
from transportx.mean_field._birth_death import birth_death as birth_death
from transportx.mean_field._birth_death import resample as resample
from transportx.mean_field._descent import sgd as sgd
from transportx.mean_field._dynamics import AbstractDynamics as AbstractDynamics
from transportx.mean_field._dynamics import BirthDeath as BirthDeath
from transportx.mean_field._dynamics import Langevin as Langevin
from transportx.mean_field._dynamics import Wasserstein as Wasserstein
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
from transportx.mean_field._residual import ResidualTraining as ResidualTraining
from transportx.mean_field._residual import conditional_wasserstein2 as conditional_wasserstein2
from transportx.mean_field._residual import random_residual_network as random_residual_network
from transportx.mean_field._residual import train_residual as train_residual
from transportx.mean_field._risk import Risk as Risk
from transportx.mean_field._train import Training as Training
from transportx.mean_field._train import train as train
