"""The commands with language models: one command from a jsonl file to a student, and what is refused before that."""

import json
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import Dataset
from language.conftest import MARKED
from language.test_training import SMALL
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from two_processes import in_two_processes, sharding_on_the_cpu

import limbeck
from limbeck.cli import main
from limbeck.commands.language import _as_dataset
from limbeck.networks.folder import save

QUICK = ["--max_steps", "4", "--save_strategy", "no", "--logging_steps", "2", "--learning_rate", "1e-2"]


@pytest.fixture(autouse=True)
def _a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def teacher(make_tokenizer: Callable[..., Any]) -> str:
    """The folder of a small language model."""
    tokenizer = make_tokenizer(MARKED)
    return _saved("teacher", tokenizer, num_hidden_layers=4)


def _saved(name: str, tokenizer: Any, seed: int = 0, dtype: torch.dtype = torch.float32, **more: Any) -> str:
    torch.manual_seed(seed)
    sizes = {**SMALL, "vocab_size": len(tokenizer), "max_position_embeddings": 48, **more}
    return str(save(LlamaForCausalLM(LlamaConfig(**sizes)).to(dtype), name, tokenizer=tokenizer))


def _jsonl(name: str, records: list[dict[str, Any]]) -> str:
    Path(name).write_text("".join(json.dumps(record) + "\n" for record in records))
    return name


PAIRS = [{"prompt": "what is the sum", "completion": f" of two and {i}"} for i in range(60)]


def test_one_command_from_a_jsonl_file_to_a_student(teacher: str, limbeck_says: Any) -> None:
    data = _jsonl("pairs.jsonl", PAIRS)
    run = ["distill", "--data", data, "--teacher", teacher, "--student", "take_layers:2", *QUICK]
    code, out, err = limbeck_says(*run, "--baseline", "--output_dir", "run")
    assert (code, err) == (0, "")
    assert "The data has one split: 6 of its examples are set apart as the test." in out
    assert "Examples: 49 train, 6 test, 5 validation." in out
    assert "1 × forward_kl at T = 1" in out
    assert "batches of 8" in out
    assert "As the teacher's draft:" in out
    assert "After: what is the sum" in out
    results = json.loads(Path("run/results.json").read_text())
    assert results["task"] == "language"
    assert results["settings"]["per_device_train_batch_size"] == 8
    assert (results["roles"]["baseline"]["seeds"], len(results["completions"])) == (1, 4)
    assert [point["step"] for point in results["curves"]["baseline"] if "loss" in point] == [2, 4]
    read = {one["row_id"]: one["student"] for one in results["training_examples"]}
    assert len(read) == 3
    for row_id, parts in read.items():
        learned = {"text": f" of two and {row_id}<|end|>", "learned": True}
        assert parts == [{"text": "what is the sum", "learned": False}, learned]
    assert "What it was trained on" in Path("run/report.html").read_text()
    student: Any = limbeck.load("run/student")
    assert student.config.num_hidden_layers == 2
    tokenizer = AutoTokenizer.from_pretrained("run/student")

    # the same test again, by the other command and by hand
    code, out, err = limbeck_says("evaluate", "--data", data, "--teacher", teacher, "--student", "run/student")
    assert (code, err) == (0, "")
    again = json.loads(Path("results.json").read_text())
    for name in ("nll", "to_teacher"):
        assert again["roles"]["student"][name] == results["roles"]["student"][name]
    ids = sorted(said["row_id"] for said in again["completions"])
    assert len(set(ids)) == 4
    chosen = limbeck.tokenise(Dataset.from_list([PAIRS[i] for i in ids]), tokenizer)
    assert {said["reference"] for said in again["completions"]} == {PAIRS[i]["completion"] for i in ids}
    assert limbeck.evaluate_language(student, chosen)["test"]["examples"] == 4


