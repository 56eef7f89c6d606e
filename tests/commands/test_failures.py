"""What the command prints for errors that are not Limbeck's: the stage, the cause and the option; never a traceback."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from limbeck import ConfigError, DataError, DistillConfig, ModelError, load, tokenise
from limbeck.cli import main
from limbeck.commands.failures import message_of, takes_debug
from limbeck.networks.tasks import require_supported_task
from limbeck.transfer.splits import load_splits

SHORT = ["distill", "--hidden", "4", "--max_steps", "1", "--save_strategy", "no"]
NETWORKS = """
import torch

class Fails(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, inputs):
        raise RuntimeError("a head without a body")

def rows():
    raise KeyError("no such month")

class Works(torch.nn.Module):
    change = staticmethod(lambda logits: logits)

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, inputs):
        return self.change(self.layer(inputs))

class Detaches(Works):
    change = staticmethod(torch.detach)

class Rounds(Works):
    change = staticmethod(lambda logits: logits.long())

class Complex(Works):
    change = staticmethod(lambda logits: logits + 1j)

class Tuple(Works):
    change = staticmethod(lambda logits: (logits,))

def nothing():
    return None
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def says(capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*words: str) -> tuple[int, str]:
        code = main(list(words))
        return code, capsys.readouterr().err

    return call


