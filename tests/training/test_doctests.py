"""The example in DistillTrainer's docstring runs, and `help` shows it."""

import doctest
import pydoc

import limbeck


def test_the_example_runs() -> None:
    text = limbeck.DistillTrainer.__doc__
    assert text is not None
    example = doctest.DocTestParser().get_doctest(text, {}, "DistillTrainer", None, None)
    assert example.examples
    assert doctest.DocTestRunner().run(example).failed == 0


def test_help_shows_it() -> None:
    shown = pydoc.render_doc(limbeck.DistillTrainer, renderer=pydoc.plaintext)
    assert ">>> trainer = DistillTrainer(" in shown