OWN = """
PAIRS = [{"prompt": "what is the sum", "completion": f" of two and {i}"} for i in range(60)]

def pairs():
    return PAIRS

def splits():
    from datasets import Dataset
    chats = [{"messages": [{"role": "user", "content": "what is"}, {"role": "assistant", "content": f"{i}"}]}
             for i in range(24)]
    return {"train": chats, "test": Dataset.from_list([{"text": f"the sum of two and {i}"} for i in range(7)])}

def words():
    return ["what", "is"]

def columns():
    return {"train": {"text": ["what"]}}

def nothing():
    return {"train": []}

def mixed():
    return [{"text": "what"}, {"text": 3}]

def classes():
    from limbeck import digits
    return digits()
"""


def test_a_callable_of_ones_own_gives_the_same_as_a_file_of_its_records(teacher: str, limbeck_says: Any) -> None:
    Path("own_texts.py").write_text(OWN)
    data = _jsonl("pairs.jsonl", PAIRS)
    run = ["distill", "--teacher", teacher, "--student", "take_layers:2", *QUICK]
    for folder, source in (("file", data), ("python", "own_texts:pairs")):
        code, out, err = limbeck_says(*run, "--data", source, "--output_dir", folder)
        assert (code, err) == (0, "")
        assert "Examples: 49 train, 6 test, 5 validation." in out
    of_file, of_python = (json.loads(Path(folder, "results.json").read_text()) for folder in ("file", "python"))
    assert of_python["settings"]["data"] == "own_texts:pairs"
    for name in ("nll", "to_teacher"):
        assert of_python["roles"]["student"][name] == of_file["roles"]["student"][name]

    # the other commands
    asked = ("--student", "python/student", "--data", "own_texts:splits")
    assert limbeck_says("evaluate", *asked)[0] == 0
    assert json.loads(Path("results.json").read_text())["test"]["examples"] == 7
    assert limbeck_says("label", "--teacher", teacher, "--data", "own_texts:splits", "--output_dir", "said")[0] == 0
    assert len(limbeck.open("said")) == 24
    search = ("--temperatures", "1", "--hard_weights", "0", "--seeds", "1", "--output_dir", "tuned")
    code, out, _ = limbeck_says("tune", *run[1:], "--data", "own_texts:pairs", *search)
    assert (code, "Examples: 49 train, 5 validation" in out) == (0, True)

    # what is refused, with what was expected
    for name, message in (
        ("words", "own_texts:words must return records of text, prompt and completion, messages,"),
        ("words", "record 0 of its train is a str."),
        ("columns", "its train is a dict."),
        ("nothing", "its train is empty."),
        ("mixed", "its train does not fit in a table"),
        ("classes", "its train is a TransferSet."),
    ):
        code, _, err = limbeck_says(*run, "--data", f"own_texts:{name}", "--output_dir", "refused")
        assert (code, message in err) == (1, True), err
    code, _, err = limbeck_says(*run, "--data", "own_texts:pairs", "--column_names", "a", "--output_dir", "refused")
    assert (code, "--column_names applies only to files" in err) == (1, True)


def test_settings_record_what_was_used(teacher: str, limbeck_says: Any) -> None:
    """The batch that a language model was measured in, and the learning rate that nobody gave."""
    data = _jsonl("pairs.jsonl", PAIRS)
    run = ["distill", "--data", data, "--teacher", teacher, "--student", "take_layers:2", "--max_steps", "2"]
    assert limbeck_says(*run, "--output_dir", "run")[0] == 0
    settings = json.loads(Path("run/results.json").read_text())["settings"]
    assert (settings["learning_rate"], settings["per_device_eval_batch_size"]) == (5e-5, 8)
    assert yaml.safe_load(Path("run/config.yaml").read_text())["learning_rate"] == 5e-5
    for more, size in (((), 8), (("--batch_size", "3"), 3)):
        assert limbeck_says("evaluate", "--data", data, "--student", "run/student", *more)[0] == 0
        assert json.loads(Path("results.json").read_text())["settings"]["batch_size"] == size


