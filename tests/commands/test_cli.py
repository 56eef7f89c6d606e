"""The command line, called as a function: what a run leaves, what is refused, and the exit codes (0, 1, 2)."""

import gc
import html
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import limbeck
from limbeck.cli import main
from limbeck.commands import demo
from limbeck.networks.folder import save
from limbeck.networks.mlp import mlp
from limbeck.transfer import digits

gc.freeze()  # Trainer collects garbage whenever it starts, and the libraries above are none
QUICK = ["--max_steps", "6", "--save_strategy", "steps", "--save_steps", "3", "--logging_steps", "2"]
NARROW = ["--hidden", "12", *QUICK]


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Folders of two networks that know a little about the digits."""
    folder, made = tmp_path_factory.mktemp("teachers"), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        made.append(str(save(mlp([64, 20, 10]), folder / str(seed), label_names=digits().label_names)))
    return made


@pytest.fixture(autouse=True)
def _a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


def log_of(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


# A run


def test_a_run_leaves_what_it_says(teachers: list[str], limbeck_says: Any) -> None:
    code, out, _ = limbeck_says(
        *("distill", "--teacher", *teachers, "--mean", "geometric", "--baseline", "--output_dir", "runs/a"),
        *("--temperature", "3", "--hard_weight", "0.2", "--jitter", "1", "--labelled", "200", *NARROW),
    )
    assert code == 0
    assert "1 × forward_kl at T = 3 + 0.2 × labels" in out
    assert "runs/a: student, baseline, results.json, report.html, log.jsonl, config.yaml" in out

    student, baseline = limbeck.load("runs/a/student"), limbeck.load("runs/a/baseline")
    assert student.settings["sizes"] == baseline.settings["sizes"] == [64, 12, 10]
    assert student.label_names == digits().label_names
    results = json.loads(Path("runs/a/results.json").read_text())
    assert results["verdict"]["sentence"] in html.unescape(Path("runs/a/report.html").read_text())
    assert limbeck_says("report", "runs/a", "--output", "again.html")[0] == 0
    assert Path("again.html").read_bytes() == Path("runs/a/report.html").read_bytes()
    assert list(results["roles"]) == ["teacher", "student", "baseline"]
    assert results["test"]["examples"] == 359
    assert results["settings"]["temperature"] == 3
    weights = {"soft_weight": 1.0, "hard_weight": 0.2}
    assert results["objective"] == {"divergence": "forward_kl", "temperature": 3.0} | weights
    assert results["verdict"]["sentence"] in out
    test = digits().split(0.2, seed=0)[1]
    with torch.no_grad():
        right = (student(test.__getitems__(range(359))["inputs"]).argmax(-1) == test.labels).double().mean()
    assert results["roles"]["student"]["accuracy"]["mean"] == pytest.approx(float(right))

    for name, terms in (("log", {"soft_loss", "hard_loss"}), ("baseline", {"hard_loss"})):
        lines = [line for line in log_of(f"runs/a/{name}.jsonl") if "loss" in line]
        assert [line["step"] for line in lines] == [2, 4, 6]
        assert all(terms == {k for k in line if k.endswith("_loss")} for line in lines)
    settings = yaml.safe_load(Path("runs/a/config.yaml").read_text())
    assert settings["teacher"] == teachers
    assert settings["mean"] == "geometric"


def test_without_a_teacher_settings_have_the_weights_that_were_trained_with(limbeck_says: Any) -> None:
    run = ["distill", "--output_dir", "a", *NARROW]
    assert limbeck_says(*run)[0] == 0
    results = json.loads(Path("a/results.json").read_text())
    weights = {"soft_weight": 0.0, "hard_weight": 1.0}
    assert {name: results["settings"][name] for name in weights} == weights
    assert {name: results["objective"][name] for name in weights} == weights
    settings = yaml.safe_load(Path("a/config.yaml").read_text())
    assert {name: settings[name] for name in weights} == weights
    older = settings | {"soft_weight": 1.0, "hard_weight": 0.0}  # as earlier versions recorded it
    Path("a/config.yaml").write_text(yaml.safe_dump(older))
    code, out, _ = limbeck_says(*run, "--resume")
    assert (code, "weight was" in out) == (0, False)


def test_a_run_is_neither_mixed_in_nor_lost_unasked(limbeck_says: Any) -> None:
    run = ["distill", "--output_dir", "runs/a", *NARROW]
    assert limbeck_says(*run)[0] == 0
    weights = Path("runs/a/student/model.safetensors").read_bytes()
    code, _, err = limbeck_says(*run, "--seed", "5")
    assert code == 1
    assert "limbeck distill: runs/a already holds a run; --resume continues it, --overwrite replaces it" in err
    assert Path("runs/a/student/model.safetensors").read_bytes() == weights
    assert limbeck_says(*run, "--resume", "--overwrite")[0] == 1

    code, out, _ = limbeck_says(*run, "--resume", "--max_steps", "9")
    assert code == 0
    assert "max_steps was 6 until now, and is 9 from here on" in out
    assert [line["step"] for line in log_of("runs/a/log.jsonl") if "loss" in line] == [2, 4, 6, 8]
    assert Path("runs/a/student/model.safetensors").read_bytes() != weights

    assert limbeck_says(*run, "--overwrite")[0] == 0
    assert Path("runs/a/student/model.safetensors").read_bytes() == weights  # as the first time
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("keep")
    code, _, err = limbeck_says(*run, "--overwrite", "--output_dir", "mine")
    assert (code, Path("mine/notes.txt").read_text()) == (1, "keep")
    assert "is not empty and is not a Limbeck run" in err
    Path("mine/config.yaml").write_text("of: another program")
    assert limbeck_says(*run, "--output_dir", "mine")[0] == 1
    assert Path("mine/notes.txt").read_text() == "keep"

    Path("runs/a/notes.txt").write_text("keep")
    assert limbeck_says(*run, "--overwrite")[0] == 0
    assert Path("runs/a/notes.txt").read_text() == "keep"  # what a run did not leave there is not its to delete


def test_data_of_one_split_is_measured_on_the_examples_that_distill_set_apart(limbeck_says: Any) -> None:
    rows = [f"{i % 7},{i % 5},{i % 2}" for i in range(50)]
    Path("rows.csv").write_text("a,b,label\n" + "\n".join(rows))
    code, out, _ = limbeck_says("distill", "--data", "rows.csv", "--output_dir", "runs/a", *NARROW)
    assert code == 0
    assert "10 of its examples are set apart as the test" in out
    code, out, _ = limbeck_says("evaluate", "--data", "rows.csv", "--student", "runs/a/student")
    assert code == 0
    assert "10 of its examples are set apart as the test" in out
    trained, again = (json.loads(Path(p).read_text()) for p in ("runs/a/results.json", "results.json"))
    assert again["test"] == trained["test"]
    assert again["roles"]["student"]["nll"] == trained["roles"]["student"]["nll"]


OWN = """
import torch
from torch import nn
from limbeck.transfer import digits

