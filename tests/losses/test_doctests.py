"""The examples in the docstrings of the losses run, and `help` shows them."""

import doctest
import pydoc

import pytest

import limbeck

INSTANCES = ["forward_kl", "reverse_kl", "cross_entropy", "total_variation", "logit_matching"]
NAMES = [*INSTANCES, "jensen_shannon", "skewed_kl", "skewed_reverse_kl", "Objective", "linear_divergence"]


@pytest.mark.parametrize("name", NAMES)
def test_the_example_runs(name: str) -> None:
    thing = getattr(limbeck, name)
    test = doctest.DocTestParser().get_doctest(thing.__doc__, {}, name, None, None)
    assert test.examples
    results = doctest.DocTestRunner().run(test)
    assert results.failed == 0


@pytest.mark.parametrize("name", NAMES)
def test_help_shows_it(name: str) -> None:
    shown = pydoc.render_doc(getattr(limbeck, name), renderer=pydoc.plaintext)
    assert f">>> from limbeck import {name}" in shown or f"import Objective, {name}" in shown