def write_csv(path: str, rows: int = 40) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{i * 7 % 11 / 3},{i * 5 % 13 / 4},{i % 2}" for i in range(rows)]
    Path(path).write_text("\n".join(["a,b,label", *lines]) + "\n")
    return path


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--eval_strategy steps --eval_steps 1 --validation 0", "--eval_strategy steps"),
        ("--optim adamw_bnb_8bit", "--optim adamw_bnb_8bit"),
        ("--optim nonsense", "nonsense is not a valid OptimizerNames"),
        ("--optim_args foo", "--optim_args foo"),
        ("--lr_scheduler_type nonsense", "nonsense is not a valid SchedulerType"),
        ("--lr_scheduler_type cosine_with_min_lr", "--lr_scheduler_type cosine_with_min_lr"),
        ("--lr_scheduler_kwargs {bad", "lr_scheduler_kwargs must be JSON"),
        ('--lr_scheduler_type cosine --lr_scheduler_kwargs {"bad":1}', "--lr_scheduler_kwargs"),
        ("--deepspeed missing.json", "deepspeed"),
        ("--torch_compile true --torch_compile_backend nonsense", "--torch_compile_backend nonsense"),
        ("--save_strategy best", "--save_strategy best"),
        ("--save_strategy best --metric_for_best_model nonsense --eval_strategy steps --eval_steps 1", "nonsense"),
        ("--load_best_model_at_end true --save_strategy epoch --eval_strategy steps", "load_best_model_at_end"),
        ("--max_steps -5", "max_steps must be 1 or more"),
        ("--max_steps 0", "max_steps must be 1 or more"),
        ("--max_steps -1 --num_train_epochs 0", "num_train_epochs must be above 0"),
        ("--per_device_train_batch_size 0", "per_device_train_batch_size must be 1 or more"),
        ("--warmup_steps 2.5", "warmup_steps must be a whole number"),
        ("--warmup_steps -1", "warmup_steps"),
        ("--logging_steps -1", "logging_steps must be above 0"),
        ("--save_strategy steps --save_steps 0", "save_steps must be above 0"),
        ("--learning_rate -1", "learning_rate must be 0 or more"),
        ("--weight_decay -0.1", "weight_decay must be 0 or more"),
        ("--adam_beta1 2", "adam_beta1 must be at least 0 and below 1"),
        ("--tf32 true", "tf32"),
        ("--fsdp nonsense", "fsdp"),
        ("--gradient_checkpointing true", "--gradient_checkpointing true"),
        ("--neftune_noise_alpha 5", "--neftune_noise_alpha 5"),
        ("--use_liger_kernel true", "--use_liger_kernel true"),
        ("--report_to wandb", "--report_to wandb"),
        ("--report_to nonsense", "--report_to nonsense"),
        ("--train_sampling_strategy group_by_length", "--train_sampling_strategy group_by_length"),
        ("--dataloader_num_workers -1", "dataloader_num_workers must be 0 or more"),
        ("--dataloader_prefetch_factor 2", "dataloader_prefetch_factor"),
        ("--seed -1", "seed must be from 0"),
        ("--hub_strategy x", "HubStrategy"),
        ("--accelerator_config missing.json", "missing.json"),
        ("--save_total_limit 0", "save_total_limit must be 1 or more, but is 0: omit it to keep all"),
        ("--save_total_limit -1", "save_total_limit must be 1 or more"),
        ("--dataloader_num_workers 1 --dataloader_prefetch_factor 0", "dataloader_prefetch_factor must be 1 or more"),
        ("--dataloader_persistent_workers true", "--dataloader_persistent_workers needs --dataloader_num_workers"),
        ("--early_stopping -1", "--early_stopping must be 1 or more, but is -1; 0 turns it off"),
        ("--hidden 1000000000000", "Memory ran out while preparing"),
        ("--teacher json:loads", "json:loads is called without arguments, but: missing a required argument: 's'"),
        ("--feature_columns label", "'label' is the label, and as an input too it would be copied"),
        ("--image_column a", "'a' must hold images, their bytes or their paths, but has the type Value('float64')"),
        ("--num_classes 0", "num_classes must be 2 or more, but is 0"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_an_option_that_trainer_cannot_use_is_named(words: str, expected: str, says: Any) -> None:
    data = write_csv("data.csv")
    code, err = says(*SHORT, "--data", data, *words.split())
    assert code == 1
    assert expected in err
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("limbeck distill: ")


@pytest.mark.parametrize("metric", ["nonsense", "eval_nonsense", "eval_soft"])
@pytest.mark.parametrize(
    "chosen", ["--load_best_model_at_end true", "--save_strategy best", "--lr_scheduler_type reduce_lr_on_plateau"]
)
def test_a_metric_that_no_evaluation_measures_is_found_before_training(metric: str, chosen: str, says: Any) -> None:
    data = write_csv("data.csv")
    words = ["--eval_strategy", "steps", "--eval_steps", "1", "--save_steps", "1", "--save_strategy", "steps"]
    code, err = says(*SHORT, "--data", data, *words, *chosen.split(), "--metric_for_best_model", metric)
    assert code == 1
    assert f"metric_for_best_model is '{metric}', which no evaluation measures; there are acceptance, accuracy," in err
    assert not list(Path("runs").rglob("checkpoint-*"))


@pytest.mark.parametrize("metric", ["eval_loss", "hard_loss", "eval_accuracy", "entropy", "eval_runtime"])
def test_a_metric_that_is_measured_chooses_the_best_checkpoint(metric: str, says: Any) -> None:
    data = write_csv("data.csv")
    words = ["--eval_strategy", "steps", "--eval_steps", "1", "--save_steps", "1", "--load_best_model_at_end", "true"]
    code, err = says(*SHORT, "--save_strategy", "steps", "--data", data, *words, "--metric_for_best_model", metric)
    assert (code, err) == (0, "")


def test_debug_shows_the_traceback_and_trainers_debug_is_left(says: Any) -> None:
    data = write_csv("data.csv")
    assert takes_debug(["distill", "--debug", "--seed", "1"]) == (["distill", "--seed", "1"], True)
    assert takes_debug(["distill", "--seed", "1", "--debug"]) == (["distill", "--seed", "1"], True)
    trainers = ["distill", "--debug", "underflow_overflow"]
    assert takes_debug(trainers) == (trainers, False)
    code, err = says(*SHORT, "--data", data, "--optim", "adamw_bnb_8bit", "--debug")
    assert code == 1
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("limbeck distill: ")


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_a_networks_exception_names_its_role_and_class(
    role: str, says: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("failing_networks.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = SHORT if role == "teacher" else [word for word in SHORT if word not in ("--hidden", "4")]
    code, err = says(*words, "--data", write_csv("data.csv"), f"--{role}", "failing_networks:Fails")
    assert code == 1
    assert f"The {role}, Fails, failed while training: RuntimeError: a head without a body." in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "Detaches",
            "The student's logits (of Detaches) have no gradient, so nothing could be learned; its forward must",
        ),
        ("Rounds", "The student's logits (of Rounds) have no gradient"),
        ("Complex", "Complex must return real logits, but returned torch.complex64"),
        ("Tuple", "Tuple must return logits, as a tensor or as an output with .logits, but returned tuple"),
        ("nothing", "failing_networks:nothing is not a network that can be trained, but a NoneType"),
    ],
)
def test_a_network_that_cannot_be_trained_is_named(
    name: str, expected: str, says: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("failing_networks.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = [word for word in SHORT if word not in ("--hidden", "4")]
    code, err = says(*words, "--data", write_csv("data.csv"), "--student", f"failing_networks:{name}")
    assert code == 1
    assert expected in err


def test_a_users_callable_and_a_bug_are_told_apart(says: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("failing_networks.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(str(tmp_path))
    code, err = says(*SHORT, "--data", "failing_networks:rows")
    assert code == 1
    assert "failing_networks, which is not part of Limbeck, failed" in err
    assert "KeyError: 'no such month'" in err

    def broken(job: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("limbeck.commands.report.run", broken)
    broken.__globals__["__name__"], before = "limbeck.report.page", broken.__globals__["__name__"]
    try:
        code, err = says("report", "x")
    finally:
        broken.__globals__["__name__"] = before
    assert code == 1
    assert "This is a bug in Limbeck or in the network, while drawing the page: ZeroDivisionError" in err
    assert "--debug" in err


def test_only_the_options_that_an_exception_is_about_are_named() -> None:
    words = ["--data", "d.csv", "--optim", "sgd", "--lr_scheduler_type=cosine", "--save_strategy", "no"]
    assert "Given: --lr_scheduler_type cosine." in message_of(ValueError("lr_scheduler_type is odd"), words)
    assert "Given" not in message_of(ValueError("the data is odd, and there are no optimal ones"), words)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"max_steps": -5}, "max_steps"), ({"optim": "nonsense"}, "OptimizerNames"), ({"seed": -1}, "seed must be")],
)
def test_python_gets_config_errors(settings: dict[str, Any], expected: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=expected):
        DistillConfig(str(tmp_path), **settings)


# Files


@pytest.mark.parametrize("path", ["a[1]/t.csv", "x[ab].csv", "a *b?.csv", "D.CSV"])
def test_odd_names_of_files_are_read_as_they_are(path: str) -> None:
    write_csv("b.csv", 3)  # what a pattern x[ab] might match
    assert len(load_splits(write_csv(path))["train"]) == 40


def test_a_folder_whose_name_is_a_pattern_is_refused() -> None:
    write_csv("a[1]/train.csv")
    with pytest.raises(DataError, match=r"The name of the folder a\[1\] has one of .* rename it"):
        load_splits("a[1]")


def test_held_out_files_are_never_trained_on(caplog: pytest.LogCaptureFixture) -> None:
    for name in ("data", "holdout"):
        write_csv(f"one/{name}.csv")
        write_csv(f"two/{name}.csv")
    write_csv("three/train.csv")
    write_csv("three/notes.csv", 3)
    write_csv("four/part-1.csv")
    write_csv("four/part-2.csv")
    write_csv("five/train.csv")
    write_csv("five/eval.csv", 7)
    for source in ("one", "two/*.csv"):
        with pytest.raises(DataError, match=r"holdout.csv would be trained on.*rename it to test.csv"):
            load_splits(source)
    with pytest.raises(DataError, match=r"notes.csv would be trained on: of these 2 files"):
        load_splits("three/*.csv")
    assert len(load_splits("three")["train"]) == 40
    assert "notes.csv is left out" in caplog.text
    assert len(load_splits("four")["train"]) == len(load_splits("four/*.csv")["train"]) == 80
    for source in ("five", "five/*.csv"):
        assert {name: len(rows) for name, rows in load_splits(source).items()} == {"train": 40, "test": 7}


def test_a_label_of_infinity_is_refused(says: Any) -> None:
    pq.write_table(pa.table({"a": [0.5, 1.5, 2.5], "label": [0.0, 1.0, float("inf")]}), "inf.parquet")
    code, err = says(*SHORT, "--data", "inf.parquet")
    assert code == 1
    assert "'label' of train has inf" in err


@pytest.mark.parametrize(
    ("row_ids", "expected"),
    [
        ([3, None], "record 1 is missing"),
        (["x1", "x2"], "has the type string"),
        ([0.5, 1.5], "has the type float64"),
    ],
)
def test_row_ids_are_whole_numbers(row_ids: list[Any], expected: str, make_tokenizer: Any) -> None:
    from datasets import Dataset

    records = Dataset.from_dict({"text": ["two", "four"], "row_id": row_ids})
    with pytest.raises(DataError, match=expected):
        tokenise(records, make_tokenizer())


# Models


SIZES: dict[str, Any] = {
    **{"vocab_size": 320, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2},
    **{"max_position_embeddings": 32, "pad_token_id": 0},
}


def test_models_that_return_tuples_are_loaded_to_return_outputs(tmp_path: Path) -> None:
    for network in (
        LlamaForCausalLM(LlamaConfig(**SIZES, return_dict=False)),
        BertForSequenceClassification(BertConfig(**SIZES, return_dict=False)),
    ):
        with pytest.raises(ModelError, match=r"returns tuples.*set model.config.return_dict = True"):
            require_supported_task(network, "student")
        folder = tmp_path / type(network).__name__
        network.save_pretrained(folder)
        assert json.loads((folder / "config.json").read_text())["return_dict"] is False
        output: Any = load(folder)(input_ids=torch.tensor([[3, 4]]))
        assert output.logits.shape[-1] in (2, 320)


def test_pairs_of_sentences_by_the_command(says: Any, make_tokenizer: Any) -> None:
    network = BertForSequenceClassification(BertConfig(**SIZES))
    network.save_pretrained("student")
    make_tokenizer().save_pretrained("student")
    texts = [f"the sum is {i}" for i in range(40)]
    table = pa.table({"first": texts, "second": texts[::-1], "label": [i % 2 for i in range(40)]})
    pq.write_table(table, "pairs.parquet")
    words = ["distill", "--max_steps", "1", "--save_strategy", "no", "--data", "pairs.parquet", "--student", "student"]
    with pytest.warns(UserWarning, match="Texts are truncated"):
        code, err = says(*words)
    assert code == 1
    assert "--text_column first,second" in err
    with pytest.warns(UserWarning, match="Texts are truncated"):
        code, err = says(*words, "--text_column", "first,second")
    assert code == 0, err


def test_an_output_that_is_a_folder_is_refused_before_anything_is_measured(says: Any) -> None:
    Path("there").mkdir()
    code, err = says("evaluate", "--data", "nowhere.csv", "--student", "nowhere", "--output", "there")
    assert code == 1
    assert "--output there is a folder; name a file, such as there/results.json" in err


@pytest.mark.filterwarnings("ignore:Texts are truncated")
def test_texts_without_a_token_and_lengths_of_none(says: Any, make_tokenizer: Any) -> None:
    BertForSequenceClassification(BertConfig(**SIZES)).save_pretrained("student")
    make_tokenizer().save_pretrained("student")
    for texts, more, expected in (
        ([""] * 40, [], "Every text needs a token, but in train row 0 has none; remove such rows"),
        (["four"] * 39 + [""], [], "row 39 has none"),
        (["four"] * 40, ["--max_length", "0"], "max_length must be 1 or more, but is 0"),
        (["four"] * 40, ["--max_length", "-5"], "max_length must be 1 or more, but is -5"),
    ):
        pq.write_table(pa.table({"text": texts, "label": [i % 2 for i in range(40)]}), "texts.parquet")
        code, err = says("distill", "--max_steps", "1", "--data", "texts.parquet", "--student", "student", *more)
        assert code == 1
        assert expected in err
