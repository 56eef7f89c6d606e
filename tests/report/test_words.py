"""Names of classes in lines: broken at word ends, worked out by hand."""

import pytest

from limbeck.report.page import _breakable
from limbeck.report.words import lines_of, pieces


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Neuroendocrine tumour", ["Neuroendocrine tumour"]),  # spaces are places to break
        ("Checking or savings account", ["Checking or savings account"]),
        ("sci.space.discussion", ["sci.", "space.", "discussion"]),
        ("MolecularPathology", ["Molecular", "Pathology"]),
        ("a " + "x" * 30, ["a " + "x" * 14, "x" * 14, "xx"]),
        ("", [""]),
        (" ", [" "]),
    ],
)
def test_only_words_that_are_too_long_may_break_inside(name, expected):
    assert pieces(name) == expected


def test_what_may_break_is_escaped():
    assert _breakable("<script>alert(1)</script>") == "&lt;script&gt;alert(<wbr>1)&lt;/<wbr>script&gt;"


@pytest.mark.parametrize(
    ("name", "lines", "expected"),
    [
        ("Credit card or prepaid card", 2, ["Credit card", "or prepaid…"]),
        ("Credit card or prepaid card", 3, ["Credit card", "or prepaid", "card"]),
        ("Credit card or prepaid card", 1, ["Credit card…"]),
        ("Vehicle loan or lease", 1, ["Vehicle…"]),  # "Vehicle loan" leaves no room for the sign
        ("Neuroendocrine", 2, ["Neuroendocr…"]),
        ("LABEL_0", 2, ["LABEL_0"]),
        ("  ", 1, ["  "]),
    ],
)
def test_lines_of_twelve_characters(name, lines, expected):
    assert lines_of(name, 12, lines) == expected
