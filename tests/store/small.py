"""What the tests of stores label: images, texts of words, and rows of a language model, with teachers for them."""

from pathlib import Path
from typing import Any

import datasets
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from limbeck import DistillConfig, DistillTrainer, Objective, TransferSet, mlp

C, V = 5, 61


def images(n: int = 50, seed: int = 0) -> TransferSet:
    g = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, 4, 4), generator=g, dtype=torch.uint8)
    return TransferSet({"inputs": pixels}, torch.randint(0, C, (n,), generator=g), row_ids=torch.arange(n) + 1000)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    made = mlp([16, 8, C])
    for parameter in made.parameters():  # far enough from 0 that two networks say different things
        parameter.data.mul_(4)
    return made


def rows(n: int = 23, seed: int = 0, longest: int = 12) -> datasets.Dataset:
    """As `tokenise` makes them: of different lengths, the first tokens a prompt."""
    g = torch.Generator().manual_seed(seed)
    made = []
    for row_id in range(n):
        length = int(torch.randint(4, longest + 1, (), generator=g))
        ids = torch.randint(3, V, (length,), generator=g).tolist()
        made.append({"row_id": row_id + 100, "input_ids": ids, "labels": [-100] * 2 + ids[2:], "length": length})
    ids = datasets.List(datasets.Value("int32"))
    kinds = {"row_id": datasets.Value("int64"), "input_ids": ids, "labels": ids, "length": datasets.Value("int32")}
    return datasets.Dataset.from_list(made, features=datasets.Features(kinds))


def words(first: str = "w0", size: int = V, **options: Any) -> Any:
    """A tokenizer of so many words."""
    vocabulary = {first: 0} | {f"w{i}": i for i in range(1, size)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=first))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, **options)


def llama(seed: int = 0, vocabulary: int = V) -> Any:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
    )
    made = LlamaForCausalLM(config)
    for parameter in made.parameters():
        parameter.data.mul_(4)
    return made


def trainer(student: Any, teacher: Any, folder: Path, train: Any, objective: Any = None, **given: Any) -> Any:
    """What of `given` is no training argument goes to the trainer."""
    options = {name: given.pop(name) for name in ("augment", "eval_dataset", "processing_class") if name in given}
    usual = {"per_device_train_batch_size": 4, "num_train_epochs": 2, "learning_rate": 0.05, "seed": 3}
    config = DistillConfig(output_dir=str(folder), save_strategy="no", disable_tqdm=True, use_cpu=True, **usual | given)
    objective = objective or Objective(temperature=2.0, hard_weight=0.5)
    return DistillTrainer(student, teacher, objective, config, train_dataset=train, **options)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file, by name."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def log_p(targets: Any, temperature: float = 1.0) -> Tensor:
    """Of the teacher, `[n, E]`."""
    found: Tensor = targets.events(torch.zeros(len(targets), targets.num_classes), temperature)[1]
    return found
