"""Encoder-decoders: their rows, their training and their evaluation.

Oracles: the tokenizer itself, the model's own loss, log-probabilities of one example at a time, and `generate`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from datasets import Dataset
from torch.nn import functional as F

import limbeck
from limbeck import DataError, DistillConfig, DistillTrainer, ModelError, Objective
from limbeck.networks.decoding import decoder_inputs
from limbeck.transfer.text.pairs import PadPairs

RECORDS = [
    {"prompt": "two and two", "completion": "four"},
    {"prompt": "one", "completion": "a single one"},
    {"prompt": "say it again and again", "completion": "it"},
    {"prompt": "what is the colour of a plum", "completion": "blue or red"},
]
LABELS = Objective(soft_weight=0.0, hard_weight=1.0)
LAYERS = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
BART_LIKE = {**LAYERS, "d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_position_embeddings": 64}
T5_LIKE = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}


def model(family: str, tokenizer: Any, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    ids |= {"decoder_start_token_id": tokenizer.bos_token_id, "vocab_size": len(tokenizer)}
    config = getattr(transformers, f"{family}Config")(**ids, **(T5_LIKE if "T5" in family else BART_LIKE))
    config.forced_bos_token_id = config.forced_eos_token_id = None
    made = getattr(transformers, f"{family}ForConditionalGeneration")(config)
    for parameter in made.parameters():
        parameter.data.mul_(3)
    return made.eval()


FAMILIES = ["T5", "MT5", "Bart", "MBart", "M2M100", "Blenderbot", "BlenderbotSmall", "Pegasus"]


@pytest.fixture
def tokenizer(make_tokenizer: Callable[..., Any]) -> Any:
    return make_tokenizer()


@pytest.fixture
def rows(tokenizer: Any) -> Any:
    return limbeck.tokenise(Dataset.from_list(RECORDS), tokenizer, encoder_decoder=True)


def test_rows_are_the_tokenizers_own(tokenizer: Any, rows: Any) -> None:
    for i, (row, record) in enumerate(zip(rows, RECORDS, strict=True)):
        assert row["row_id"] == i
        assert row["input_ids"] == tokenizer(record["prompt"]).input_ids
        assert row["length"] == len(row["input_ids"])
        target = tokenizer(text_target=record["completion"]).input_ids
        assert row["labels"] == [*target, tokenizer.eos_token_id]
        assert tokenizer.decode(row["labels"], skip_special_tokens=True) == record["completion"]


def test_rows_of_two_sources_are_cut_and_keep_their_end(
    tokenizer: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    records = [record | {"teacher_prompt": "Answer: " + record["prompt"]} for record in RECORDS]
    made = limbeck.tokenise(
        Dataset.from_list(records), tokenizer, encoder_decoder=True, max_length=5, teacher_max_length=8
    )
    assert max(map(len, made["input_ids"])) == 5
    assert max(map(len, made["teacher_input_ids"])) == 8
    assert all(labels[-1] == tokenizer.eos_token_id and len(labels) <= 5 for labels in made["labels"])
    assert made["teacher_labels"] == made["labels"]
    assert "4 of 4 records had a source or a target that was too long" in caplog.text


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "running text"}, "need the columns `prompt` and `completion`, but have"),
        ({"prompt": "a", "completion": ""}, "needs text in `completion`, but row 0 has ''"),
        ({"prompt": None, "completion": "a"}, "needs text in `prompt`, but row 0 has None"),
    ],
)
def test_records_without_a_source_and_a_target_are_refused(record: Any, message: str, tokenizer: Any) -> None:
    with pytest.raises(DataError, match=message):
        limbeck.tokenise(Dataset.from_list([record]), tokenizer, encoder_decoder=True)


def trainer_of(folder: Path, student: Any, teacher: Any, objective: Objective, rows: Any) -> Any:
    config = DistillConfig(
        output_dir=str(folder), per_device_train_batch_size=4, max_steps=1, disable_tqdm=True, max_grad_norm=0.0
    )
    return DistillTrainer(student, teacher, objective, config, train_dataset=rows)


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradients_are_the_models_own(family: str, tokenizer: Any, rows: Any, tmp_path: Path) -> None:
    """Without a collator and without decoder_input_ids, which the trainer makes as the model does."""
    student = model(family, tokenizer)
    trainer = trainer_of(tmp_path, student, None, LABELS, rows)
    trainer.check()
    batches, counts = trainer.get_batch_samples(iter([trainer.data_collator(list(rows))]), 1, trainer.args.device)
    found = trainer.compute_loss(student, batches[0], num_items_in_batch=counts)
    found.backward()
    gradients = {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}
    student.zero_grad()
    batch = {n: v for n, v in PadPairs(tokenizer.pad_token_id)(list(rows)).items() if n != "row_id"}
    own = student(**batch).loss
    own.backward()
    assert found.item() == pytest.approx(own.item(), rel=1e-5)
    for name, parameter in student.named_parameters():
        if parameter.grad is not None:
            difference = (gradients[name] - parameter.grad).norm()
            assert difference <= 1e-4 * parameter.grad.norm() + 1e-6, name


def by_hand(student: Any, teacher: Any, rows: Any) -> dict[str, float]:
    """Each example alone, unpadded, in float64."""
    student, teacher = student.double(), teacher.double()
    found: dict[str, list[torch.Tensor]] = {"nll": [], "forward_kl": [], "agreement": []}
    with torch.no_grad():
        for row in rows:
            source, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
            log_q, log_p = (
                m(input_ids=source, decoder_input_ids=decoder_inputs(m, labels)).logits[0].log_softmax(-1)
                for m in (student, teacher)
            )
            found["nll"].append(F.nll_loss(log_q, labels[0], reduction="none"))
            found["forward_kl"].append((log_p.exp() * (log_p - log_q)).sum(-1))
            found["agreement"].append((log_p.argmax(-1) == log_q.argmax(-1)).double())
    student.float(), teacher.float()
    return {name: torch.cat(values).mean().item() for name, values in found.items()}


@pytest.mark.parametrize("family", ["T5", "Bart", "MBart", "M2M100"])
def test_an_evaluation_is_that_of_each_example_alone(family: str, tokenizer: Any, rows: Any) -> None:
    student, teacher = model(family, tokenizer), model(family, tokenizer, seed=1)
    results = limbeck.evaluate_language(
        student, rows, teacher=teacher, tokenizer=tokenizer, batch_size=3, resamples=10, completions=2, max_new_tokens=8
    )
    expected, measured = by_hand(student, teacher, rows), results["roles"]["student"]
    assert results["test"]["tokens"] == sum(map(len, rows["labels"]))
    assert measured["nll"]["mean"] == pytest.approx(expected["nll"], rel=1e-4)
    assert measured["to_teacher"]["forward_kl"]["mean"] == pytest.approx(expected["forward_kl"], rel=1e-4)
    assert measured["to_teacher"]["agreement"]["mean"] == pytest.approx(expected["agreement"], rel=1e-4)
    for shown in results["completions"]:
        row = rows[shown["row_id"]]
        wrote = student.generate(
            input_ids=torch.tensor([row["input_ids"]]),
            do_sample=False,
            max_new_tokens=8,
            eos_token_id=tokenizer.eos_token_id,
        )
        assert shown["student"] == tokenizer.decode(wrote[0], skip_special_tokens=True)
        assert shown["reference"] == tokenizer.decode(row["labels"][:8], skip_special_tokens=True)
        assert shown["prompt"] == RECORDS[shown["row_id"]]["prompt"]
    worst = results["tokens"][0]
    labels = rows[worst["row_id"]]["labels"]
    assert worst["id"] == labels[worst["place"]]
    assert worst["before"] == tokenizer.decode(labels[: worst["place"]])


def test_rows_of_causal_models_are_not_measured(tokenizer: Any) -> None:
    student = model("Bart", tokenizer)
    causal = limbeck.tokenise(Dataset.from_list(RECORDS), tokenizer)
    with pytest.raises(DataError, match=r"its encoder reads what its decoder is to write.*encoder_decoder=True"):
        limbeck.evaluate_language(student, causal, resamples=10)
    decoder = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=2)
    )
    with pytest.raises(ModelError, match="Encoder-decoders and causal models read other rows"):
        limbeck.evaluate_language(student, causal, teacher=decoder, resamples=10)


def speech(kind: str) -> Any:
    if kind == "Whisper":
        sizes = {**LAYERS, "d_model": 8, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "vocab_size": 32}
        more = {"num_mel_bins": 4, "max_source_positions": 8, "max_target_positions": 8, "pad_token_id": 0}
        return transformers.WhisperForConditionalGeneration(
            transformers.WhisperConfig(**sizes, **more, decoder_start_token_id=1, bos_token_id=1, eos_token_id=2)
        )
    if kind == "Speech2Text":
        sizes = {**LAYERS, "d_model": 8, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "vocab_size": 32}
        return transformers.Speech2TextForConditionalGeneration(
            transformers.Speech2TextConfig(**sizes, input_feat_per_channel=4, conv_channels=4)
        )
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    encoder = transformers.ViTConfig(**small, image_size=8, patch_size=4)
    decoder = transformers.GPT2Config(
        vocab_size=32, n_embd=8, n_layer=1, n_head=2, add_cross_attention=True, is_decoder=True
    )
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    return transformers.VisionEncoderDecoderModel(config=config)


@pytest.mark.parametrize(
    ("kind", "reads"),
    [("Whisper", "input_features"), ("Speech2Text", "input_features"), ("VisionEncoderDecoder", "pixel_values")],
)
def test_encoder_decoders_of_sound_and_images_are_refused_by_name(
    kind: str, reads: str, rows: Any, tmp_path: Path
) -> None:
    student = speech(kind)
    message = f"The student, {type(student).__name__}, is a model for writing text about {reads}, which Limbeck"
    with pytest.raises(ModelError, match=message):
        trainer_of(tmp_path, student, None, LABELS, rows).train()
    with pytest.raises(ModelError, match=message):
        limbeck.evaluate_language(student, rows)


def test_the_commands_train_and_measure_an_encoder_decoder(
    tokenizer: Any, tmp_path: Path, limbeck_says: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("limbeck.evaluation.tokens.speed_of_draft", lambda *given: None)  # tested elsewhere, and slow
    for name, seed in (("student", 0), ("teacher", 1)):
        model("T5", tokenizer, seed).save_pretrained(name)
        tokenizer.save_pretrained(name)
    for split, records in (("train", RECORDS * 4), ("test", RECORDS[:1])):
        lines = [json.dumps(record) + "\n" for record in records]
        Path(f"data/{split}.jsonl").parent.mkdir(exist_ok=True)
        Path(f"data/{split}.jsonl").write_text("".join(lines))
    words = ("--student", "student", "--teacher", "teacher", "--data", "data")
    code, out, err = limbeck_says("evaluate", *words, "--output", "results.json")
    assert code == 0, out + err
    student, teacher = (limbeck.load(name) for name in ("student", "teacher"))
    test = limbeck.tokenise(Dataset.from_list(RECORDS[:1]), tokenizer, encoder_decoder=True)
    expected = by_hand(student, teacher, test)
    measured = limbeck.read_results("results.json")["roles"]["student"]
    assert measured["nll"]["mean"] == pytest.approx(expected["nll"], rel=1e-4)
    assert measured["to_teacher"]["forward_kl"]["mean"] == pytest.approx(expected["forward_kl"], rel=1e-4)
    run = ("--max_steps", "2", "--report_to", "none", "--output_dir", "run", "--learning_rate", "0.003")
    code, out, err = limbeck_says("distill", *words, *run)
    assert code == 0, out + err
    trained = limbeck.read_results("run/results.json")["roles"]["student"]
    after = by_hand(limbeck.load("run/student"), teacher, test)
    assert trained["to_teacher"]["forward_kl"]["mean"] == pytest.approx(after["forward_kl"], rel=1e-4)
    assert after["forward_kl"] != expected["forward_kl"]
