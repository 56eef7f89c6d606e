"""The examples, at a tiny size: the figures of the weights they load, what is matched, and what a run leaves behind.

Oracles: the accuracies that the weights were published with, a recording of what networks were shown, and the
results' own file. The real runs and their tables are in docs/own_networks.md.
"""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import limbeck
from limbeck.cli import main as command

EXAMPLES = Path(__file__).parents[1] / "examples"
LOGS = ("log", "baseline")


@pytest.fixture(autouse=True)
def _run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty current folder, from which the examples can be imported, anew for every test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    yield
    for name in ("own_networks", "small_bert", "stories", "context", "tables", "tasks"):
        sys.modules.pop(name, None)


@pytest.fixture
def own_networks(data: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    data("cifar10_subset"), data("resnet_cifar10")
    monkeypatch.setattr("limbeck.evaluation.running.latency_ms", lambda *_: 1.0)  # would take longer than all the rest
    import own_networks

    return own_networks


@pytest.fixture
def small_bert(data: Callable[[str], Path]) -> ModuleType:
    data("sst2")
    import small_bert

    return small_bert


@pytest.mark.parametrize(("network", "weights", "right"), [("resnet56_pretrained", None, 926), ("resnet20", 20, 915)])
def test_networks_have_the_published_accuracy(
    own_networks: ModuleType, data: Callable[[str], Path], network: str, weights: int | None, right: int
) -> None:
    model = getattr(own_networks, network)().eval()
    if weights is not None:  # the student's architecture is the published one too
        with np.load(data("resnet_cifar10") / f"resnet{weights}.npz") as arrays:
            model.load_state_dict({name: torch.from_numpy(arrays[name]) for name in arrays.files})
    test = own_networks.cifar10()["test"]
    with torch.no_grad():
        batches = [test.__getitems__(range(start, start + 50)) for start in range(0, 1000, 50)]
        found = sum(int((model(batch["inputs"]).argmax(1) == batch["labels"]).sum()) for batch in batches)
    assert found == right


def test_mirror_exchanges_left_and_right_of_half_of_the_images(own_networks: ModuleType) -> None:
    images = torch.arange(1000 * 3 * 32 * 32.0).view(1000, 3, 32, 32)
    seen = own_networks.mirrored({"inputs": images, "row_id": torch.arange(1000)}, 0)["inputs"]
    same = (seen == images).flatten(1).all(1)
    flipped = torch.from_numpy(images.numpy()[..., ::-1].copy())
    assert torch.equal(seen[~same], flipped[~same])
    assert 420 < same.sum() < 580  # 5 standard deviations of 1,000 tosses


class Recording(nn.Module):
    """Ten logits of an image, and every batch of images that it was asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 32 * 32, 10)
        self.shown: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.shown.append(images.clone())
        return self.linear(images.flatten(1))


def test_teacher_student_and_baseline_see_the_same_views(own_networks: ModuleType) -> None:
    examples = own_networks.cifar10()["train"].select(range(80))
    teacher, student, baseline = Recording(), Recording(), Recording()
    own_networks.train(student, examples, 4, teacher)
    own_networks.train(baseline, examples, 4)
    shown = [torch.cat(network.shown) for network in (teacher, student, baseline)]
    assert shown[0].shape[0] == 40 + 2 * 80  # the batch that is checked before training, then two epochs of 80
    assert torch.equal(shown[0], shown[1])
    assert torch.equal(shown[0], shown[2])
    as_they_are = {image.numpy().tobytes() for image in examples.__getitems__(range(80))["inputs"]}
    unchanged = sum(image.numpy().tobytes() in as_they_are for image in shown[0])
    assert unchanged <= 8  # of 200, where one in 162 views is the image itself


def test_own_networks_end_to_end(own_networks: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[dict[str, Tensor]] = []
    train = own_networks.train

    def recorded(student: nn.Module, *rest: Any) -> nn.Module:
        began.append({name: tensor.clone() for name, tensor in student.state_dict().items()})
        return train(student, *rest)

    monkeypatch.setattr(own_networks, "train", recorded)
    sets = own_networks.cifar10()
    few = {"train": sets["train"].select(range(80)), "test": sets["test"].select(range(20))}
    every = own_networks.main(few, steps=2)
    assert len(began) == 3
    assert all(torch.equal(began[0][name], other[name]) for other in began[1:] for name in other)
    for name, results in every.items():
        assert limbeck.read_results(f"runs/own_networks/{name}.json") == results
        assert results["verdict"]["difference"]["mean"] == pytest.approx(
            results["roles"]["student"]["accuracy"]["mean"] - results["roles"]["baseline"]["accuracy"]["mean"]
        )
    results = every["every_label"]
    assert results["roles"]["teacher"]["parameters"] == 853_018
    assert results["roles"]["student"]["parameters"] == results["roles"]["baseline"]["parameters"] == 269_722
    again = limbeck.load("runs/own_networks/student", into=own_networks.resnet20())
    roles = limbeck.evaluate(again, few["test"], teacher=own_networks.resnet56_pretrained(), latency=False)["roles"]
    for role in ("student", "teacher"):
        assert roles[role]["nll"]["mean"] == pytest.approx(results["roles"][role]["nll"]["mean"], rel=1e-6)


def test_own_networks_on_the_command_line(own_networks: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = own_networks.cifar10()
    few = {"train": sets["train"].select(range(50)), "test": sets["test"].select(range(20))}
    monkeypatch.setattr(own_networks, "cifar10", lambda: few)
    words = "distill --data own_networks:cifar10 --teacher own_networks:resnet56_pretrained"
    words += " --student own_networks:resnet20 --jitter 4 --max_steps 2 --per_device_train_batch_size 10"
    assert command([*words.split(), "--output_dir", "run"]) == 0
    results = limbeck.read_results("run/results.json")
    assert results["test"]["examples"] == 20
    assert [results["roles"][role]["parameters"] for role in ("teacher", "student")] == [853_018, 269_722]
    assert results["curves"]["student"][-1]["step"] == 2
    limbeck.load("run/student", into=own_networks.resnet20())


def test_the_vocabulary_covers_the_training_sentences(small_bert: ModuleType) -> None:
    from transformers import AutoTokenizer

    small_bert.make_tokenizer("vocabulary")
    tokenizer = AutoTokenizer.from_pretrained("vocabulary")
    assert len(tokenizer) == small_bert.VOCABULARY
    sentence = "a stirring , funny and finally transporting re imagining of beauty and the beast and 1930s horror films"
    pieces = tokenizer.tokenize(sentence)
    assert " ".join(pieces).replace(" ##", "") == sentence
    assert tokenizer(sentence)["input_ids"] == tokenizer.convert_tokens_to_ids(["[CLS]", *pieces, "[SEP]"])


def test_small_bert_on_the_command_line(
    small_bert: ModuleType, data: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = tmp_path / "data" / "sst2"
    few.mkdir(parents=True)
    for name, lines in (("train.tsv", 200), ("dev.tsv", 60)):
        kept = (data("sst2") / name).read_text("utf-8").splitlines(keepends=True)[:lines]
        (few / name).write_text("".join(kept), "utf-8")
    monkeypatch.setenv("LIMBECK_DATA", str(few.parent))
    small_bert.make_tokenizer()
    every = "distill --data small_bert:sst2 --max_steps 4 --per_device_train_batch_size 16 --save_strategy no"
    every += " --logging_steps 2"
    make_teacher = f"{every} --student small_bert:teacher --tokenizer {small_bert.TOKENIZER} --output_dir runs/teacher"
    make_student = f"{every} --student small_bert:student --teacher runs/teacher/student --labelled 40 --baseline"
    assert command(make_teacher.split()) == 0
    assert command([*make_student.split(), "--output_dir", "runs/student"]) == 0

    results = limbeck.read_results("runs/student/results.json")
    assert results["test"]["examples"] == 60
    parameters = {role: of["parameters"] for role, of in results["roles"].items()}
    assert parameters == {"teacher": 810_626, "student": 141_890, "baseline": 141_890}
    made = limbeck.read_results("runs/teacher/results.json")["roles"]["student"]
    assert made["nll"]["mean"] == pytest.approx(results["roles"]["teacher"]["nll"]["mean"], rel=1e-5)
    assert "difference" in results["verdict"]
    first = {name: json.loads(Path(f"runs/student/{name}.jsonl").read_text().splitlines()[0]) for name in LOGS}
    assert ("soft_loss" in first["log"], "hard_loss" in first["log"]) == (True, False)
    assert ("soft_loss" in first["baseline"], "hard_loss" in first["baseline"]) == (False, True)
    sentences = [line.partition("\t")[0] for line in (few / "dev.tsv").read_text("utf-8").splitlines()]
    assert results["examples"][0]["text"].replace(" ", "") in [s.replace(" ", "") for s in sentences]


def test_stories(data: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The teacher is as good as it was published; a student half its size begins to learn; all is printed."""
    import stories
    from transformers import AutoTokenizer

    folder = data("stories260k")
    tokenizer, teacher = AutoTokenizer.from_pretrained(folder), limbeck.load(folder)
    text = (data("tinystories_sample") / "tinystories_sample.txt").read_text("utf-8")
    some = tmp_path / "some.txt"
    some.write_text("<|endoftext|>".join(text.split("<|endoftext|>")[:40]), "utf-8")
    train, test = stories.stories(some, tokenizer)
    assert (len(train), len(test)) == (36, 4)
    assert 2 * stories.weights(stories.student(tokenizer)) <= stories.weights(teacher)
    rows = [torch.tensor(row["input_ids"]) for row in train.select(range(8))]
    with torch.no_grad():
        losses = torch.cat(
            [-teacher(ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None]) for ids in rows]
        )
    assert losses.mean().item() == pytest.approx(1.3, abs=0.15)

    few = {"teacher": teacher, "train": train, "test": test, "tokenizer": tokenizer}
    early, late = (stories.trained(0, objective=stories.SOFT, steps=steps, **few) for steps in (1, 20))
    assert late["forward_kl"] < early["forward_kl"] - 0.3
    assert late["nll"] < early["nll"]
    stories.print_row("soft targets", late)
    assert f"{late['forward_kl']:.3f}" in capsys.readouterr().out


