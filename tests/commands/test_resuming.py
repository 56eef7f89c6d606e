"""What `limbeck distill --resume` accepts, refuses and records: the record of a run is what it was trained with.

The oracle is the run itself: its weights before and after, the settings that the first command was given.
"""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from limbeck.commands.jobs import distill_parser
from limbeck.commands.resuming import MAY_CHANGE, WHERE, changed_in, differences, note_changes

RUN = ["distill", "--output_dir", "run", "--hidden", "8", "--temperature", "3", "--save_strategy", "steps"]
RUN += ["--save_steps", "2", "--lr_scheduler_type", "constant"]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def record() -> dict[str, bytes]:
    """Every file of the run that says what it was trained with, or holds what was trained."""
    names = ("results.json", "config.yaml", "log.jsonl", "student/model.safetensors", "report.html")
    return {name: Path("run", name).read_bytes() for name in names}


def test_a_finished_run_keeps_its_record_where_other_options_are_refused(limbeck_says: Any) -> None:
    assert limbeck_says(*RUN, "--max_steps", "4")[0] == 0
    before = record()
    others = ["--temperature", "5", "--seed", "7", "--weight_decay", "0.1", "--bf16", "true", "--hidden", "9", "4"]
    code, _, err = limbeck_says(*RUN, "--max_steps", "4", "--resume", *others)
    assert code == 1
    for line in ("--temperature was 3.0, but is 5.0", "--seed was 42, but is 7", "--weight_decay was 0.0, but is 0.1"):
        assert f"{line} now" in err
    assert "--hidden was 8, but is 9 4 now" in err
    assert "limbeck distill --config run/config.yaml --resume has all of them" in err
    assert "another --output_dir" in err
    assert record() == before
    assert limbeck_says("distill", "--config", "run/config.yaml", "--resume")[0] == 0
    again = record()
    assert again["student/model.safetensors"] == before["student/model.safetensors"]
    assert yaml.safe_load(again["config.yaml"]) == yaml.safe_load(before["config.yaml"])
    assert json.loads(again["results.json"])["settings"] == json.loads(before["results.json"])["settings"]
    assert "changed" not in json.loads(again["results.json"])


def test_a_run_that_was_moved_is_the_same_run(limbeck_says: Any) -> None:
    assert limbeck_says(*RUN, "--max_steps", "2")[0] == 0
    Path("run").rename("it moved")
    moved = [*RUN, "--max_steps", "2", "--resume", "--output_dir", "it moved"]
    code, _, err = limbeck_says(*moved, "--temperature", "5")
    again = "limbeck distill --config 'it moved/config.yaml' --output_dir 'it moved' --resume"
    assert (code, f"({again} has all of them)" in err) == (1, True)
    assert limbeck_says(*shlex.split(again)[1:])[0] == 0
    assert not Path("run").exists()
    assert "changed" not in json.loads(Path("it moved/results.json").read_text())


def test_without_its_settings_file_a_finished_run_is_known_by_its_results(limbeck_says: Any) -> None:
    assert limbeck_says(*RUN, "--max_steps", "2")[0] == 0
    Path("run/config.yaml").unlink()
    code, _, err = limbeck_says(*RUN, "--max_steps", "2", "--resume", "--temperature", "5")
    assert (code, "--temperature was 3.0, but is 5.0 now" in err) == (1, True)
    code, out, _ = limbeck_says(*RUN, "--max_steps", "2", "--resume")
    assert (code, "Note" in out) == (0, False)
    for name in ("config.yaml", "results.json"):
        Path("run", name).unlink()
    code, out, _ = limbeck_says(*RUN, "--max_steps", "2", "--resume")
    assert (code, "the options that it was trained with are not compared" in out) == (0, True)


