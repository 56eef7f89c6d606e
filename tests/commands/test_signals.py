"""Commands that are interrupted or told to end: exit codes, the command to go on with, and what a resumed run becomes.

Oracle: the same run undisturbed, weights bit for bit.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from limbeck.commands import console
from limbeck.commands.signals import Stopped, finishes_step, next_step, stops_as_interrupts
from limbeck.files import in_use
from limbeck.networks.folder import save
from limbeck.networks.mlp import mlp

RUN = ["distill", "--hidden", "8", "--max_steps", "12", "--save_strategy", "steps", "--save_steps", "100"]
RUN += ["--logging_steps", "1", "--dropout", "0.2", "--output_dir"]


@pytest.fixture(autouse=True)
def _a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def told_at(monkeypatch: pytest.MonkeyPatch, step: int, *numbers: int) -> None:
    """Sends these signals to this process when that step is logged."""
    log = console.LogFile.on_log

    def on_log(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        log(self, args, state, control, **kwargs)
        for number in numbers if state.global_step == step else ():
            os.kill(os.getpid(), number)

    monkeypatch.setattr(console.LogFile, "on_log", on_log)


@pytest.mark.parametrize(("number", "code", "name"), [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGINT, 130, "SIGINT")])
def test_training_ends_with_a_checkpoint_and_resumes_to_the_same_weights(
    monkeypatch: pytest.MonkeyPatch, limbeck_says: Any, number: int, code: int, name: str
) -> None:
    assert limbeck_says(*RUN, "whole")[0] == 0
    with monkeypatch.context() as told:
        told_at(told, 5, number)
        found, _, err = limbeck_says(*RUN, "it's cut", "--overwrite")
    assert found == code
    assert f"limbeck distill: stopped ({name}). To resume:" in err
    again = shlex.split(err.partition("To resume: ")[2])
    assert again == ["limbeck", *RUN, "it's cut", "--resume"]
    assert [path.name for path in Path("it's cut/checkpoints/student").iterdir()] == ["checkpoint-6"]
    assert not Path("it's cut/student").exists()
    assert limbeck_says(*again[1:])[0] == 0
    weights, expected = (load_file(f"{run}/student/model.safetensors") for run in ("it's cut", "whole"))
    assert all(torch.equal(weights[n], expected[n]) for n in expected)


def test_a_second_signal_stops_at_once(monkeypatch: pytest.MonkeyPatch, limbeck_says: Any) -> None:
    told_at(monkeypatch, 5, signal.SIGTERM, signal.SIGINT)
    code, _, err = limbeck_says(*RUN, "run")
    assert (code, "stopped (SIGINT). To resume: limbeck distill" in err) == (130, True)
    assert not list(Path("run/checkpoints/student").glob("checkpoint-*"))
    monkeypatch.undo()


def test_where_no_checkpoints_are_wanted_none_is_written(monkeypatch: pytest.MonkeyPatch, limbeck_says: Any) -> None:
    told_at(monkeypatch, 5, signal.SIGTERM)
    code, _, err = limbeck_says(*RUN, "run", "--save_strategy", "no")
    assert (code, "To resume" in err) == (143, True)
    assert not list(Path("run").glob("checkpoints/*/*"))
    assert limbeck_says(*RUN, "run", "--save_strategy", "no", "--resume", "--max_steps", "2")[0] == 0


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_process_that_is_told_to_end_while_it_reads(tmp_path: Path) -> None:
    """Before training: in Python that the user names, which waits for what never comes."""
    (tmp_path / "slow.py").write_text("import time\n\ndef data():\n    print('here', flush=True)\n    time.sleep(60)\n")
    words = [sys.executable, "-m", "limbeck", "distill", "--data", "slow:data", "--output_dir", "run"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    process.terminate()
    _, err = process.communicate(timeout=20)
    assert process.returncode == 143
    assert err.endswith("To resume:\n  limbeck distill --data slow:data --output_dir run --resume\n")
    assert "Traceback" not in err


@pytest.mark.parametrize("command", ["label", "tune", "paper"])
def test_commands_that_resume_by_themselves_say_so(command: str) -> None:
    assert next_step(command, ["--data", "a b"]) == f"The same command resumes:\n  limbeck {command} --data 'a b'"


def test_other_commands_leave_nothing_half_written() -> None:
    said = "Nothing was left half-written; the same command begins again:\n  limbeck evaluate --student 'a b'"
    assert next_step("evaluate", ["--student", "a b"]) == said


def test_handlers_are_those_of_before_in_the_end_and_a_fork_has_none_of_ours() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with stops_as_interrupts():
        ready, tell = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(tell, b"!")
            for _ in range(600):  # ends by the signal, not by an exception
                time.sleep(0.1)
            os._exit(0)
        assert os.read(ready, 1) == b"!"  # a signal that comes earlier is lost: Python forgets it when it forks
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        seen = []
        with pytest.raises(KeyboardInterrupt, match="SIGTERM"), finishes_step() as told:
            seen += [told(), os.kill(os.getpid(), signal.SIGTERM), told()]
        assert seen == [False, None, True]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_signal_within_an_import_waits_until_the_module_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "told_within.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\nwhole = True\n")
    monkeypatch.syspath_prepend(tmp_path)

    def goes_on() -> None:
        __import__("told_within")
        for _ in range(600):  # ends by the signal
            time.sleep(0.05)

    with pytest.raises(Stopped, match="SIGTERM") as stopped, stops_as_interrupts():
        goes_on()
    assert stopped.value.exit_code == 143
    assert sys.modules.pop("told_within").whole


def test_a_second_signal_does_not_wait_for_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kill = "os.kill(os.getpid(), signal.SIGTERM)\n"
    (tmp_path / "told_twice.py").write_text(f"import os, signal\n{kill}{kill}raise AssertionError\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Stopped, match="SIGTERM"), stops_as_interrupts():
        __import__("told_twice")


@pytest.mark.parametrize("then", [None, ValueError("no module")])
def test_a_signal_that_a_library_loses_ends_the_command_all_the_same(then: Exception | None) -> None:
    def loses() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except BaseException:
            if then is not None:
                raise then from None

    with pytest.raises(Stopped, match="SIGINT"), stops_as_interrupts():
        loses()


def test_other_errors_and_timers_are_left_alone() -> None:
    with pytest.raises(ValueError, match="its own"), stops_as_interrupts():
        raise ValueError("its own")
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


# Two processes in one folder


@pytest.mark.parametrize("more", [[], ["--resume"], ["--overwrite"]])
def test_a_second_run_in_the_same_folder_is_refused(limbeck_says: Any, more: list[str]) -> None:
    """While the first one trains; nothing of it is touched, and when it has ended the folder is free."""
    with in_use("run"):
        Path("run/config.yaml").write_text("hidden: [8]\n")
        code, _, err = limbeck_says(*RUN, "run", *more)
        assert (code, "run is in use by another process that writes there" in err) == (1, True)
        assert [path.name for path in Path("run").iterdir()] == ["config.yaml"]
    assert limbeck_says(*RUN, "run", *more, "--max_steps", "2")[0] == 0


@pytest.mark.parametrize("command", ["tune", "label", "demo"])
def test_commands_that_leave_a_folder_hold_it(tmp_path: Path, limbeck_says: Any, command: str) -> None:
    save(mlp([64, 8, 10]), tmp_path / "teacher")
    words = {
        "demo": [],
        "tune": ["--teacher", "teacher", "--max_steps", "1"],
        "label": ["--teacher", "teacher", "--k", "3"],
    }
    with in_use("there"):
        code, _, err = limbeck_says(command, *words[command], "--output_dir", "there")
    assert (code, f"limbeck {command}: " in err, "there is in use by another process" in err) == (1, True, True)
