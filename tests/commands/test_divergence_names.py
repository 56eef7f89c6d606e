"""The divergences that --divergence takes are those of the library. Oracle: its public names."""

import inspect

import pytest

import limbeck
from limbeck.commands.divergence_names import LISTED, PLAIN, WITH_PARAMETER
from limbeck.commands.jobs import distill_parser
from limbeck.commands.texts import divergence_from_text
from limbeck.losses import divergences


def test_every_public_divergence_can_be_named() -> None:
    public = [name for name in limbeck.__all__ if hasattr(divergences, name) and name[0].islower()]
    assert {*PLAIN, *WITH_PARAMETER} == set(public)


def test_the_help_lists_them_with_their_defaults() -> None:
    assert LISTED.startswith("forward_kl, reverse_kl, ")
    assert "; jensen_shannon:0.5, skewed_kl:0.1" in LISTED
    assert LISTED in " ".join(distill_parser(brief=True).format_help().split())


@pytest.mark.parametrize("name", PLAIN)
def test_a_name_is_the_divergence(name: str) -> None:
    assert divergence_from_text(name) is getattr(limbeck, name)


@pytest.mark.parametrize("name", WITH_PARAMETER)
def test_a_name_with_a_parameter_is_the_divergence_with_it(name: str) -> None:
    make = getattr(limbeck, name)
    assert divergence_from_text(name) == make(next(iter(inspect.signature(make).parameters.values())).default)
    assert divergence_from_text(f"{name}:0.25") == make(0.25)