class Student(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)
    def forward(self, inputs):
        return self.layer(inputs.flatten(1))

def teacher(batch):
    return 5 * torch.nn.functional.one_hot(batch["row_id"] % 10, 10).float()

def make_teacher():
    return teacher

def data():
    rest, test = digits().split(0.5)
    return {"train": rest, "test": test}
"""


def test_what_is_ones_own_is_taken_from_the_current_folder(limbeck_says: Any) -> None:
    Path("mine").mkdir()
    Path("mine/__init__.py").touch()
    Path("mine/nets.py").write_text(OWN)
    run = ["distill", "--student", "mine.nets:Student", "--teacher", "mine.nets:make_teacher", *QUICK]
    code, out, err = limbeck_says(*run, "--data", "mine.nets:data", "--output_dir", "a")
    assert (code, err) == (0, "")
    assert "Student: 650 parameters" in out
    own = sys.modules["mine.nets"].Student()
    assert limbeck.load("a/student", into=own).label_names == digits().label_names
    results = json.loads(Path("a/results.json").read_text())
    assert results["test"]["examples"] == 898
    for text, said in (
        ("mine.nets:Studend", "mine.nets has no 'Studend'; it has Student"),
        ("mine.nots:Student", "There is no module 'mine.nots'"),
    ):
        code, _, err = limbeck_says("distill", "--student", text, "--output_dir", "b")
        assert code == 1
        assert said in err
    assert not Path("b").exists()


def test_a_student_is_cut_from_its_teacher(limbeck_says: Any) -> None:
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "very"]
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    torch.manual_seed(0)
    shape = {"num_hidden_layers": 4, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 12}
    teacher = BertForSequenceClassification(BertConfig(vocab_size=len(words), **shape)).eval()
    save(teacher, "teacher", label_names=["no", "yes"], tokenizer=tokenizer)
    lines = [f"{'very ' * (i % 4)}{'good' if i % 2 else 'bad'} film,{'yes' if i % 2 else 'no'}" for i in range(80)]
    Path("films.csv").write_text("\n".join(["text,label", *lines]))
    run = ["distill", "--data", "films.csv", "--teacher", "teacher", *QUICK, "--weight_decay", "0"]
    run += ["--max_steps", "1", "--overwrite", "--output_dir", "run"]
    for text, kept in (("take_layers:3", [0, 2, 3]), ("take_layers:1,2", [1, 2]), ("take_layers:3,", None)):
        code, _, err = limbeck_says(*run, "--student", text)
        if kept is None:
            assert code == 1
            assert "take_layers:6, or which, take_layers:0,2,5; got 'take_layers:3,'" in err
            continue
        assert code == 0, err
        student: Any = limbeck.load("run/student")
        assert student.config.num_hidden_layers == len(student.bert.encoder.layer) == len(kept)
        for ours, index in zip(student.bert.encoder.layer, kept, strict=True):
            apart = [
                (ours.intermediate.dense.weight - layer.intermediate.dense.weight).abs().max()
                for layer in teacher.bert.encoder.layer
            ]
            # a step of Adam moves a weight by at most the learning rate: 5e-5, as the student was trained before
            assert [i for i, distance in enumerate(apart) if distance < 5.1e-5] == [index]
        assert BertTokenizer.from_pretrained("run/student")("good film") == tokenizer("good film")


def test_a_labelled_transfer_set_needs_no_teacher(teachers: list[str], limbeck_says: Any) -> None:
    rest, _ = digits().split(0.5, seed=3)
    limbeck.label(limbeck.load(teachers[0]), rest, "said", kind="dense", dtype="float32")
    live = ["distill", *NARROW, "--weight_decay", "0", "--validation", "0", "--temperature", "3", "--seed", "5"]
    code, out, err = limbeck_says(*live, "--transfer_set", "said", "--output_dir", "stored")
    assert (code, err) == (0, "")
    assert "180 of the stored examples are held out as the test." in out
    results = json.loads(Path("stored/results.json").read_text())
    assert results["roles"]["teacher"]["latency_ms"] is None
    test = rest.split(0.2, seed=0)[1]
    with torch.no_grad():
        said = limbeck.load(teachers[0])(test.__getitems__(range(len(test)))["inputs"])
    right = float((said.argmax(-1) == test.labels).double().mean())
    assert results["roles"]["teacher"]["accuracy"]["mean"] == pytest.approx(right)

    # the student of the live teacher, on the same examples
    Path("halves.py").write_text(
        "from limbeck import digits\n"
        "def data():\n"
        "    train, test = digits().split(0.5, seed=3)[0].split(0.2, seed=0)\n"
        "    return {'train': train, 'test': test}\n"
    )
    code, _, err = limbeck_says(*live, "--data", "halves:data", "--teacher", teachers[0], "--output_dir", "live")
    assert (code, err) == (0, "")
    stored, lived = (limbeck.load(f"{name}/student") for name in ("stored", "live"))
    for a, b in zip(stored.parameters(), lived.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)

    # a test of its own, and the live teacher to measure it by; what the set cannot give is refused
    code, out, err = limbeck_says(
        *live,
        "--transfer_set",
        "said",
        "--data",
        "halves:data",
        "--teacher",
        teachers[0],
        "--baseline",
        "--output_dir",
        "c",
    )
    assert (code, err) == (0, "")
    assert json.loads(Path("c/results.json").read_text())["test"]["examples"] == len(test)
    for more, said_ in (
        (["--transfer_set", "said", "--labelled", "50"], "--labelled removes labels from --data"),
        (["--transfer_set", "nowhere"], "nowhere is not a stored set"),
        (["--transfer_set", "said", "--jitter", "1"], "remove augment (--jitter), label augmented views"),
    ):
        code, _, err = limbeck_says(*live, *more, "--output_dir", "d")
        assert code == 1
        assert said_ in err


def test_a_short_run_has_a_curve_unless_it_is_told_not_to(limbeck_says: Any) -> None:
    same = ("distill", "--data", "digits", "--hidden", "8", "--save_strategy", "no", "--max_steps", "40")
    for folder, more, steps in (
        ("a", (), 20),
        ("b", ("--logging_steps", "15"), 2),
        ("c", ("--logging_steps", "50"), 0),
    ):
        assert limbeck_says(*same, *more, "--output_dir", folder)[0] == 0
        logged = [line for line in log_of(f"{folder}/log.jsonl") if "loss" in line]
        assert len(logged) == steps


def test_what_is_exported_goes_with_its_student(limbeck_says: Any) -> None:
    """Its files stay with the same student, are gone with another one, and nothing else is touched."""
    often = ("--save_steps", "3", "--save_strategy", "steps", "--lr_scheduler_type", "constant")
    same = ("distill", "--data", "digits", "--hidden", "8", *often, "--output_dir", "run")
    assert limbeck_says(*same, "--max_steps", "3")[0] == 0
    Path("run", "student.onnx.mine").write_text("mine")
    assert limbeck_says("export", "run", "--int8")[0] == 0
    Path("m[1]").mkdir()
    shutil.copytree("run/student", "m[1]/m")
    code, out, _ = limbeck_says("export", "m[1]/m")
    assert (code, "m[1]: m.onnx, m.export.json" in out) == (0, True)
    assert json.loads(Path("m[1]/m.export.json").read_text())["onnx"]["bytes"] == Path("m[1]/m.onnx").stat().st_size
    code, out, _ = limbeck_says(*same, "--max_steps", "3", "--resume")
    assert (code, "Note" in out, "As a file" in Path("run/report.html").read_text()) == (0, False, True)
    Path("run/baseline.onnx").write_text("mine, of limbeck.export_onnx, which leaves no record")
    code, out, _ = limbeck_says(*same, "--max_steps", "6", "--resume")
    assert (code, "student.onnx, student.int8.onnx, export.json belonged to the previous student" in out) == (0, True)
    assert sorted(path.name for path in Path("run").glob("*onnx*")) == ["baseline.onnx", "student.onnx.mine"]


def test_secrets_stay_where_they_are(limbeck_says: Any) -> None:
    words = ("distill", "--data", "digits", "--hidden", "8", "--max_steps", "2", "--hub_token", "hf_secret")
    assert limbeck_says(*words, "--output_dir", "run")[0] == 0
    for path in Path("run").rglob("*"):
        assert path.is_dir() or b"hf_secret" not in path.read_bytes(), path


def test_a_page_does_not_take_the_place_of_results(teachers: list[str], limbeck_says: Any) -> None:
    assert limbeck_says("evaluate", "--student", teachers[0], "--output", "results.json")[0] == 0
    before = Path("results.json").read_bytes()
    for output in ("results.json", "."):
        code, _, err = limbeck_says("report", "results.json", "--output", output)
        assert (code, "--output is the page to write" in err) == (1, True)
    assert Path("results.json").read_bytes() == before


def test_data_that_is_named_is_the_test_of_a_stored_set(teachers: list[str], limbeck_says: Any) -> None:
    """Also where it is called as the command's own default is; and the settings that are left say which it was."""
    limbeck.label(limbeck.load(teachers[0]), digits().split(0.2, seed=0)[0], "said", kind="dense")
    run = ["distill", "--transfer_set", "said", *NARROW, "--output_dir"]
    assert limbeck_says(*run, "a")[0] == 0
    assert limbeck_says(*run, "b", "--data", "digits")[0] == 0
    for name in "ab":
        assert limbeck_says("distill", "--config", f"{name}/config.yaml", "--output_dir", f"{name}_again")[0] == 0
        code, out, _ = limbeck_says("distill", "--config", f"{name}/config.yaml", "--output_dir", name, "--resume")
        assert (code, "Note" in out) == (0, False)
    for name, examples in (("a", 288), ("a_again", 288), ("b", 359), ("b_again", 359)):
        assert json.loads(Path(name, "results.json").read_text())["test"]["examples"] == examples
    code, out, _ = limbeck_says("tune", "--transfer_set", "said", "--data", "digits", *NARROW, "--temperatures", "2")
    assert (code, "Examples: 1,294 train, 144 validation" in out) == (0, True)
    assert yaml.safe_load(Path("runs/tune/distill.yaml").read_text())["data"] == "digits"


