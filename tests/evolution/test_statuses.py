"""What moves by the clock says how it ended, in one family of statuses."""

import inspect

import pytest

import transportx as tx

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