@pytest.fixture
def context() -> ModuleType:
    pytest.importorskip("peft", reason="peft is not installed")
    import context

    return context


def test_context_records_are_the_teachers_without_the_instruction(context: ModuleType) -> None:
    """By hand: what an instruction asks for; and the student's row is the teacher's without its first tokens."""
    backwards, forwards = "answer in French and backwards : ", "answer in Spanish and forwards : "
    assert {backwards, forwards} <= set(context.INSTRUCTIONS)
    records = [context.record(["cat", "sun", "milk"], backwards), context.record(["cat", "sun"], forwards)]
    assert [record["completion"] for record in records] == ["lait soleil chat", "gato sol"]
    assert context.record(["cat", "sun"], "")["completion"] == "cat sun"
    tokenizer = context.make_tokenizer()
    rows = limbeck.tokenise(datasets.Dataset.from_list(records), tokenizer)
    for row, record, instruction in zip(rows, records, (backwards, forwards), strict=True):
        assert row["teacher_input_ids"] == tokenizer(instruction).input_ids + row["input_ids"]
        learned = [token for token in row["labels"] if token != -100]
        assert tokenizer.decode(learned) == f"{record['completion']} <end>"


def test_context_counts_exact_answers(context: ModuleType) -> None:
    class Writing:
        """Writes the same four tokens after every prompt."""

        device = torch.device("cpu")

        def eval(self) -> "Writing":
            return self

        def generate(self, input_ids: Tensor, **_: Any) -> Tensor:
            said = tokenizer("chat lait <end> <end>", return_tensors="pt").input_ids
            return torch.cat([input_ids, said.expand(len(input_ids), -1)], 1)

    tokenizer = context.make_tokenizer()
    prompts = ["cat milk =", "sun =", "cat =", "cat milk sun ="]
    wanted = datasets.Dataset.from_dict({"completion": ["chat lait", "soleil", "chat", "chat lait"]})
    assert context.exact(Writing(), tokenizer, prompts, wanted) == 0.5


