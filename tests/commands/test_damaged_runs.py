"""Runs whose files were damaged, resumed by the command: from what is whole, and never from what is not.

Oracle: the weights of the same run undisturbed, bit for bit.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

RUN = ["distill", "--hidden", "4", "--save_strategy", "steps", "--save_steps", "4", "--save_total_limit", "3"]
RUN += ["--dropout", "0.3", "--lr_scheduler_type", "constant", "--max_steps"]
LAST = Path("checkpoints/student/checkpoint-8")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`whole` of 12 steps, and `cut` of 8, which is to go on."""
    from limbeck.cli import main

    folder = tmp_path_factory.mktemp("runs")
    for name, steps in (("whole", "12"), ("cut", "8")):
        assert main([*RUN, steps, "--output_dir", str(folder / name)]) == 0
    for name in ("results.json", "report.html"):
        (folder / "cut" / name).unlink()
    shutil.rmtree(folder / "cut" / "student")
    return folder


@pytest.fixture
def resumed(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limbeck_says: Callable[..., Any], caplog: Any
) -> Callable[[Callable[[Path], Any]], tuple[int, str]]:
    """Damages a copy of `cut` and resumes it to 12 steps: `(exit code, what was said)`; the weights are whole's."""
    monkeypatch.chdir(tmp_path)

    def resume(damage: Callable[[Path], Any]) -> tuple[int, str]:
        run = Path("run")
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(runs / "cut", run)
        damage(run)
        caplog.clear()
        code, out, err = limbeck_says(*RUN, "12", "--output_dir", "run", "--resume")
        if code == 0:
            found, expected = (load_file(f / "student/model.safetensors") for f in (run, runs / "whole"))
            assert all(torch.equal(found[name], expected[name]) for name in expected)
        return code, out + err + caplog.text

    return resume


def flip(path: Path, share: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= 1
    path.write_bytes(content)


FILES = ["config.json", "limbeck_model.json", "model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt"]
FILES += ["trainer_state.json", "limbeck_checkpoint.json"]
DAMAGE: dict[str, Callable[[Path], Any]] = {
    "flip": lambda path: flip(path, 0.6),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "gone": lambda path: path.unlink(),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "loop": lambda path: (path.unlink(), path.symlink_to(path.name)),
}


@pytest.mark.parametrize(
    ("name", "damage"),
    [*((name, "flip") for name in FILES), *(("optimizer.pt", damage) for damage in DAMAGE if damage != "flip")],
)
def test_a_checkpoint_with_a_damaged_file_is_skipped_for_the_one_before(name: str, damage: str, resumed: Any) -> None:
    code, said = resumed(lambda run: DAMAGE[damage](run / LAST / name))
    assert code == 0
    assert "checkpoint-8 is skipped: " in said
    assert "Resuming from run/checkpoints/student/checkpoint-4" in said


def test_where_no_checkpoint_is_whole_each_is_named(resumed: Any) -> None:
    code, said = resumed(lambda run: [flip(c / "model.safetensors", 0.9) for c in run.glob("checkpoints/student/*")])
    assert code == 0
    for step in (4, 8):
        assert f"checkpoint-{step} cannot be used: model.safetensors has other bytes than were written." in said
    assert "There is no complete checkpoint of the student, so its training starts from the beginning." in said


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"a: [", b"\xff\x00{[", b"\x00", b"hidden: {a: 1}", b"!!python/object/apply:os.getcwd []"]
)
def test_settings_that_cannot_be_read_are_named_and_may_be_deleted(content: bytes, resumed: Any) -> None:
    code, said = resumed(lambda run: (run / "config.yaml").write_bytes(content))
    assert code == 1
    assert "run/config.yaml cannot be read" in said
    assert "delete it; --resume works without it" in said
    assert "Traceback" not in said


def test_settings_that_were_deleted_are_no_obstacle(resumed: Any) -> None:
    code, said = resumed(lambda run: (run / "config.yaml").unlink())
    assert (code, "from the beginning" in said, "skipped" in said) == (0, False, False)


@pytest.mark.parametrize("content", [b"\xff\x00{[", b"[]", b"\x00", b"hidden: {a: 1}"])
def test_a_config_that_cannot_be_read_is_an_error_of_the_command_line(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from limbeck.cli import main

    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_bytes(content)
    with pytest.raises(SystemExit, match="2"):
        main(["distill", "--config", "c.yaml"])
    err = capsys.readouterr().err
    assert "limbeck distill: " in err
    assert "Traceback" not in err