def test_evaluate_measures_what_was_saved(teachers: list[str], limbeck_says: Any) -> None:
    code, out, _ = limbeck_says(
        *(
            "evaluate",
            "--student",
            teachers[0],
            "--baseline",
            teachers[1],
            "--teacher",
            teachers[0],
            "--output",
            "r.json",
        )
    )
    assert code == 0
    assert "r.json: the measurements; report_r.html: the same as a page" in out
    assert json.loads(Path("r.json").read_text())["verdict"]["sentence"] in html.unescape(
        Path("report_r.html").read_text()
    )
    roles = json.loads(Path("r.json").read_text())["roles"]
    assert roles["student"]["to_teacher"]["agreement"]["mean"] == 1
    assert roles["student"]["to_teacher"]["forward_kl"]["mean"] == pytest.approx(0, abs=1e-6)
    test = digits().split(0.2, seed=0)[1]
    with torch.no_grad():
        said = limbeck.load(teachers[1])(test.__getitems__(range(359))["inputs"])
    assert roles["baseline"]["accuracy"]["mean"] == pytest.approx(
        float((said.argmax(-1) == test.labels).double().mean())
    )
    code, _, err = limbeck_says("evaluate", "--student", teachers[0], "--split", "final")
    assert (code, "has no split 'final'; it has train, test" in err) == (1, True)
    assert limbeck_says("evaluate")[0] == 1


