"""Messages of the library as a command prints them: with flags, and otherwise unchanged."""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import limbeck
from limbeck.commands.flags import in_flags
from limbeck.commands.known import known_options

SOURCE = Path(limbeck.__file__).parent


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("pass image_column=, text_column= or missing=.", "pass --image_column, --text_column or --missing."),
        ('pass label_column=..., or "" where there are none', 'pass --label_column, or "" where there are none'),
        ("pass image_size=(height, width).", "pass --image_size."),
        ('end with the answer and use assistant="last"', "end with the answer and use --assistant last"),
        ("pass labels, or hard_weight=0 and a teacher.", "pass labels, or --hard_weight 0 and a teacher."),
        ("eval_do_concat_batches=False is for metrics", "--eval_do_concat_batches false is for metrics"),
        ("the student's (--tokenizer; in Python tokenizer=); or give feature_columns.",
         "the student's (--tokenizer); or give --feature_columns."),
        ("give it (--tokenizer; in Python processing_class and teacher_tokenizer): cut", "give it (--tokenizer): cut"),
        ("pass the same one (--jitter; in Python augment=).", "pass the same one (--jitter)."),
        ("name one by text_column (--text_column).", "name one by --text_column."),
        ("the set by table with max_length=9 (the command: --max_length 9).", "the set by table with --max_length 9."),
        ("keep their places by num_classes= of limbeck.table.", "keep their places by --num_classes."),
        ("a larger set of classes, `num_classes=3`", "a larger set of classes, --num_classes 3"),
        ("max_steps must be 1 or more", "--max_steps must be 1 or more"),
        ("Set hard_weight, or set seed to 3", "Set --hard_weight, or set --seed to 3"),
    ],
)  # fmt: skip
def test_arguments_become_flags(message: str, expected: str) -> None:
    assert in_flags(message, "distill") == expected
    assert in_flags(expected, "distill") == expected


@pytest.mark.parametrize(
    "message",
    [
        "The columns are 'text_column', \"max_length\" and `label_names`.",
        "runs/max_steps/learning_rate.csv and max_steps.yaml cannot be read",
        "set model.config.use_cache = True, tokenizer.eos_token and config.max_length",
        "read the table with limbeck.table(..., max_length=3, label_column=None)",
        'pass task=limbeck.Task("regression", outputs=2)',
        "set output_router_logits=False in its configuration; --max_steps 3 is given",
        "the data has labels, a teacher, a seed",
    ],
)
def test_other_text_is_left_as_it_is(message: str) -> None:
    assert in_flags(message, "distill") == message


def test_only_options_of_the_command_are_flags() -> None:
    assert in_flags("lower k or set hard_weight", "label") == "lower --k or set hard_weight"
    assert in_flags("lower k or set hard_weight", "distill") == "lower k or set --hard_weight"
    assert in_flags("lower k or set hard_weight", "report") == "lower k or set hard_weight"


def messages(path: Path) -> Iterator[str]:
    """The texts of the exceptions that a file raises; what is inserted is X."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            for text in ast.walk(node.exc):
                if isinstance(text, ast.JoinedStr):
                    yield "".join(str(v.value) if isinstance(v, ast.Constant) else "X" for v in text.values)
                elif isinstance(text, ast.Constant) and isinstance(text.value, str):
                    yield text.value


def test_no_message_of_reading_data_keeps_an_argument_that_is_an_option() -> None:
    known = "|".join(sorted(known_options("distill"), key=len, reverse=True))
    left = [
        translated
        for path in (SOURCE / "transfer").rglob("*.py")
        for translated in (in_flags(message, "distill") for message in messages(path))
        if re.search(rf"(?<![\w(.])({known})=(?!limbeck)", re.sub(r"\w\([^)]*\)", "", translated))
    ]
    assert left == []


def test_the_command_prints_flags(limbeck_says: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    data = tmp_path / "data.csv"
    data.write_text("a,b,c\n" + "1.5,2.5,3.5\n" * 40)
    code, _, err = limbeck_says("distill", "--data", str(data))
    assert code == 1
    assert "No label column could be guessed among" in err
    assert 'pass --label_column, or "" where there are no labels' in err
    assert "label_column=" not in err
