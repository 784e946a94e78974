"""Examples of docstrings run as a user runs them: float32, standard promotion, and alone."""

import doctest

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import transportx as tx
from tests import public

# What every example may use; the docstring of the package says so.
IMPORTS = {"jax": jax, "jnp": jnp, "jr": jr, "np": np, "optax": optax, "eqx": eqx, "tx": tx}
# More than this fraction of the public functions and classes have an example.
LEAST_SHARE = 0.6
EXAMPLES = {text.name: text.text for text in public.docstrings() if ">>>" in text.text}


@pytest.fixture
def as_users():
    """The configuration that JAX starts with, in place of that of the other tests."""
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield


@pytest.mark.usefixtures("as_users")
@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs(name):
    test = doctest.DocTestParser().get_doctest(EXAMPLES[name], dict(IMPORTS), name, None, 0)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    report: list[str] = []
    runner.run(test, out=report.append)
    assert not runner.failures, "".join(report)
    # Without a value that is compared an example shows that it runs, but not what it gives.
    assert any(example.want for example in test.examples), "no line of the example shows a value"


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_has_a_heading(name):
    before = EXAMPLES[name].split(">>>")[0].splitlines()
    assert "Example:" in [line.strip() for line in before]


def test_examples_are_doctests():
    bare = [
        f"{name}: its example has no line `>>> `"
        for name, text in public.docstrings()
        if "```" in text or ("Example:" in text and ">>>" not in text)
    ]
    assert not bare, "\n".join(bare)


def test_most_public_names_have_an_example(capsys):
    names = [thing.name for thing in public.everything()]
    shown = {name for name in names if any(e == name or e.startswith(f"{name}.") for e in EXAMPLES)}
    share = len(shown) / len(names)
    with capsys.disabled():
        print(f"\n{len(shown)} of {len(names)} public names have an example: {share:.0%}")
    assert share > LEAST_SHARE, sorted(set(names) - shown)