def test_settings_are_read_again_and_flags_win(teacher: str, limbeck_says: Any) -> None:
    data = _jsonl("pairs.jsonl", PAIRS)
    run = ["distill", "--data", data, "--teacher", teacher, "--student", "take_layers:2", *QUICK]
    assert limbeck_says(*run, "--per_device_train_batch_size", "4", "--temperature", "3", "--output_dir", "a")[0] == 0
    code, out, _ = limbeck_says("distill", "--config", "a/config.yaml", "--output_dir", "b")
    assert code == 0
    assert "forward_kl at T = 3" in out
    assert "batches of 4" in out
    nll = [json.loads(Path(f"{x}/results.json").read_text())["roles"]["student"]["nll"] for x in "ab"]
    assert nll[0] == nll[1]


def test_files_of_splits_messages_and_contexts(teacher: str, limbeck_says: Any) -> None:
    Path("chats").mkdir()
    said = [
        [{"role": "user", "content": f"what is {i} and two"}, {"role": "assistant", "content": f"{i} two"}]
        for i in range(24)
    ]
    context = {"role": "system", "content": "the sum"}
    records = [{"messages": m, "teacher_messages": [context, *m]} for m in said]
    for split, part in (("train", records[:16]), ("validation", records[16:20]), ("test", records[20:])):
        _jsonl(f"chats/{split}.jsonl", part)
    code, out, err = limbeck_says(
        *("distill", "--data", "chats", "--teacher", teacher, "--student", "take_layers:2", "--assistant", "last"),
        *(*QUICK, "--output_dir", "run"),
    )
    assert (code, err) == (0, "")
    assert "Examples: 16 train, 4 validation, 4 test." in out
    completion = json.loads(Path("run/results.json").read_text())["completions"][0]
    assert completion["row_id"] == 20  # of its own, whatever the split
    assert completion["teacher_prompt"].startswith("the sum")
    assert not completion["prompt"].startswith("the sum")


def test_a_labelled_transfer_set_needs_no_teacher(
    teacher: str, make_tokenizer: Callable[..., Any], limbeck_says: Any
) -> None:
    tokenizer = make_tokenizer(MARKED)
    rows = limbeck.tokenise(Dataset.from_list(PAIRS), tokenizer)
    limbeck.label(limbeck.load(teacher), rows, "said", kind="hidden", dtype="float16", tokenizer=tokenizer)
    student = _saved("student", tokenizer, seed=1)
    run = ["distill", "--transfer_set", "said", "--student", student, *QUICK]
    code, out, err = limbeck_says(*run, "--baseline", "--output_dir", "run")
    assert (code, err) == (0, "")
    assert "6 of the stored examples are held out as the test." in out
    assert "Examples: 49 train, 6 test, 5 validation." in out
    roles = json.loads(Path("run/results.json").read_text())["roles"]
    assert list(roles) == ["student", "baseline"]
    other = _saved("other", make_tokenizer(MARKED, additional_special_tokens=["<|new|>"]))
    short = _saved("short", tokenizer, max_position_embeddings=4)
    limbeck.label(limbeck.mlp([64, 10]), limbeck.digits(), "classes", kind="dense")
    refused = [
        ([*run, "--packing"], "row by row and cannot be packed; remove --packing"),
        ([*run, "--data", "digits"], "The digits are images"),
        ([*run, "--max_length", "9"], "--max_length changes how --data is read, but no --data is given"),
        (["distill", "--transfer_set", "said", "--student", short, *QUICK], "and the student reads 4"),
        (
            ["distill", "--transfer_set", "classes", "--student", student, *QUICK],
            "classes is a stored set of a classifier",
        ),
        (
            ["distill", "--transfer_set", "said", *QUICK],
            "said is a stored set of a language model; pass --student a language model",
        ),
        (["distill", "--transfer_set", "said", "--student", other, *QUICK], "another tokenizer than the student's"),
    ]
    for words, said in refused:
        code, _, err = limbeck_says(*words, "--output_dir", "new")
        assert code == 1
        assert said in err


