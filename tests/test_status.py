"""The family of statuses: which case counts, what a rise is, and who uses it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import transportx as tx
from transportx._status import Status, judge, rose


def test_the_first_case_that_holds_is_the_status_also_when_batched():
    def judged(broken, met):
        return judge(
            (broken, Status.NON_FINITE), (met, Status.CONVERGED), otherwise=Status.MAX_STEPS
        )

    broken, met = jnp.array([True, True, False, False]), jnp.array([True, False, True, False])
    found = jax.jit(jax.vmap(judged))(broken, met)
    assert jnp.all(judged(broken, met) == found)
    assert jnp.array_equal(found == Status.NON_FINITE, jnp.array([True, True, False, False]))
    assert jnp.array_equal(found == Status.CONVERGED, jnp.array([False, False, True, False]))
    assert jnp.array_equal(found == Status.MAX_STEPS, jnp.array([False, False, False, True]))
    assert judge(otherwise=Status.STALLED) == Status.STALLED


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        ([3.0, 2.0, 2.0 + 1e-9, 1.0], False),
        ([3.0, 2.0, 2.1, 1.0], True),
        ([3.0, jnp.inf, 1.0], True),
        ([jnp.inf, 2.0, 1.0], False),
        ([3.0, jnp.nan, 2.0], False),
        ([-5.0, -4.0], True),
    ],
)
def test_a_rise_is_more_than_rounding_or_infinite(recorded, expected):
    assert bool(rose(jnp.array(recorded))) == expected


def test_there_is_one_enumeration_of_statuses_and_each_has_its_own_text():
    def descendants(kind):
        return {kind}.union(*map(descendants, kind.__subclasses__()))

    ours = {kind for kind in descendants(eqx.Enumeration) if "transportx" in kind.__module__}
    assert ours == {tx.Status}
    assert tx.ot.Status is tx.Status
    words = "CONVERGED COMPLETED DETERMINED MAX_STEPS STALLED NON_FINITE INFEASIBLE ROSE "
    words += "UNDETERMINED NOT_TRANSPORTED UNCONTROLLABLE"
    texts = {tx.Status[getattr(tx.Status, word)] for word in words.split()}
    assert len(texts) == len(tx.Status)
