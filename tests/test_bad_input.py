"""Bad input, by machine: every argument of everything public, with every kind of nonsense.

An argument that makes no sense must be refused by a `ValueError` of ours that names it. What
may make sense (integers, halves, other sizes) must be refused so or give an answer. Nothing
may end in an error from inside jax, diffrax or numpy. Traced only: nothing is compiled.
"""

import collections
import collections.abc
import inspect
import pathlib
import traceback
import typing
import warnings

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jaxtyping import Bool, Float, Int, PyTree

import transportx as tx
from tests import calls

LIBRARY = pathlib.Path(tx.__file__).parent


class _Frame:
    """Looks like a table of pandas."""

    shape, ndim, dtype = (4, 2), 2, np.dtype(float)

    def to_numpy(self):
        return np.ones(self.shape)


_NOTHING = {"none": None, "list": [0.1, 0.2], "text": "a", "frame": _Frame()}


def nonsense(hint, value):
    """What cannot stand for this annotation, by kind."""
    options = calls.options_of(hint)
    kinds = dict(_NOTHING)
    if calls.KEYS <= options:
        kinds |= {"seed": 0, "keys": jr.split(jr.key(0)), "floats": jnp.ones(2)}
    elif any(map(calls.is_array, options - calls.NUMBERS)) and isinstance(value, jax.Array):
        array = next(option for option in options if calls.is_array(option))
        kinds |= _bad_arrays(array, value, options)
    elif options & {float} or calls.NUMBERS <= options:
        kinds |= {"nan": float("nan"), "complex": 1j, "boolean": True}
        if not any(calls.is_array(o) and o.dim_str for o in options - calls.NUMBERS):
            kinds |= {"vector": jnp.ones(2), "one": jnp.ones(1)}
    elif int in options:
        kinds |= {"vector": jnp.ones(2, int), "fraction": 2.5, "nan": float("nan")}
        kinds |= {"boolean": True, "complex": 1j}
    elif options & {bool}:
        kinds |= {"number": 2, "vector": jnp.ones(2, bool)}
    elif any(inspect.isclass(o) and issubclass(o, PyTree) for o in options):
        kinds = {"text": "a"}
    elif options & {typing.Any, object, str} or any(isinstance(o, typing.TypeVar) for o in options):
        kinds = {}
    else:
        kinds |= {"number": 3.0} | ({} if jax.Array in options else {"array": jnp.ones((4, 2))})
    if type(None) in options:
        kinds.pop("none", None)
    if any(typing.get_origin(o) in (tuple, collections.abc.Sequence) for o in options):
        kinds.pop("list", None)
    return kinds


def _bad_arrays(array, value, options):
    kinds = {"boolean": value.astype(bool), "complex": value.astype(complex)}
    if array.dtype is Float:
        kinds["integers"] = value.astype(int)
    if array.dtype is Int:
        kinds["floats"] = value.astype(float)
    if array.dtype is Bool:
        kinds.pop("boolean")
    if value.ndim:
        kinds["empty"] = value[:0]
    if not any(axis == "..." or axis[0] == "*" for axis in array.dim_str.split()):
        kinds["higher"] = value[None]
        if value.ndim:
            kinds["lower"] = value[0]
    return kinds


def doubtful(hint, value):
    """What may stand for this annotation or not: refused by name, or answered."""
    options = calls.options_of(hint)
    kinds = {}
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jnp.floating):
        kinds = {"half": value.astype(jnp.bfloat16)}
        if value.ndim:
            kinds["longer"] = jnp.concatenate([value, value[:1]])
            kinds["single"] = value[:1]
        if value.ndim > 1:
            kinds["wider"] = jnp.concatenate([value, value[..., :1]], axis=-1)
    elif options & {float} or calls.NUMBERS <= options:
        kinds = {"integer": 1, "negative": -1.0, "infinite": float("inf"), "huge": 10**400}
    elif options & {int}:
        kinds = {"zero": 0, "negative": -1}
    return kinds


def outcome(call, name, value):
    """ "refused" (by name, by us), "answered", or what else happened."""
    try:
        jax.eval_shape(lambda: _arrays(call(**{name: value})))
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        ours = type(error) is ValueError and last.name == "reject"
        named = str(error).startswith(f"`{name}")
        first = str(error).strip().split("\n")[0][:150]
        if ours and (named or "`" in str(error)):
            return "refused" if named else f"refused as another: {first}"
        return f"{type(error).__name__}: {first}"
    return "answered"


def _arrays(tree):
    return [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]


_SLOW_TO_TRACE = {
    *(f"gradient_flows.{kind}_flow" for kind in ("convex", "gaussian", "grid", "jko", "line")),
    "attention.blow_up_depth",
    "attention.evolve_gaussian",
    "gradient_flows.flow",
    "gradient_flows.birth_death",
    "mean_field.linear_training",
    "ot.semidiscrete",
    "ot.sinkhorn_divergence",
}


def violations(room):
    """(counts by outcome, what broke the rules) over a room."""
    counts, broken = collections.Counter(), []
    for call in calls.calls(room):
        for name, hint in call.hints.items():
            default = inspect.signature(call.function).parameters[name].default
            value = call.arguments.get(name, default)
            if value is None:
                value = calls.good(call.name, name, hint)
            for kind, bad in nonsense(hint, value).items():
                said = outcome(call, name, bad)
                counts[kind, said.split(":")[0]] += 1
                whole = inspect.isclass(call.function) and kind == "empty"
                fine = ("refused", "refused as another", "answered") if whole else ("refused",)
                if said.split(":")[0] not in fine:
                    broken.append(f"{call.name}({name}={kind}) {said}")
            for kind, odd in doubtful(hint, value).items():
                if call.name in _SLOW_TO_TRACE and kind not in ("half", "single"):
                    continue
                said = outcome(call, name, odd)
                counts[kind, said.split(":")[0]] += 1
                if said.split(":")[0] not in ("refused", "answered", "refused as another"):
                    broken.append(f"{call.name}({name}={kind}) {said}")
    return counts, broken


# Rooms in which the rule does not hold yet, and in how many cases at most.
OPEN: dict[str, int] = {}


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("room", sorted(calls.rooms()))
def test_nonsense_is_refused_by_name_everywhere(room, capsys):
    with warnings.catch_warnings(), jax.numpy_dtype_promotion("standard"):
        warnings.simplefilter("ignore")
        with jax.numpy_rank_promotion("allow"):
            counts, broken = violations(room)
    outcomes = collections.Counter()
    for (_, said), number in counts.items():
        outcomes[said] += number
    with capsys.disabled():
        print(f"\n{room}: {sum(counts.values())} bad inputs, {dict(outcomes)}")
    assert len(broken) <= OPEN.get(room, 0), "\n".join(broken)