def test_a_padded_student_of_a_stored_set_is_cut_to_its_tokens(
    teacher: str, make_tokenizer: Callable[..., Any], limbeck_says: Any
) -> None:
    tokenizer = make_tokenizer(MARKED)
    rows = limbeck.tokenise(Dataset.from_list(PAIRS), tokenizer)
    limbeck.label(limbeck.load(teacher), rows, "said", kind="hidden", tokenizer=tokenizer)
    torch.manual_seed(1)
    sizes = {**SMALL, "vocab_size": len(tokenizer) + 30, "max_position_embeddings": 48}
    save(LlamaForCausalLM(LlamaConfig(**sizes)), "padded", tokenizer=tokenizer)
    run = ["distill", "--transfer_set", "said", "--student", "padded", "--baseline", *QUICK]
    assert limbeck_says(*run, "--output_dir", "run")[0] == 0
    results = json.loads(Path("run/results.json").read_text())
    assert results["test"]["classes"] == len(tokenizer)
    layers = [limbeck.load(f"run/{role}").lm_head.weight[len(tokenizer) :] for role in ("student", "baseline")]
    untouched = limbeck.load("padded").lm_head.weight[len(tokenizer) :]
    for layer in layers:  # the padding was in no softmax: nothing but weight decay, which is 0, could move it
        assert torch.equal(layer, untouched)


def test_a_padded_teacher_without_a_tokenizer_is_cut_by_the_one_that_is_named(
    teacher: str, make_tokenizer: Callable[..., Any], limbeck_says: Any
) -> None:
    tokenizer = make_tokenizer(MARKED)
    torch.manual_seed(1)
    sizes = {**SMALL, "vocab_size": len(tokenizer) + 30, "max_position_embeddings": 48}
    save(LlamaForCausalLM(LlamaConfig(**sizes)), "padded")
    run = ["distill", "--data", _jsonl("pairs.jsonl", PAIRS), "--teacher", "padded", "--student", teacher, *QUICK]
    code, _, err = limbeck_says(*run, "--output_dir", "a")
    assert code == 1
    assert "give it (--tokenizer): both layers are cut" in err
    asked = ["evaluate", "--data", "pairs.jsonl", "--teacher", "padded", "--student", teacher]
    code, _, err = limbeck_says(*asked)
    assert code == 1
    assert "give it (--tokenizer)" in err
    assert limbeck_says(*asked, "--tokenizer", teacher)[0] == 0
    assert limbeck_says(*run, "--tokenizer", teacher, "--output_dir", "b")[0] == 0
    assert json.loads(Path("b/results.json").read_text())["test"]["classes"] == len(tokenizer)


def test_the_test_is_the_same_whatever_a_model_can_read(teacher: str, make_tokenizer: Any, limbeck_says: Any) -> None:
    """An example that was trained on is never measured later, though rows were dropped or cut in one of two runs."""
    data = _jsonl("pairs.jsonl", [{"prompt": "x" * (i % 40), "completion": f" of {i}"} for i in range(120)])
    run = ["distill", "--data", data, "--teacher", teacher, "--student", "take_layers:2", *QUICK]
    assert limbeck_says(*run, "--max_length", "24", "--output_dir", "run")[0] == 0
    assert (
        limbeck_says("label", "--data", data, "--teacher", teacher, "--output_dir", "said", "--kind", "hidden")[0] == 0
    )
    labelled = set(limbeck.open("said").row_ids.tolist())
    assert limbeck_says("evaluate", "--data", data, "--student", "run/student", "--output", "all.json")[0] == 0
    measured = json.loads(Path("all.json").read_text())
    assert measured["test"]["examples"] == 12
    tested = {said["row_id"] for name in ("run/results.json", "all.json") for said in _shown(name)}
    assert not tested & labelled
    assert labelled | tested <= set(range(120))
    assert len(labelled) == 108


def _shown(name: str) -> list[dict[str, Any]]:
    results = json.loads(Path(name).read_text())
    return [*results["completions"], *results["tokens"]]