def test_the_demo_leaves_pages_with_the_curves_of_its_first_training(
    limbeck_says: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, fewer in (("FOLDS", 2), ("MEMBERS", 1), ("MEMBER_STEPS", 20), ("STUDENT_STEPS", 20)):
        monkeypatch.setattr(demo, name, fewer)
    code, out, _ = limbeck_says("demo", "--seeds", "1", "--output_dir", "d")
    said = "d: student, results.json, report.html, results_every_label.json, report_every_label.html, log.jsonl"
    assert (code, said in " ".join(out.split())) == (0, True)
    few, every = (json.loads(Path(f"d/results{name}.json").read_text()) for name in ("", "_every_label"))
    assert few["curves"] == {"student": log_of("d/log.jsonl"), "baseline": log_of("d/baseline.jsonl")}
    assert [line["step"] for line in few["curves"]["baseline"] if "hard_loss" in line] == [10, 20]
    assert every["curves"] == {}
    for results, name in ((few, "report.html"), (every, "report_every_label.html")):
        assert results["verdict"]["sentence"] in html.unescape(Path("d", name).read_text())


# Settings


def test_settings_are_printed_and_read_again(limbeck_says: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["distill", *NARROW, "--temperature", "7", "--output_dir", "a", "--print_config"])
    Path("settings.yaml").write_text(capsys.readouterr().out)
    settings = yaml.safe_load(Path("settings.yaml").read_text())
    assert (settings["temperature"], settings["hidden"], settings["max_steps"]) == (7, [12], 6)
    with pytest.raises(SystemExit):
        main(["distill", "--config", "settings.yaml", "--max_steps", "4", "--print_config"])
    again = yaml.safe_load(capsys.readouterr().out)
    assert again == settings | {"max_steps": 4}  # flags after it win


def test_a_default_learning_rate_is_recorded_and_an_older_run_without_it_resumes_silently(limbeck_says: Any) -> None:
    run = ["distill", "--output_dir", "a", *NARROW]
    assert limbeck_says(*run)[0] == 0
    assert json.loads(Path("a/results.json").read_text())["settings"]["learning_rate"] == 1e-3
    settings = yaml.safe_load(Path("a/config.yaml").read_text())
    assert settings.pop("learning_rate") == 1e-3
    Path("a/config.yaml").write_text(yaml.safe_dump(settings))
    code, out, _ = limbeck_says(*run, "--resume")
    assert (code, "Note" in out) == (0, False)
    code, _, err = limbeck_says(*run, "--resume", "--learning_rate", "0.01", "--max_steps", "7")
    assert (code, "--learning_rate was 0.001, but is 0.01 now" in err) == (1, True)


def test_settings_that_help_does_not_show_are_kept_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["distill", "--gradient_accumulation_steps", "4", "--lr_scheduler_type", "linear", "--print_config"])
    settings = yaml.safe_load(capsys.readouterr().out)
    assert (settings["gradient_accumulation_steps"], settings["lr_scheduler_type"]) == (4, "linear")