def test_training_longer_is_recorded_with_its_step(limbeck_says: Any) -> None:
    assert limbeck_says(*RUN, "--max_steps", "4")[0] == 0
    more = ["--resume", "--max_steps", "6", "--save_total_limit", "1", "--per_device_eval_batch_size", "64"]
    assert limbeck_says(*RUN, *more)[0] == 0
    results = json.loads(Path("run/results.json").read_text())
    (date,) = {change.pop("date") for change in results["changed"]}
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", date)
    assert results["changed"] == [
        {"option": "max_steps", "before": 4, "after": 6, "at_step": 4},
        {"option": "per_device_eval_batch_size", "before": 256, "after": 64, "at_step": 4},
        {"option": "save_total_limit", "before": 2, "after": 1, "at_step": 4},
    ]
    assert results["settings"]["max_steps"] == yaml.safe_load(Path("run/config.yaml").read_text())["max_steps"] == 6
    shown = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", Path("run/report.html").read_text()))
    assert shown["changed: max_steps"] == f"4 until step 4, then 6 ({date})"
    code, out, _ = limbeck_says(*RUN, *more)
    assert (code, "Note" in out) == (0, False)
    assert len(json.loads(Path("run/results.json").read_text())["changed"]) == 3


def test_fewer_steps_than_were_taken_are_refused(limbeck_says: Any) -> None:
    assert limbeck_says(*RUN, "--max_steps", "4")[0] == 0
    before = record()
    code, _, err = limbeck_says(*RUN, "--resume", "--max_steps", "3")
    assert (code, "run has been trained for 4 steps, which --resume cannot take back to 3" in err) == (1, True)
    assert record() == before


def test_other_examples_per_step_are_refused_and_leave_the_settings(limbeck_says: Any) -> None:
    assert limbeck_says(*RUN, "--max_steps", "4")[0] == 0
    before = record()
    code, _, err = limbeck_says(*RUN, "--max_steps", "6", "--resume", "--per_device_train_batch_size", "32")
    assert (code, "128 when it was written, 32 now" in err) == (1, True)
    assert record() == before
    parts = ["--per_device_train_batch_size", "32", "--gradient_accumulation_steps", "4"]
    assert limbeck_says(*RUN, "--max_steps", "6", "--resume", *parts)[0] == 0
    assert [c["option"] for c in changed_in(Path("run"))] == [
        "gradient_accumulation_steps",
        "max_steps",
        "per_device_train_batch_size",
    ]


def test_a_run_without_a_checkpoint_yet_begins_with_other_options(limbeck_says: Any) -> None:
    assert limbeck_says(*RUN, "--max_steps", "4")[0] == 0
    settings = Path("run/config.yaml").read_text()
    Path("begun").mkdir()
    Path("begun/config.yaml").write_text(settings)
    words = [*RUN, "--output_dir", "begun", "--max_steps", "4", "--temperature", "5", "--resume"]
    assert limbeck_says(*words)[0] == 0
    results = json.loads(Path("begun/results.json").read_text())
    assert (results["settings"]["temperature"], "changed" in results) == (5.0, False)


def test_the_same_file_by_another_spelling_is_the_same(tmp_path: Path) -> None:
    Path("data.csv").write_text("x,label\n1,a\n")
    before = {"data": "data.csv", "teacher": ["./data.csv"], "output_dir": "here"}
    assert differences(before, {"data": str(tmp_path / "data.csv"), "teacher": ["data.csv"], "output_dir": "x"}) == []
    assert differences(before, {"data": "other.csv", "teacher": []}) == ["data", "teacher"]


def test_a_change_that_was_taken_back_before_a_step_leaves_no_trace() -> None:
    for before, after in ((4, 9), (9, 6)):
        note_changes(Path("."), {"max_steps": before}, {"max_steps": after}, step=4)
    assert [(c["before"], c["after"]) for c in changed_in(Path("."))] == [(4, 6)]
    note_changes(Path("."), {"max_steps": 6}, {"max_steps": 4}, step=4)
    assert changed_in(Path(".")) == []


def test_every_option_that_may_change_is_one_of_the_command() -> None:
    assert {action.dest for action in distill_parser()._actions} >= MAY_CHANGE | WHERE
