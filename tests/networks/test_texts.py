"""Texts that a classifier cannot read are found before the first step, and cut by the commands."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

import limbeck
from limbeck.errors import DataError
from limbeck.networks.texts import embedded_tokens, text_limit
from limbeck.teachers import ModelTeacher
from limbeck.transfer import TransferSet
from limbeck.transfer.text.tokens import Ragged

WORDS = ["<pad>", "<unk>", "<s>", "</s>", "good", "bad", "a", "film", "plot"]
SIZES: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_labels": 2,
}


def bert(positions: int = 16, **more: Any) -> nn.Module:
    config = transformers.BertConfig(**SIZES | more, max_position_embeddings=positions)
    return transformers.BertForSequenceClassification(config)


def roberta(positions: int) -> nn.Module:
    config = transformers.RobertaConfig(**SIZES, max_position_embeddings=positions, pad_token_id=1)
    return transformers.RobertaForSequenceClassification(config)


def gpt2(positions: int) -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=len(WORDS), n_embd=8, n_layer=1, n_head=2, n_positions=positions, num_labels=2
    )
    return transformers.GPT2ForSequenceClassification(config)


def opt(positions: int) -> nn.Module:
    config = transformers.OPTConfig(
        vocab_size=len(WORDS), hidden_size=8, ffn_dim=8, num_hidden_layers=1, num_attention_heads=2, num_labels=2,
        max_position_embeddings=positions, word_embed_proj_dim=8,
    )  # fmt: skip
    return transformers.OPTForSequenceClassification(config)


def llama(positions: int) -> nn.Module:
    config = transformers.LlamaConfig(**SIZES, max_position_embeddings=positions)
    return transformers.LlamaForSequenceClassification(config)


LIMITS = {"bert": (bert, 16), "roberta": (roberta, 14), "gpt2": (gpt2, 16), "opt": (opt, 16), "llama": (llama, None)}


@pytest.mark.parametrize("family", LIMITS)
@torch.no_grad()
def test_the_limit_is_the_longest_text_that_the_model_reads(family: str) -> None:
    make, limit = LIMITS[family]
    model = make(16).eval()
    assert text_limit(model) == limit
    assert text_limit(ModelTeacher(model), mlp_like()) == limit
    model(input_ids=torch.full((1, limit or 40), 4))
    if limit is not None:
        with pytest.raises((IndexError, RuntimeError, ValueError)):
            model(input_ids=torch.full((1, limit + 1), 4))


def mlp_like() -> nn.Module:
    return nn.Linear(2, 2)


def texts(lengths: list[int], highest: int = 8) -> TransferSet:
    """Texts of these lengths; the last token of the last one is `highest`."""
    values = torch.full((sum(lengths),), 4)
    values[-1] = highest
    sizes = torch.tensor(lengths)
    ids, mask = Ragged(values, sizes, 0), Ragged(torch.ones_like(values), sizes, 0)
    return TransferSet({"input_ids": ids, "attention_mask": mask}, torch.arange(len(lengths)) % 2)


def train(folder: Path, student: nn.Module, teacher: nn.Module, examples: Any) -> Any:
    config = limbeck.DistillConfig(
        output_dir=str(folder), max_steps=2, per_device_train_batch_size=2, disable_tqdm=True
    )
    trainer = limbeck.DistillTrainer(student, teacher, args=config, train_dataset=examples)
    trainer.train()
    return trainer


def test_a_text_beyond_the_positions_is_refused_before_training(tmp_path: Path) -> None:
    long = texts([3, 4, 5, 2, 3, 17])  # not in the first batch
    with pytest.raises(
        DataError, match=r"A text has 17 tokens in input_ids, and the student reads 16; .*max_length=16"
    ):
        train(tmp_path, bert(), bert(32), long)
    with pytest.raises(DataError, match="and the teacher reads 14"):
        train(tmp_path, bert(32), roberta(16), long)
    with pytest.raises(DataError, match="and the teacher reads 16"):
        limbeck.label(bert(), long, tmp_path / "stored")
    with pytest.raises(DataError, match="and the student reads 16"):
        limbeck.evaluate(bert(), long, latency=False)
    stored = limbeck.label(bert(32), long, tmp_path / "stored", kind="dense")
    assert stored.token_extent("input_ids") == (17, 8)
    with pytest.raises(DataError, match="A text has 17 tokens in input_ids, and the student reads 16"):
        train(tmp_path, bert(), stored.teacher, stored)
    assert train(tmp_path, bert(), bert(), long.select([0, 1, 2, 3, 4])).state.global_step == 2


def test_a_token_beyond_the_embedding_is_refused_before_training(tmp_path: Path) -> None:
    added = texts([3, 4, 5, 2, 3, 6], highest=len(WORDS))
    with pytest.raises(DataError, match=r"has the token 9, and the student's embedding has 9 tokens, 0 to 8: .*resize"):
        train(tmp_path, bert(), bert(vocab_size=10), added)
    with pytest.raises(DataError, match="the teacher's embedding has 9 tokens"):
        train(tmp_path, bert(vocab_size=10), bert(), added)
    with pytest.raises(DataError, match="the teacher's embedding has 9 tokens"):
        limbeck.label(bert(), added, tmp_path / "stored")
    with pytest.raises(DataError, match="the student's embedding has 9 tokens"):
        limbeck.evaluate(bert(), added, latency=False)
    grown = bert()
    grown.resize_token_embeddings(10)  # type: ignore[operator]
    assert embedded_tokens(grown) == 10
    assert train(tmp_path, grown, bert(vocab_size=10), added).state.global_step == 2


def test_the_commands_cut_texts_to_the_positions_and_say_so(
    tmp_path: Path, limbeck_says: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>")
    for name, positions in (("student", 8), ("teacher", 16)):
        bert(positions).save_pretrained(name)  # type: ignore[operator]
        tokenizer.save_pretrained(name)
    records = [{"text": f"a {'good film ' * (i % 9)}plot", "label": i % 2} for i in range(40)]
    Path("data.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    words = ("--student", "student", "--teacher", "teacher", "--data", "data.jsonl")
    run = ("--max_steps", "1", "--report_to", "none", "--output_dir", "run")
    with pytest.warns(
        UserWarning, match="Texts are truncated to 8 tokens, the most positions that one of the models has"
    ):
        code, out, err = limbeck_says("distill", *words, *run)
    assert code == 0, out + err
    with pytest.warns(UserWarning, match=r"of 40 texts in train have more than 8 tokens and were cut"):
        code, out, err = limbeck_says("evaluate", *words, "--output", "results.json", "--split", "train")
    assert code == 0, out + err