# Refusals


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["distill", "--temperature", "0"], 1, "temperature must be a finite number above 0, but is 0"),
        (["distill", "--soft_weight", "0", "--teacher", "T"], 1, "both 0, so there is nothing to learn"),
        (["distill", "--divergence", "kl", "--teacher", "T"], 1, "no divergence 'kl'; choose forward_kl"),
        (["distill", "--baseline"], 1, "Without a teacher the student is the baseline itself"),
        (["distill", "--teacher", "nowhere/at/all"], 1, "nowhere/at/all is not a folder; a model is a folder with"),
        (["distill", "--teacher", "."], 1, ". is not a model: it has no config.json"),
        (["distill", "--student", "broken"], 1, "broken/model.safetensors has 30 bytes instead of"),
        (["distill", "--student", "narrow", "--max_steps", "1"], 1, "This MLP reads 3 numbers per example"),
        (
            ["distill", "--student", "few", "--max_steps", "1"],
            1,
            "transfer set has 10 classes and the student 9 outputs",
        ),
        (
            ["distill", "--student", "take_layers:2"],
            1,
            "copies layers of the teacher, but there is no teacher; pass --teacher",
        ),
        (["distill", "--student", "take_layers", "--teacher", "T"], 1, "take_layers:6, or which, take_layers:0,2,5"),
        (
            ["distill", "--student", "take_layers:2", "--teacher", "T"],
            1,
            "copies layers of transformers models, but got MLP",
        ),
        (
            ["distill", "--student", "take_layers:2", "--teacher", "T", "T"],
            1,
            "of one network, but the teacher has 2",
        ),
        (
            ["distill", "--student", "T", "--hidden", "30", "30", "--dropout", "0.1"],
            1,
            "--hidden, --dropout apply only to a new mlp, but the student is T; remove them",
        ),
        (
            ["tune", "--teacher", "T", "--student", "take_layers:2", "--max_norm", "3"],
            1,
            "--max_norm applies only to a new mlp, but the student is take_layers:2; remove it",
        ),
        (["distill", "--data", "nowhere.csv"], 1, "nowhere.csv"),
        (["distill", "--labelled", "99999"], 1, "--labelled must be between 1 and the 1294"),
        (["distill", "--per_device_train_batch_size", "0"], 1, "per_device_train_batch_size must be 1 or more"),
        (["distill", "--tempreature", "3"], 2, "--tempreature"),
        (["distill", "--temperature", "warm"], 2, "temperature"),
        (["distill", "--config", "typo.yaml"], 2, "tempreature"),
        (["distill", "--config", "nowhere.yaml"], 2, "nowhere.yaml"),
        (["distil"], 2, "no command 'distil'. Did you mean 'distill'?"),
        (["train"], 2, "no command 'train'."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_refused_says_what_to_do(words: list[str], code: int, said: str, limbeck_says: Any) -> None:
    Path("typo.yaml").write_text("tempreature: 3\n")
    save(mlp([64, 10]), "broken")
    Path("broken/model.safetensors").write_bytes(b"\x00" * 30)
    save(mlp([3, 10]), "narrow")
    save(mlp([64, 9]), "few")
    save(mlp([64, 10]), "T")
    got, _, err = limbeck_says(*words)
    assert said in err
    assert got == code
    assert "Traceback" not in err


def test_help_and_version(limbeck_says: Any) -> None:
    code, out, _ = limbeck_says("--help")
    assert code == 0
    assert "distill" in out
    assert limbeck_says("--version")[:2] == (0, limbeck.__version__)
    called = [sys.executable, "-m", "limbeck", "--version"]
    as_module = subprocess.run(called, capture_output=True, text=True, check=True)
    assert as_module.stdout.strip() == limbeck.__version__
    assert limbeck_says()[0] == 2
    code, out, _ = limbeck_says("distill", "--help")
    assert code == 0
    assert "--temperature" in out
    assert "--fsdp" not in out  # it works all the same, and --help_all shows it


def test_a_refused_resume_leaves_the_runs_settings_as_they_were(tmp_path: Path) -> None:
    few = ["--max_steps", "2", "--save_steps", "1", "--save_strategy", "steps", "--output_dir", str(tmp_path / "run")]
    assert main(["distill", "--hidden", "8", *few]) == 0
    before = (tmp_path / "run" / "config.yaml").read_text()
    assert main(["distill", "--hidden", "9", "--resume", *few]) == 1
    assert (tmp_path / "run" / "config.yaml").read_text() == before


def test_a_mistyped_folder_is_not_looked_for_on_the_hub(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert main(["distill", "--teacher", "runs/studnt", "--output_dir", "new"]) == 1
    assert "runs/studnt is not a folder" in capsys.readouterr().err


def test_the_plan_counts_the_labels_of_each_class(limbeck_says: Any) -> None:
    rows = [(i % 7, ["NA", "cat", ""][i % 3]) for i in range(90)]
    Path("train.csv").write_text("x,label\n" + "".join(f"{x},{label}\n" for x, label in rows))
    options = ("--student", "mlp", "--hidden", "4", "--max_steps", "1", "--output_dir", "run")
    code, out, _ = limbeck_says("distill", "--data", "train.csv", *options)
    assert (code, "Labels: 43 of 65 training examples (NA: 22, cat: 21)." in out) == (0, True), out


def test_labels_that_are_numbers_stay_by_num_classes(limbeck_says: Any) -> None:
    Path("train.csv").write_text("x,label\n" + "".join(f"{i % 7},{1 + i % 3}\n" for i in range(60)))
    options = ("--data", "train.csv", "--hidden", "4", "--max_steps", "1")
    for more, counted in (((), "(1: "), (("--num_classes", "5"), "(0: 0, 1: ")):
        code, out, _ = limbeck_says("distill", *options, *more, "--output_dir", f"run{len(more)}")
        assert (code, f"training examples {counted}" in out) == (0, True), out
