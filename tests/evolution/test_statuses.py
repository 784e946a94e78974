"""What solves or moves says how it ended, in one family of statuses."""

import ast
import inspect
import re

import jax.numpy as jnp
import jax.random as jr
import pytest

import transportx as tx
from tests import public

ROOMS = [room for _, room in inspect.getmembers(tx, inspect.ismodule) if "._" not in room.__name__]
ANSWERS = {
    f"{room.__name__.split('.')[-1]}.{name}": answer
    for room in ROOMS
    for name, answer in inspect.getmembers(room, inspect.isclass)
    if "status" in getattr(answer, "__dataclass_fields__", {}) or hasattr(answer, "status")
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
def test_every_answer_has_a_status_of_the_family_and_a_word_to_believe_it(answer):
    given = inspect.getattr_static(answer, "status", None)
    if isinstance(given, property):
        assert given.fget is not None
        kind = inspect.get_annotations(given.fget, eval_str=True)["return"]
    else:
        kind = inspect.get_annotations(answer, eval_str=True)["status"]
    assert kind is tx.Status
    words = {"converged", "completed", "determined"} & set(dir(answer))
    assert len(words) == 1


# Functions that answer with arrays alone, each with the one that also gives a status.
WITH_STATUS = {
    "attention.evolve": "attention.token_path",
    "fields.least_squares": "fields.solve_least_squares",
    "fields.project_onto_gradients": "fields.solve_least_squares",
    "metrics.normalized_path_energy": "sampling.trajectories",
    "metrics.path_energy": "sampling.trajectories",
    "metrics.straightness": "sampling.trajectories",
    "ot.soft_rank": "ot.sorting_plan",
    "ot.soft_sort": "ot.sorting_plan",
    "sampling.diffuse": "sampling.diffusion_trajectories",
    "sampling.exponential_flow": "sampling.exponential_trajectories",
    "sampling.few_step": "sampling.few_step_trajectories",
    "sampling.few_step_log_prob": "sampling.few_step_likelihood",
    "sampling.flow": "sampling.trajectories",
    "sampling.hutchinson_log_prob": "sampling.hutchinson_likelihood",
    "sampling.log_prob": "sampling.likelihood",
    "sampling.predictor_corrector": "sampling.predictor_corrector_trajectories",
}
# Functions beside a loop that need no status, by reason.
WITHOUT = {
    "a number of operations that is known beforehand": """
        attention.angle_histogram attention.cluster_counts attention.cluster_labels
        attention.field_lipschitz_bound attention.gaussian_field attention.gaussian_rates
        attention.lipschitz_bound attention.longest_plateau attention.num_clusters
        attention.order_parameter attention.softmax_blow_up attention.softmax_gaussian_map
        attention.time_to_cluster control.descend control.gaussian_values control.simulate
        gradient_flows.resample
        mean_field.conditional_wasserstein2
        mean_field.random_network mean_field.random_residual_network mean_field.second_moments
        ot.assignment ot.gaussian_potentials sampling.bits_per_dimension""",
    "an answer that holds the plan, and its status": "gradient_flows.entropic_jko_step",
    "raises on the host, where it runs": "training.fit",
}
# What a file that iterates has in it.
LOOPS = re.compile(
    r"while_loop|lax\.scan|[^m]\.linear_solve|integrate(_batch|_until)?\(|fixed_steps\("
    r"|trajectories\(| flow\(|(ot\.|return | = )solve(_symmetric)?\("
)


def _answer_of(thing):
    """The class that a public function returns, by its annotation."""
    returns = getattr(thing.node, "returns", None)
    return ast.unparse(returns).split("[")[0].split(".")[-1] if returns else ""


def test_every_function_that_iterates_has_a_status_that_one_can_ask_for():
    answers = {name.split(".")[-1] for name in ANSWERS}
    known = {*WITH_STATUS, *(word for words in WITHOUT.values() for word in words.split())}
    silent = [
        thing.name
        for thing in public.everything()
        if isinstance(thing.node, ast.FunctionDef)
        and LOOPS.search(thing.file.read_text())
        and _answer_of(thing) not in answers
        and thing.name not in known
    ]
    assert not silent
    iterating = {t.name for t in public.everything() if LOOPS.search(t.file.read_text())}
    stale = [name for name in known - WITH_STATUS.keys() if name not in iterating]
    assert not stale


def test_the_sibling_of_a_simple_call_answers_with_a_status():
    answers = {thing.name: _answer_of(thing) for thing in public.everything()}
    for simple, sibling in WITH_STATUS.items():
        assert answers[sibling] in {name.split(".")[-1] for name in ANSWERS}, simple


BOX = tx.fields.Box((4,), (1.0,))
SPREAD = jnp.array([[0.1, 0.2], [0.3, 0.1], [jnp.nan, 0.4]])


def _still(t, x, args=None):
    return -x


def _base(x):
    return -jnp.sum(x**2)


_NOISY = {"score": _still, "key": jr.key(0), "steps": 2}
_BACK = {"base_log_prob": _base, "steps": 2}
_SHORT = {"path": tx.interpolants.Linear(), "steps": 2, "t0": 0.1, "t1": 0.9}
# (simple call, sibling) on examples of which the last is NaN.
PAIRS = {
    "flow": (tx.sampling.flow, tx.sampling.trajectories, {"steps": 2}),
    "diffuse": (
        tx.sampling.diffuse,
        tx.sampling.diffusion_trajectories,
        _NOISY | {"noise": lambda t: 1 - t},
    ),
    "exponential": (tx.sampling.exponential_flow, tx.sampling.exponential_trajectories, _SHORT),
    "log_prob": (tx.sampling.log_prob, tx.sampling.likelihood, _BACK),
    "hutchinson": (
        tx.sampling.hutchinson_log_prob,
        tx.sampling.hutchinson_likelihood,
        _BACK | {"key": jr.key(1)},
    ),
}


@pytest.mark.parametrize(("simple", "asked", "options"), PAIRS.values(), ids=PAIRS.keys())
def test_an_example_that_is_lost_is_nan_and_says_so_alone(simple, asked, options):
    lost = jnp.isnan(simple(_still, SPREAD, **options).reshape(3, -1))
    assert lost.any(1).tolist() == [False, False, True]
    answer = asked(_still, SPREAD, **options)
    assert answer.completed.tolist() == [True, True, False]
    assert bool((answer.status == tx.Status.NON_FINITE)[2])


def test_one_lost_example_fails_a_batch_that_shares_its_step():
    answer = tx.sampling.predictor_corrector_trajectories(_still, SPREAD, **_NOISY)
    assert not jnp.any(answer.completed)
    assert jnp.isnan(answer.x).all()


@pytest.mark.parametrize(
    ("density", "max_steps", "status"),
    [
        ([1.0, 2.0, 2.0, 1.0], 100, tx.Status.CONVERGED),
        ([1.0, 2.0, 2.0, 1.0], 1, tx.Status.MAX_STEPS),
        ([1.0, jnp.nan, 2.0, 1.0], 100, tx.Status.NON_FINITE),
        ([1.0, 2.0, -2.0, 1.0], 100, tx.Status.INFEASIBLE),
    ],
)
def test_a_field_of_least_energy_says_why_it_is_nan(density, max_steps, status):
    rate = jnp.array([-1.0, 0.0, 0.5, 0.5])
    made = tx.fields.solve_least_squares(BOX, jnp.array(density), rate, max_steps=max_steps)
    assert bool(made.status == status)
    assert bool(jnp.isnan(made.velocity[0]).all()) == (status != tx.Status.CONVERGED)


def test_a_sort_that_did_not_converge_says_why():
    x, solver = jnp.array([3.0, 1.0, 2.0]), tx.ot.Sinkhorn(max_steps=1)
    assert jnp.isnan(tx.ot.soft_sort(x, solver=solver)).all()
    assert bool(tx.ot.sorting_plan(x, solver=solver).status == tx.Status.MAX_STEPS)
