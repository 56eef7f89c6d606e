"""Files of an older Limbeck (tests/old_files, made by its make.py at the commit in VERSION) are read as they were.

Public names and the command alone are used here. The oracle is what that commit found in the same files: the numbers
of recorded.json and of the runs' own results.json. Weights, targets and hashes are equal; what is trained or measured
anew is equal up to the rounding of another machine.
"""

import gc
import html
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import transformers
import yaml
from old_files import make
from packaging.version import Version
from torch import Tensor

import limbeck

gc.freeze()  # Trainer collects garbage whenever it starts, and the libraries above are none
RECORDED = json.loads((make.HERE / "recorded.json").read_text())
PLAIN_SETS = [name for name in (*make.IMAGE_SETS, *make.TEXT_SETS) if name != "views"]

same_transformers = pytest.mark.skipif(
    transformers.__version__ != RECORDED["transformers"],
    reason="the fingerprint of a transformers model holds its configuration, whose fields change with transformers",
)
with_these_arguments = pytest.mark.skipif(
    Version(transformers.__version__) < Version(RECORDED["transformers"]),
    reason="the settings of a run hold every training argument that transformers had then",
)


@pytest.fixture(autouse=True)
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the old files, and the folder that commands run in: the runs name their files relative to it."""
    folder = tmp_path / "old"
    shutil.copytree(make.HERE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return folder


def close(found: Any, expected: Any) -> None:
    """Logits of another processor differ by about 2e-5."""
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(expected), rtol=1e-5, atol=1e-4)


def assert_same_numbers(results: str, expected: str) -> None:
    found, wanted = (limbeck.read_results(path) for path in (results, expected))
    assert make.numbers(found) == pytest.approx(make.numbers(wanted), rel=1e-3, abs=1e-5)
    assert found["test"] == wanted["test"]


def assert_same_weights(found: Any, expected: Any) -> None:
    for (name, a), (other, b) in zip(found.state_dict().items(), expected.state_dict().items(), strict=True):
        assert name == other
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4, msg=name)  # a step moves a weight by about 3e-2


# Models


@pytest.mark.parametrize("name", RECORDED["classifiers"])
def test_a_classifier_has_its_logits_and_names(name: str) -> None:
    network = limbeck.load(name)
    close(make.says(network), RECORDED["classifiers"][name])
    assert network.label_names == limbeck.digits().label_names == tuple("0123456789")


@pytest.mark.parametrize("name", RECORDED["language models"])
def test_a_language_model_has_its_logits_and_tokenizer(name: str) -> None:
    close(make.writes(limbeck.load(name)), RECORDED["language models"][name])
    assert transformers.AutoTokenizer.from_pretrained(name)("six and 3 is")["input_ids"] == RECORDED["tokens"]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=same_transformers) if name == "language model" else name
        for name in RECORDED["fingerprints"]
    ],
)
def test_fingerprints_are_the_same_bytes(name: str) -> None:
    assert make.members()[name].fingerprint() == RECORDED["fingerprints"][name]


# Runs


def test_the_results_of_a_run_open_and_are_drawn(limbeck_says: Callable[..., Any]) -> None:
    results = limbeck.read_results("run/results.json")
    assert list(results["roles"]) == ["teacher", "student", "baseline"]
    assert [point["step"] for point in results["curves"]["student"] if "loss" in point] == [2, 4, 6]
    assert limbeck_says("report", "run", "--output", "page.html")[0] == 0
    page = html.unescape(Path("page.html").read_text())
    search, exported = (json.loads(Path(name).read_text()) for name in ("tuned/tune.json", "run/export.json"))
    assert results["tuned"]["sentence"] == search["sentence"]
    for sentence in (results["verdict"]["sentence"], search["sentence"]):
        assert sentence in page
    assert f"{exported['onnx']['bytes'] / 1000:.2f}" in page  # kB
    for role in ("teacher", "student", "baseline"):
        assert f"{results['roles'][role]['accuracy']['mean'] * 100:.2f}" in page


@with_these_arguments
def test_the_settings_of_a_run_train_the_same_student_again(limbeck_says: Callable[..., Any]) -> None:
    settings = yaml.safe_load(Path("run/config.yaml").read_text())
    results = limbeck.read_results("run/results.json")
    assert settings == {name: value for name, value in results["settings"].items() if value is not None}
    code, _, err = limbeck_says("distill", "--config", "run/config.yaml", "--output_dir", "again")
    assert (code, err) == (0, "")
    assert_same_numbers("again/results.json", "run/results.json")
    for role in ("student", "baseline"):
        assert_same_weights(limbeck.load(f"again/{role}"), limbeck.load(f"run/{role}"))
    tuned = limbeck.read_results("again/results.json")["tuned"]
    assert len(tuned.pop("differs")) == len(results["tuned"].pop("differs")) == 2  # other labels, other steps
    assert tuned == results["tuned"]
    again = yaml.safe_load(Path("again/config.yaml").read_text())
    assert {name: again.get(name) for name in settings} == settings | {"output_dir": "again"}
    logs = [[json.loads(line) for line in Path(run, "log.jsonl").read_text().splitlines()] for run in ("again", "run")]
    for line, expected in zip(*logs, strict=True):
        kept = {name: expected[name] for name in ("step", "loss", "soft_loss", "hard_loss") if name in expected}
        assert {name: line[name] for name in kept} == pytest.approx(kept, rel=1e-3)


@with_these_arguments
def test_a_run_is_resumed_from_its_checkpoint_by_the_command(limbeck_says: Callable[..., Any]) -> None:
    shutil.copytree("run", "expected")
    code, out, err = limbeck_says("distill", "--config", "run/config.yaml", "--resume")
    assert (code, err) == (0, "")
    assert "whole checkpoint of the student" not in out
    assert_same_numbers("run/results.json", "expected/results.json")
    assert_same_weights(limbeck.load("run/student"), limbeck.load("expected/student"))
    steps = [json.loads(line)["step"] for line in Path("run/log.jsonl").read_text().splitlines() if '"loss"' in line]
    assert steps == [2, 4, 6]


def test_a_run_is_resumed_from_its_checkpoint_in_python() -> None:
    rest, _ = limbeck.digits().split(0.2, seed=0)
    train, _ = rest.split(0.1, seed=1)
    _, kept = train.split(400 / len(train), seed=2)
    places = {int(row): place for place, row in enumerate(train.row_ids)}
    train = train.without_labels(except_rows=[places[int(row)] for row in kept.row_ids])
    config = limbeck.DistillConfig(
        output_dir="elsewhere",
        max_steps=6,
        per_device_train_batch_size=128,
        learning_rate=0.03,
        lr_scheduler_type="cosine",
        save_steps=4,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = limbeck.DistillTrainer(
        limbeck.mlp([64, 8, 10], dropout=0.1),
        limbeck.load("teacher"),
        limbeck.Objective(temperature=3.0, hard_weight=0.2),
        config,
        train_dataset=train,
    )
    trainer.train(resume_from_checkpoint="run/checkpoints/student/checkpoint-4")
    assert trainer.state.global_step == 6
    assert_same_weights(trainer.model, limbeck.load("run/student"))


@pytest.mark.parametrize("change", ["a file is gone", "a file was cut", "the seal is gone"])
def test_a_checkpoint_that_disagrees_with_its_seal_is_refused(change: str) -> None:
    checkpoint = Path("run/checkpoints/student/checkpoint-4")
    changed = checkpoint / ("limbeck_checkpoint.json" if "seal" in change else "optimizer.pt")
    changed.write_bytes(changed.read_bytes()[:-1]) if "cut" in change else changed.unlink()
    config = limbeck.DistillConfig(output_dir="elsewhere", max_steps=6, report_to="none", use_cpu=True)
    train = limbeck.digits().select(range(20))
    trainer = limbeck.DistillTrainer(
        limbeck.mlp([64, 8, 10]), limbeck.load("teacher"), limbeck.Objective(), config, train_dataset=train
    )
    with pytest.raises(limbeck.CheckpointError, match=changed.name if "seal" not in change else "checkpoint-4"):
        trainer.train(resume_from_checkpoint=str(checkpoint))


def test_an_old_student_is_measured_as_it_was(limbeck_says: Callable[..., Any]) -> None:
    same = ["--teacher", "teacher", "--student", "run/student", "--baseline", "run/baseline"]
    code, _, err = limbeck_says("evaluate", *same, "--output", "measured/results.json")
    assert (code, err) == (0, "")
    assert_same_numbers("measured/results.json", "run/results.json")


def test_an_old_student_is_exported_as_it_was(old: Path) -> None:
    exported = json.loads(Path("run/export.json").read_text())
    assert exported["student"] == limbeck.ModelTeacher(limbeck.load("run/student")).fingerprint()
    onnxruntime = pytest.importorskip("onnxruntime", reason="limbeck[export] is not installed")
    session = onnxruntime.InferenceSession("run/student.onnx", providers=["CPUExecutionProvider"])
    logits = session.run(["logits"], {"inputs": make.examples(4).numpy()})[0]
    close(Tensor(logits), RECORDED["classifiers"]["run/student"])


# Searches


def test_a_search_is_drawn(limbeck_says: Callable[..., Any]) -> None:
    assert limbeck_says("report", "tuned", "--output", "page.html")[0] == 0
    search = json.loads(Path("tuned/tune.json").read_text())
    page = html.unescape(Path("page.html").read_text())
    assert search["sentence"] in page
    for candidate in search["candidates"]:
        assert f"{candidate['nll']['mean']:.4f}" in page


def test_a_search_is_gone_on_with_and_trains_nothing_again(limbeck_says: Callable[..., Any]) -> None:
    code, _, err = limbeck_says(*make.TUNE)
    assert (code, err) == (0, "")
    found, before = (json.loads((folder / "tuned/tune.json").read_text()) for folder in (Path(), make.HERE))
    for name in ("settings", "asked", "best", "candidates", "trials"):  # of the trials their seconds too
        assert found[name] == before[name]
    settings, before = (yaml.safe_load((folder / "tuned/distill.yaml").read_text()) for folder in (Path(), make.HERE))
    assert {name: settings.get(name) for name in before} == before


@with_these_arguments
def test_a_run_is_trained_with_what_a_search_chose(limbeck_says: Callable[..., Any]) -> None:
    code, _, err = limbeck_says("distill", "--config", "tuned/distill.yaml", "--output_dir", "chosen")
    assert (code, err) == (0, "")
    search, results = json.loads(Path("tuned/tune.json").read_text()), limbeck.read_results("chosen/results.json")
    assert results["tuned"] == {name: part for name, part in search.items() if name != "trials"} | {"differs": []}
    chosen = [results["settings"][name] for name in ("temperature", "hard_weight")]
    assert chosen == [search["best"]["temperature"], search["best"]["hard_weight"]]


# Language models


def test_the_results_of_a_language_model_open_and_are_drawn(limbeck_says: Callable[..., Any]) -> None:
    results = limbeck.read_results("language_run/results.json")
    assert results["task"] == "language"
    assert limbeck_says("report", "language_run", "--output", "page.html")[0] == 0
    page = html.unescape(Path("page.html").read_text())
    assert results["verdict"]["sentence"] in page
    assert f"{results['roles']['student']['perplexity']['mean']:,.2f}" in page


@with_these_arguments
def test_the_settings_of_a_language_model_train_the_same_student_again(limbeck_says: Callable[..., Any]) -> None:
    code, _, err = limbeck_says("distill", "--config", "language_run/config.yaml", "--output_dir", "again")
    assert (code, err) == (0, "")
    assert_same_numbers("again/results.json", "language_run/results.json")
    assert_same_weights(limbeck.load("again/student"), limbeck.load("language_run/student"))


# Labelled transfer sets


@pytest.mark.parametrize("name", PLAIN_SETS)
def test_a_stored_set_holds_what_the_teacher_said(name: str) -> None:
    opened = limbeck.open(f"sets/{name}")
    found, expected = make.targets_of(opened), RECORDED["targets"][name]
    assert found.keys() == expected.keys()
    for part in found:
        if found[part] is not None:
            close(found[part], expected[part])
    assert make.loss_of(opened) == pytest.approx(RECORDED["losses"][name], rel=1e-5)


@pytest.mark.parametrize("name", [*make.IMAGE_SETS, *make.TEXT_SETS])
def test_a_stored_set_is_whole(name: str, limbeck_says: Callable[..., Any]) -> None:
    assert limbeck.verify(f"sets/{name}") == []
    manifest = json.loads(Path("sets", name, "manifest.json").read_text())
    code, out, err = limbeck_says("info", f"sets/{name}")
    assert (code, err) == (0, "")
    assert manifest["teacher"][:8] in out
    if name in make.IMAGE_SETS:
        assert manifest["teacher"] == RECORDED["fingerprints"]["network"]
        assert limbeck.verify(f"sets/{name}", make.members()["network"]) == []


@pytest.mark.parametrize(
    "name", [*make.IMAGE_SETS, *(pytest.param(name, marks=same_transformers) for name in make.TEXT_SETS)]
)
def test_a_stored_set_is_made_with_the_same_plan(name: str, old: Path) -> None:
    """The hashes of teacher, examples and tokenizer and all settings are the stored ones, or label would refuse."""
    files = sorted(path for path in Path("sets", name).iterdir())
    before = [path.read_bytes() for path in files]
    make.labelled(name, old / "sets")
    assert sorted(Path("sets", name).iterdir()) == files
    assert [path.read_bytes() for path in files] == before


def test_a_stored_set_knows_its_tokenizer() -> None:
    """Its hash is the stored one, or the trainer would refuse, as it does another one."""
    stored = json.loads(Path("sets/text_top_k/manifest.json").read_text())["tokenizer"]
    opened, tokenizer = limbeck.open("sets/text_top_k"), transformers.ByT5Tokenizer(extra_ids=0)
    config = limbeck.DistillConfig(
        output_dir="elsewhere", max_steps=1, save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True
    )

    def train() -> int:
        trainer = limbeck.DistillTrainer(
            make.writer(), opened.teacher, limbeck.Objective(), config, train_dataset=opened, processing_class=tokenizer
        )
        trainer.train()
        return trainer.state.global_step

    assert train() == 1
    tokenizer.add_tokens(["another"])
    with pytest.raises(limbeck.DataError, match=stored):
        train()


def test_another_teacher_is_told_from_the_one_that_labelled(old: Path) -> None:
    options = make.IMAGE_SETS["top_k"]
    with pytest.raises(limbeck.DataError, match="teacher"):
        limbeck.label(limbeck.load("teacher"), limbeck.digits().select(range(20)), old / "sets" / "top_k", **options)
    assert len(limbeck.verify("sets/top_k", limbeck.load("teacher"))) == 1


def test_the_views_of_a_stored_set_are_replayed(tmp_path: Path) -> None:
    close(make.trained_on_views(limbeck.open("sets/views"), str(tmp_path / "run")), RECORDED["trained on views"])


@pytest.mark.parametrize("name", make.ON_SETS)
def test_the_command_trains_on_a_stored_set(name: str, limbeck_says: Callable[..., Any]) -> None:
    code, _, err = limbeck_says(*make.ON_SETS[name], "--output_dir", "trained")
    assert (code, err) == (0, "")
    found = make.numbers(limbeck.read_results("trained/results.json"))
    assert found == pytest.approx(RECORDED["trained on sets"][name], rel=1e-3, abs=1e-5)