def test_a_student_that_reads_less_than_its_teacher(teacher: str, make_tokenizer: Any, limbeck_says: Any) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = make_tokenizer(MARKED)
    torch.manual_seed(0)
    short = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=20))
    save(short, "short", tokenizer=tokenizer)
    records = [
        {"prompt": "two", "completion": f" and {i}", "teacher_prompt": "the sum of " * 9 + "two"} for i in range(40)
    ]
    data = _jsonl("context.jsonl", records)
    run = ["distill", "--data", data, "--teacher", teacher, "--student", "short", *QUICK, "--output_dir", "run"]
    code, out, _ = limbeck_says(*run)
    assert code == 0
    assert "Not timed as a draft: Every prompt is longer than teacher and student can both read." in out
    longer = _jsonl("longer.jsonl", [{"prompt": "two and " * 30, "completion": f" {i}"} for i in range(40)])
    words = ["evaluate", "--data", longer, "--teacher", teacher, "--student", "run/student"]
    code, out, err = limbeck_says(*words)
    assert (code, "their prompts are longer" in err) == (1, True)
    assert limbeck_says(*words, "--packing")[0] == 1


def test_a_run_whose_settings_were_cut_off_is_told_of(teacher: str, limbeck_says: Any) -> None:
    data = _jsonl("pairs.jsonl", PAIRS)
    run = ["distill", "--data", data, "--teacher", teacher, "--student", "take_layers:2", *QUICK, "--output_dir", "run"]
    assert limbeck_says(*run)[0] == 0
    Path("run/config.yaml").write_text("")
    code, _, err = limbeck_says(*run, "--resume")
    assert code == 1
    assert "config.yaml cannot be read" in err


def test_packed_rows_train_too(teacher: str, limbeck_says: Any) -> None:
    data = _jsonl("pairs.jsonl", PAIRS)
    run = ["distill", "--data", data, "--teacher", teacher, "--student", "take_layers:2", *QUICK]
    code, out, err = limbeck_says(*run, "--packing", "--output_dir", "run")
    assert (code, err) == (0, "")
    assert "49 training examples are packed into" in out
    assert json.loads(Path("run/results.json").read_text())["test"]["examples"] == 6


CONTINUOUS = ["--adam_epsilon", "1e-3"]
"""Adam divides by the size of a gradient: with its usual epsilon it would turn the rounding of one that is nearly 0,
which depends on the order of sums and on the processor, into a step of full length."""


def _one_of_two(rank: int, words: list[str]) -> None:
    with Path(f"said{rank}").open("w") as said, redirect_stdout(said):
        assert main(words) == 0


def test_two_processes_train_what_one_does(teacher: str, limbeck_says: Any) -> None:
    data = _jsonl("pairs.jsonl", PAIRS)
    run = ["distill", "--data", data, "--teacher", teacher, "--student", "take_layers:2", *QUICK]
    run += ["--train_sampling_strategy", "sequential", *CONTINUOUS, "--output_dir"]
    assert limbeck_says(*run, "one", "--per_device_train_batch_size", "8")[0] == 0
    in_two_processes(_one_of_two, [*run, "two", "--per_device_train_batch_size", "4"])
    assert ["two: student, results.json" in Path(f"said{rank}").read_text() for rank in (0, 1)] == [True, False]
    one, two = (limbeck.load(f"{name}/student") for name in ("one", "two"))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)  # float32, another order of sums, 4 steps of Adam


def _in_shards(rank: int, words: list[str]) -> None:
    sharding_on_the_cpu()
    _one_of_two(rank, words)


