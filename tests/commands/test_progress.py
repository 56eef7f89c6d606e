"""Progress where the output is no terminal: lines, by a clock that the test moves, and no control codes."""

import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

import limbeck
from limbeck.commands import progress
from limbeck.commands.progress import Lines, Training, counted, printed


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(progress, "say", lines.append)
    monkeypatch.setattr(progress, "console", SimpleNamespace(is_terminal=False))
    return lines


def walk(seconds_per_step: float, total: int, begun: int = 0) -> None:
    """Takes the steps of a run, each of which lasts as long as the others."""
    now = [100.0]
    lines = Lines("student", total, "steps", begun, clock=lambda: now[0])
    for step in range(begun + 1, total + 1):
        now[0] += seconds_per_step
        lines.show(step, "loss 0.5")


@pytest.mark.parametrize(
    ("seconds_per_step", "total", "expected"),
    [
        (0.01, 100, []),  # done within ten seconds: no line
        (1.0, 1000, [100, 200, 300, 400, 500, 600, 700, 800, 900]),  # every tenth
        (0.25, 100, [40, 80]),  # every ten seconds
        (60.0, 5, [1, 2, 3, 4]),  # a tenth is less than a step
    ],
)
def test_a_line_comes_after_a_tenth_and_after_ten_seconds(
    seconds_per_step: float, total: int, expected: list[int], said: list[str]
) -> None:
    walk(seconds_per_step, total)
    assert [int(line.split()[1].replace(",", "")) for line in said] == expected


def test_a_line_has_the_count_the_losses_and_the_times(said: list[str]) -> None:
    walk(1.0, 2000)
    assert said[1] == "student: 400 of 2,000 steps, loss 0.5, 0:06:40 elapsed, about 0:26:40 left"


def test_a_resumed_run_counts_the_time_of_its_own_steps(said: list[str]) -> None:
    walk(2.0, 100, begun=50)
    assert said[0] == "student: 60 of 100 steps, loss 0.5, 0:00:20 elapsed, about 0:01:20 left"


@pytest.fixture
def no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS", 0.0)


@pytest.mark.usefixtures("no_wait")
def test_each_kind_of_work_prints_its_lines(said: list[str]) -> None:
    with counted("training", 4, "nets") as show:
        for done in (1, 2, 4):
            show(done)
    rows = printed("labelling", "rows")
    for done in (0, 30, 100):
        rows(done, 100)
    training: Any = Training("student")
    training.on_train_begin(None, SimpleNamespace(max_steps=10, global_step=0), None)
    training.on_log(None, None, None, logs={"loss": 0.25, "learning_rate": 1.0})
    training.on_step_end(None, SimpleNamespace(global_step=5), None)
    training.on_train_end(None, None, None)
    assert [line.partition(", 0:")[0] for line in said] == [
        "training: 1 of 4 nets",
        "training: 2 of 4 nets",
        "labelling: 30 of 100 rows",
        "student: 5 of 10 steps, loss 0.25",
    ]


def test_on_a_terminal_there_is_a_bar_and_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    terminal = Console(force_terminal=True, file=file, width=100, color_system=None)
    monkeypatch.setattr(progress, "console", terminal)
    with counted("training", 4, "nets") as show:
        show(3)
    assert "3/4 nets" in file.getvalue()
    assert " of 4 nets" not in file.getvalue()


def test_label_tells_how_many_rows_are_done(tmp_path: Path) -> None:
    data = limbeck.arrays(torch.randn(10, 4), torch.arange(10) % 2)
    told: list[tuple[int, int]] = []
    limbeck.label(
        limbeck.mlp([4, 2]), data, tmp_path / "stored", "dense", batch_size=4, progress=lambda *n: told.append(n)
    )
    assert told == [(0, 10), (4, 10), (8, 10), (10, 10)]


@pytest.mark.filterwarnings("ignore")
def test_piped_output_has_no_control_codes(tmp_path: Path) -> None:
    lines = [f"{i * 7 % 11 / 3},{i * 5 % 13 / 4},{i % 2}" for i in range(40)]
    (tmp_path / "data.csv").write_text("\n".join(["a,b,label", *lines]) + "\n")
    code = (
        "from limbeck.cli import main\nfrom limbeck.commands import progress\nprogress.SECONDS = 0.0\n"
        "short = ['--data', 'data.csv', '--hidden', '4']\n"
        "stored = ['--data', 'data.csv', '--teacher', 'run/student', '--kind', 'dense', '--output_dir', 'stored']\n"
        "assert not main(['distill', *short, '--max_steps', '20', '--output_dir', 'run'])\n"
        "assert not main(['label', *stored, '--batch_size', '8'])\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "student: 10 of 20 steps" in ran.stdout
    assert "labelling: 8 of " in ran.stdout
    printed_text = ran.stdout + ran.stderr
    assert [character for character in printed_text if character in "\r\x1b\x08"] == []
