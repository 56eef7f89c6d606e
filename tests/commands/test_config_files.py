"""Files of options (--config): the file, the key and what was expected are named where one cannot be used."""

from collections.abc import Callable
from pathlib import Path

import pytest

from limbeck.commands.config_files import config_files, settings_in
from limbeck.commands.jobs import DistillJob, distill_parser, read_job
from limbeck.errors import ConfigError


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("temprature: 3", "job.yaml has the unknown key temprature (did you mean temperature?)"),
        ("max-steps: 3\nfoo: 1", "job.yaml has the unknown keys max-steps (did you mean max_steps?) and foo."),
        ("temperature: warm", "job.yaml: temperature must be a number, but is 'warm'"),
        ("max_steps: [2]", "job.yaml: max_steps must be a whole number, but is [2]"),
        ("max_steps: 2.5", "job.yaml: max_steps must be a whole number, but is 2.5"),
        ("hidden: 3", "job.yaml: hidden must be a list of whole numbers, but is 3"),
        ("hidden: [a, b]", "job.yaml: hidden must be a list of whole numbers, but is ['a', 'b']"),
        ("teacher: runs/big", "job.yaml: teacher must be a list of texts, but is 'runs/big'"),
        ("label_names: [0, 1]", "job.yaml: label_names must be a list of texts, but is [0, 1]"),
        ("baseline: perhaps", "job.yaml: baseline must be true or false, but is 'perhaps'"),
        ("bf16: 1", "job.yaml: bf16 must be true or false, but is 1"),
        ("data: 3", "job.yaml: data must be text, but is 3"),
        ("optim: 3", "job.yaml: optim must be text, but is 3"),
        ("report_to: 3", "job.yaml: report_to must be text or a list, but is 3"),
        ("accelerator_config: [1]", "job.yaml: accelerator_config must be a mapping or text, but is [1]"),
        ("a: [b\n", "job.yaml is not valid YAML: expected ',' or ']', but got '<stream end>' in line 3, column 1."),
        ("just text", "job.yaml must hold options, a line `name: value` for each, but holds a str."),
        ("1: 2", "job.yaml must hold options, a line `name: value` for each, but holds a dict"),
    ],
)
def test_what_a_file_cannot_hold_is_named(
    text: str, expected: str, limbeck_says: Callable[..., tuple[int, str, str]]
) -> None:
    Path("job.yaml").write_text(text + "\n")
    code, out, err = limbeck_says("distill", "--config", "job.yaml")
    assert (code, out) == (2, "")
    assert expected in err


def test_a_file_that_is_no_text_is_named(limbeck_says: Callable[..., tuple[int, str, str]]) -> None:
    Path("job.yaml").write_bytes(b"\xff\xfe\x00")
    code, _, err = limbeck_says("distill", "--config=job.yaml")
    assert code == 2
    assert "job.yaml cannot be read as YAML" in err
    assert "--config takes a text file of options" in err


def test_values_as_people_write_them_are_read() -> None:
    Path("job.yaml").write_text("learning_rate: 1e-3\nbaseline: true\nhidden: [4]\nearly_stopping: null\nbf16: no\n")
    job = read_job(DistillJob, distill_parser(), ["--config", "job.yaml", "--hidden", "8", "9"])
    assert (job.run.learning_rate, job.run.baseline, job.student.hidden) == (1e-3, True, [8, 9])
    assert (job.run.early_stopping, job.trainer["bf16"]) == (None, False)


def test_the_files_among_the_words() -> None:
    Path("a.yaml").write_text("")
    Path("b.yaml").write_text("seed: 1\n")
    assert config_files(["--config=a.yaml", "--seed", "1", "--config", "b.yaml", "--config"]) == [
        Path("a.yaml"),
        Path("b.yaml"),
    ]
    assert config_files(["--config", "c.yaml"]) == []
    assert (settings_in(Path("a.yaml")), settings_in(Path("b.yaml"))) == ({}, {"seed": 1})
    Path("b.yaml").write_text("- seed\n")
    with pytest.raises(ConfigError, match="must hold options"):
        settings_in(Path("b.yaml"))
