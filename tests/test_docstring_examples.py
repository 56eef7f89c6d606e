"""The examples in the docstrings of the functions that label, evaluate and tune run as they stand."""

import doctest

import pytest

import limbeck

NAMES = ["evaluate", "label", "match_prior", "tune"]


@pytest.mark.parametrize("name", NAMES)
def test_the_example_runs(name: str) -> None:
    text = getattr(limbeck, name).__doc__
    test = doctest.DocTestParser().get_doctest(text, {}, name, None, None)
    assert test.examples
    assert doctest.DocTestRunner().run(test).failed == 0
