"""The options that are known without torch and transformers: the parsers' own, and the nearest to a mistyped one."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from jsonargparse import ArgumentParser

from limbeck.commands import demo, info, jobs, paper, verify
from limbeck.commands.known import JOBS, known_options, nearest

HEAVY = {"torch", "transformers", "datasets", "accelerate", "numpy", "pandas", "pyarrow", "sklearn", "rich"}


class BuiltError(Exception):
    """A command has built its parser."""


@pytest.fixture
def parser_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ArgumentParser]:
    """`parser_of("distill")`: the parser that the command reads its words with."""

    def caught(kind: type, parser: ArgumentParser, words: list[str]) -> None:
        raise BuiltError(parser)

    def build(command: str) -> ArgumentParser:
        if hasattr(jobs, f"{command}_parser"):
            made: ArgumentParser = getattr(jobs, f"{command}_parser")()
            return made
        module = {"demo": demo, "info": info, "paper": paper, "verify": verify}[command]
        monkeypatch.setattr(module, "read_job", caught)
        with pytest.raises(BuiltError) as stopped:
            module.run([])
        built: ArgumentParser = stopped.value.args[0]
        return built

    return build


@pytest.mark.parametrize("command", JOBS)
def test_every_flag_of_the_parser_is_known(command: str, parser_of: Callable[[str], ArgumentParser]) -> None:
    flags = {flag for action in parser_of(command)._actions for flag in action.option_strings if flag.startswith("--")}
    assert {flag[2:].rstrip("+").partition(".")[0] for flag in flags} <= known_options(command)


@pytest.mark.parametrize("command", ["distill", "tune", "evaluate", "label"])
def test_what_is_known_is_a_flag_of_the_parser(command: str, parser_of: Callable[[str], ArgumentParser]) -> None:
    flags = {flag for action in parser_of(command)._actions for flag in action.option_strings}
    operands_and_more = {"data_dir", "debug", "print_shtab", "help_all"}
    assert {f"--{name}" for name in known_options(command) - operands_and_more} <= flags


def test_a_mistyped_flag_is_answered_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("temprature: 3\n")
    code = (
        "import sys\nfrom limbeck.cli import main\n"
        "for words in (['distill', '--temprature', '3'], ['tune', '--tempratures', '3'],\n"
        "              ['evaluate', '--stundent', 'x'], ['distill', '--config', 'job.yaml'], ['distil']):\n"
        "    try:\n        code = main(words)\n    except SystemExit as stop:\n        code = stop.code\n"
        "    print(code)\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True, encoding="utf-8"
    )
    *codes, modules = ran.stdout.splitlines()
    assert codes == ["2"] * 5
    assert not HEAVY & set(modules.split())
    assert ran.stderr.splitlines() == [
        "limbeck distill: there is no option --temprature (did you mean --temperature?). "
        "limbeck distill --help_all shows the options.",
        "limbeck tune: there is no option --tempratures (did you mean --temperatures?). "
        "limbeck tune --help_all shows the options.",
        "limbeck evaluate: there is no option --stundent (did you mean --student?). "
        "limbeck evaluate --help shows the options.",
        "limbeck distill: job.yaml has the unknown key temprature (did you mean temperature?). "
        "limbeck distill --help_all shows the options.",
        "limbeck: there is no command 'distil'. Did you mean 'distill'? The commands are demo, inspect, distill, tune, "
        "evaluate, report, label, verify, info, export, paper.",
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["distill", "-temperature", "3"], "no option -temperature (did you mean --temperature?)"),
        (["distill", "--max-steps", "3"], "no option --max-steps (did you mean --max_steps?)"),
        (["distill", "--lr=1e-3"], "no option --lr (did you mean --learning_rate?)"),
        (["distill", "--temp", "3"], "no option --temp (did you mean --temperature?)"),
        (["distill", "--epochs", "3", "--foo"], "--epochs (did you mean --num_train_epochs?) and --foo."),
        (["evaluate", "--batch", "3"], "no option --batch (did you mean --batch_size?)"),
        (["demo", "--seed", "3"], "no option --seed (did you mean --seeds?)"),
        (["paper", "soft", "--budgets", "full"], "no option --budgets (did you mean --budget?)"),
    ],
)
def test_the_nearest_option_is_named(
    words: list[str], expected: str, limbeck_says: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = limbeck_says(*words)
    assert (code, out) == (2, "")
    assert expected in err


def test_help_is_shown_whatever_else_is_given(limbeck_says: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = limbeck_says("info", "--help", "--foo")
    assert (code, err) == (0, "")
    assert "usage: limbeck info PATH" in out


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("temprature", ["temperature", "data"], "temperature"),
        ("TEMPERATURE", ["temperature", "data"], "temperature"),
        ("lr", ["lr_scheduler_type", "learning_rate"], "learning_rate"),
        ("lr", ["temperature"], None),
        ("epochs", ["num_train_epochs", "data"], "num_train_epochs"),
        ("zzz", ["temperature"], None),
    ],
)
def test_nearest(name: str, known: list[str], expected: str | None) -> None:
    assert nearest(name, known) == expected
