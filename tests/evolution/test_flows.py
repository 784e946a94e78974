"""What moves by the clock differentiates both ways at fixed steps, and says how it ended."""

import inspect

import diffrax
import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import pytest

import transportx as tx
from tests.helpers import check_derivatives
from transportx import gradient_flows as gf
from transportx import mean_field as mf
from transportx.evolution import FixedSteps

X = jr.normal(jr.key(0), (3, 2))
HEUN = FixedSteps(3, diffrax.Heun())


def test_a_gradient_flow_differentiates_both_ways():
    """In points, weights, stiffness and the last time; energies and dissipation too."""

    def recorded(x, weights, stiffness, t1):
        well = gf.Potential(eqx.Partial(lambda k, x: k * jnp.sum(x**4), stiffness))
        made = gf.flow(well, x, weights, t1=t1, steps=HEUN, times=jnp.stack([0 * t1, t1]))
        return made.x[-1], made.energy, made.dissipation

    weights = jnp.array([0.2, 0.3, 0.5])
    check_derivatives(recorded, X, weights, jnp.array(0.3), jnp.array(0.2))


def test_a_training_differentiates_both_ways():
    def trained(inner, outer, t1):
        risk = mf.Risk(X, jnp.sin(X[:, :1]))
        network = mf.Network(inner, outer, activation=mf.Tanh())
        made = mf.train(risk, network, t1=t1, steps=HEUN, times=jnp.stack([0 * t1, t1]))
        return made.final.neurons, made.risk

    check_derivatives(trained, 0.5 * X, X[:, :1], jnp.array(0.4))


ROOMS = [room for _, room in inspect.getmembers(tx, inspect.ismodule) if "._" not in room.__name__]
ANSWERS = {
    f"{room.__name__.split('.')[-1]}.{name}": answer
    for room in ROOMS
    for name, answer in inspect.getmembers(room, inspect.isclass)
    if "status" in getattr(answer, "__dataclass_fields__", {})
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
def test_every_answer_has_a_status_of_the_family_and_a_word_to_believe_it(answer):
    assert inspect.get_annotations(answer, eval_str=True)["status"] is tx.Status
    words = {"converged", "completed", "determined"} & set(dir(answer))
    assert len(words) == 1


def test_the_answers_are_all_those_that_move_or_solve():
    moving = "sampling.Trajectories sampling.Likelihood evolution.Evolution attention.TokenPath "
    moving += "attention.GaussianTokens attention.BlowUp gradient_flows.ParticleFlow "
    moving += "gradient_flows.GaussianFlow mean_field.Training mean_field.LinearTraining "
    moving += "ot.EntropicPlan mean_field.ResidualTraining gradient_flows.GridFlow"
    assert set(moving.split()) <= set(ANSWERS)