def test_context_end_to_end(
    context: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both students come nearer to a teacher that has only begun, on words that they have not been taught."""
    trained, asked = [], []
    train, divergence = context.train, context.divergence
    monkeypatch.setattr(context, "train", lambda *a, **k: (trained.append(a[3]), train(*a, **k)))
    monkeypatch.setattr(context, "divergence", lambda *a: (asked.append(a[2]), divergence(*a))[1])
    found = context.one_seed(0, teacher_steps=40, steps=12)
    before, after, adapted = [kl for _, kl in found.values()][1:]
    assert after < 0.95 * before
    assert adapted < 0.95 * before
    tokenizer = context.make_tokenizer()
    taught = {token for ids in trained[1]["input_ids"] for token in ids}
    words = {word for prompt in asked[0]["prompt"] for word in prompt.split()} - {"="}
    assert (len(words), len(set(asked[0]["prompt"]))) == (5, 20 + 60 + 120)
    assert not taught & set(tokenizer.convert_tokens_to_ids(list(words)))
    monkeypatch.setattr(context, "one_seed", lambda *_: found)
    monkeypatch.setattr(sys, "argv", ["context.py"])
    context.main()
    printed = capsys.readouterr().out
    assert all(f"{right:.3f}{kl:8.3f}" in printed for right, kl in found.values())


def test_a_table_end_to_end() -> None:
    import tables

    tables.main(rows=800)
    words = ("--data", "runs/cars", "--teacher", "tables:teacher", "--hidden", "8", "--num_train_epochs", "2")
    assert command(["distill", *words, "--labelled", "60", "--baseline", "--output_dir", "runs/sold"]) == 0
    results = limbeck.read_results("runs/sold/results.json")
    test = pd.read_csv("runs/cars/test.csv")
    expected = (tables.teacher().predict(test) == test.label).mean()
    assert results["roles"]["teacher"]["accuracy"]["mean"] == pytest.approx(expected, abs=1e-6)
    features = limbeck.load("runs/sold/student").table_encoder.features  # type: ignore[union-attr]
    assert [feature.kind for feature in features] == ["date", "category", "category", "number", "number", "number"]


def test_a_pipeline_of_texts_end_to_end(small_bert: ModuleType) -> None:
    small_bert.make_tokenizer()
    data = (
        "--data",
        str(small_bert._folder()),
        "--column_names",
        "sentence",
        "label",
        "--tokenizer",
        small_bert.TOKENIZER,
    )
    words = ("--teacher", "small_bert:pipeline", "--student", "small_bert:student", "--max_steps", "2")
    assert command(["distill", *data, *words, "--output_dir", "runs/tfidf"]) == 0
    accuracy = limbeck.read_results("runs/tfidf/results.json")["roles"]["teacher"]["accuracy"]["mean"]
    assert accuracy == pytest.approx(0.8016, abs=0.005)  # of scikit-learn on the 872 sentences


def test_numbers_tags_and_pixels_are_taught_as_the_docs_say() -> None:
    """A teacher that explains 53 % of the variance (docs/tasks.md), eight tags, three classes of pixels."""
    quick = ["--max_steps", "10", "--save_strategy", "no", "--logging_steps", "5"]
    numbers = [
        "--data",
        "tasks:diabetes",
        "--teacher",
        "tasks:process",
        "--variance",
        "--labelled",
        "60",
        "--hidden",
        "8",
    ]
    assert command(["distill", *numbers, *quick, "--output_dir", "numbers"]) == 0
    found = json.loads(Path("numbers/results.json").read_text())
    assert found["roles"]["teacher"]["scores"]["r2"]["mean"] == pytest.approx(0.533, abs=0.01)
    assert found["settings"]["divergence"] == "gaussian_kl"
    pixels = ["--data", "tasks:inked", "--student", "tasks:painted", "--per_device_train_batch_size", "32"]
    assert command(["distill", *pixels, *quick, "--output_dir", "pixels"]) == 0
    found = json.loads(Path("pixels/results.json").read_text())
    assert found["test"]["label_names"] == ["paper", "left", "right"]
    assert found["guessing"]["scores"]["miou"] == pytest.approx(0.218, abs=0.001)
    import tasks

    tags = tasks.tagged()
    assert (len(tags["train"]), len(tags["test"])) == (3000, 1000)
    teacher = tasks.tagger().predict_proba(tags["test"].__getitems__(range(1000))["inputs"].numpy())
    assert ((teacher > 0.5) == tags["test"].labels.numpy()).mean() > 0.78