def test_a_student_in_shards_is_kept_and_measured_whole(teacher: str, limbeck_says: Any) -> None:
    data = _jsonl("pairs.jsonl", PAIRS)
    run = ["distill", "--data", data, "--teacher", teacher, "--student", "take_layers:2", *QUICK, "--baseline"]
    run += ["--train_sampling_strategy", "sequential", *CONTINUOUS, "--save_strategy", "steps", "--save_steps", "4"]
    run.append("--output_dir")
    assert limbeck_says(*run, "one", "--per_device_train_batch_size", "8")[0] == 0
    in_two_processes(_in_shards, [*run, "two", "--per_device_train_batch_size", "4", "--fsdp", "full_shard"])
    results = [json.loads(Path(name, "results.json").read_text())["roles"] for name in ("one", "two")]
    for role in ("student", "baseline"):
        one, two = (limbeck.load(f"{name}/{role}") for name in ("one", "two"))
        checkpoint = limbeck.load(f"two/checkpoints/{role}/checkpoint-4")
        for a, b, c in zip(one.parameters(), two.parameters(), checkpoint.parameters(), strict=True):
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)
            assert torch.equal(b, c)
        one, two = (of[role]["nll"]["mean"] for of in results)
        assert two == pytest.approx(one, rel=1e-4)


def test_a_python_list_of_calls_keeps_every_argument(tmp_path: Path) -> None:
    """Arrow has no column of arguments that are numbers here and strings there, and pads objects with None."""

    def call(arguments: dict[str, Any]) -> dict[str, Any]:
        said = {"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": arguments}}]}
        return {"messages": [{"role": "user", "content": "x"}, said], "tools": None}

    records = [call({"b": 1, "a": None}), call({"a": "one"})]
    found = _as_dataset(records, "own:records", "train")
    assert [json.loads(messages) for messages in found["messages"]] == [record["messages"] for record in records]


def test_a_column_of_text_and_weights_in_bfloat16(teacher: str, make_tokenizer: Any, limbeck_says: Any) -> None:
    data = _jsonl("stories.jsonl", [{"story": f"two and two are {i}", "label": "x"} for i in range(30)])
    student = _saved("student", make_tokenizer(MARKED), seed=1, dtype=torch.bfloat16)
    run = ["distill", "--data", data, "--teacher", teacher, "--student", student, *QUICK, "--output_dir", "run"]
    code, _, err = limbeck_says(*run)
    assert code == 1
    assert "Records need the columns `text`" in err
    assert "['story', 'label']" in err
    assert "or name that of a text by --text_column" in err
    code, out, err = limbeck_says(*run, "--text_column", "story")
    assert (code, err) == (0, "")
    assert "The student's weights are bfloat16: they are trained in float32" in out
    assert next(limbeck.load("run/student").parameters()).dtype == torch.float32
    code, _, err = limbeck_says(*run, "--text_column", "tale", "--overwrite")
    assert "--text_column tale is not in train; its columns are ['story', 'label']" in err


def test_rows_longer_than_the_models_read_are_cut_and_counted(
    teacher: str, limbeck_says: Any, caplog: pytest.LogCaptureFixture
) -> None:
    data = _jsonl(
        "pairs.jsonl", [*PAIRS, {"prompt": "x" * 60, "completion": "y"}, {"prompt": "x", "completion": "y" * 60}]
    )
    run = ["distill", "--data", data, "--teacher", teacher, "--student", "take_layers:2", *QUICK, "--output_dir", "run"]
    assert limbeck_says(*run)[0] == 0
    assert "1 of 56 rows are dropped: their prompts leave no learned token within 48 tokens" in caplog.text
    assert "1 of 56 rows are cut at their end to 48 tokens" in caplog.text


def test_what_cannot_work_is_refused_before_training(teacher: str, make_tokenizer: Any, limbeck_says: Any) -> None:
    data = _jsonl("pairs.jsonl", PAIRS)
    run = ["distill", "--data", data, "--teacher", teacher, *QUICK, "--output_dir", "run"]
    cut = [*run, "--student", "take_layers:2"]
    tokenizer = make_tokenizer(MARKED)
    Path("nothing_in_it.jsonl").touch()
    Path("broken.jsonl").write_text('{"text": "two and')
    other = _saved("other", make_tokenizer(MARKED, additional_special_tokens=["<|new|>"]))
    bare = make_tokenizer(MARKED)
    bare.chat_template = None
    plain = _saved("plain", bare)
    _jsonl("empty.jsonl", [*PAIRS, {"prompt": "a", "completion": ""}])
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    _jsonl("chats.jsonl", [{"messages": said}] * 20)
    _jsonl("few.jsonl", PAIRS[:2])
    refused = [
        (run, "the student is an mlp; pass --student a language model, or take_layers:6"),
        ([*cut, "--jitter", "2"], "--jitter applies only to classifiers"),
        ([*cut, "--image_size", "8"], "--image_size applies only to classifiers"),
        ([*cut, "--data", "empty.jsonl"], "1 of 55 rows cannot be learned from (row_id 60)"),
        ([*cut, "--data", "nothing.jsonl"], "There is no file or folder nothing.jsonl"),
        ([*cut, "--data", "few.jsonl"], "2 examples are too few to hold some out"),
        ([*run, "--student", other], "must have the same tokenizer, but theirs differ in 1 tokens: id "),
        (
            ["distill", "--data", "chats.jsonl", "--teacher", plain, "--student", "take_layers:2"],
            "need a chat template",
        ),
        ([*cut, "--assistant", "first"], 'assistant must be "all" or "last", but is \'first\''),
        (["distill", "--student", teacher], "digits are images, but a language model learns from text; pass --data"),
        ([*cut, "--data", "nothing_in_it.jsonl"], "nothing_in_it.jsonl cannot be read: there is nothing in it"),
        ([*cut, "--data", "broken.jsonl"], "broken.jsonl cannot be read"),
        (
            [*cut, "--save_strategy", "epoch", "--early_stopping", "1", "--validation", "0"],
            "set --validation to a share above 0",
        ),
        (["distill", "--packing"], "--packing applies only to language models, but the student is a classifier"),
    ]
    assert len(tokenizer) == len(AutoTokenizer.from_pretrained(teacher))
    for words, said in refused:
        code, _, err = limbeck_says(*words)
        assert code == 1, words
        assert said in err, err
    assert not Path("run").exists()


def test_tune_measures_what_distill_then_trains(teacher: str, limbeck_says: Any) -> None:
    data = _jsonl("pairs.jsonl", PAIRS)
    run = ["--data", data, "--teacher", teacher, "--student", "take_layers:2", *QUICK]
    grid = ["--temperatures", "1", "3", "--hard_weights", "0.5", "--seeds", "1"]
    code, out, err = limbeck_says("tune", *run, *grid, "--output_dir", "tuned")
    assert (code, err) == (0, "")
    assert "Examples: 49 train, 5 validation; the test is not used." in out
    best = json.loads(Path("tuned/tune.json").read_text())["best"]
    evaluated = ["--eval_strategy", "steps", "--eval_steps", "4"]
    assert limbeck_says("distill", "--config", "tuned/distill.yaml", *evaluated, "--output_dir", "run")[0] == 0
    logged = next(
        line for line in map(json.loads, Path("run/log.jsonl").read_text().splitlines()) if "eval_nll" in line
    )
    for name in ("nll", "accuracy", "forward_kl"):
        assert best[name]["mean"] == pytest.approx(logged[f"eval_{name}"], rel=1e-5)


def test_evaluate_measures_the_validation_split_of_data_without_a_test(teacher: str, limbeck_says: Any) -> None:
    Path("data").mkdir()
    _jsonl("data/train.jsonl", PAIRS[:40])
    _jsonl("data/validation.jsonl", PAIRS[40:47])
    for split, examples in (("validation", 7), ("test", 7), ("train", 40)):
        words = ["evaluate", "--data", "data", "--student", teacher, "--split", split, "--output", f"{split}.json"]
        code, out, err = limbeck_says(*words)
        assert (code, err) == (0, "")
        assert ("its validation split is used as the test" in out) == (split != "validation")
        assert limbeck.read_results(f"{split}.json")["test"]["examples"] == examples
