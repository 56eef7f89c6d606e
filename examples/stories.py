"""Distilling a language model: a student of 100,000 weights learns from one of 260,000 that writes short stories.

    LIMBECK_DATA=path/to/data python stories.py

$LIMBECK_DATA holds stories260k (a transformers folder) and tinystories_sample (stories it was trained on). The same
student, from the same initial weights and for as many steps, is trained with soft targets and on the text alone; both
are measured on unseen stories. The results are in docs/language.md.
"""

import argparse
import os
import statistics
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PrinterCallback

import limbeck

SOFT = limbeck.Objective(temperature=1.0)
TEXT = limbeck.Objective(soft_weight=0.0, hard_weight=1.0)
MEASURED = ("nll", "forward_kl", "acceptance", "agreement")


def main() -> None:
    """Prints a line per training and one of means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="number of trainings of each student")
    parser.add_argument("--steps", type=int, default=1200, help="of 8 stories each")
    chosen = parser.parse_args()
    folder = Path(os.environ["LIMBECK_DATA"])
    teacher = limbeck.load(folder / "stories260k")
    tokenizer = AutoTokenizer.from_pretrained(folder / "stories260k")
    train, test = stories(folder / "tinystories_sample" / "tinystories_sample.txt", tokenizer)
    print(f"teacher {weights(teacher):,} weights, student {weights(student(tokenizer)):,}; {len(train)} stories")
    print(f"{'':24}{'nats/token':>12}{'perplexity':>12}{'KL':>8}{'acceptance':>12}{'agreement':>11}")
    found: dict[str, list[dict[str, float]]] = {}
    for seed in range(chosen.seeds):
        for name, objective in (("soft targets", SOFT), ("text alone", TEXT)):
            measured = trained(seed, teacher, objective, train, test, tokenizer, chosen.steps)
            found.setdefault(name, []).append(measured)
            print_row(f"{name}, seed {seed}", measured)
    for name, each in found.items():
        print_row(f"{name}, mean", {key: statistics.mean(m[key] for m in each) for key in MEASURED})


def student(tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """Returns a new Llama of three layers and 48 channels."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=48,
            intermediate_size=128,
            num_hidden_layers=3,
            num_attention_heads=6,
            num_key_value_heads=3,
            max_position_embeddings=512,
            tie_word_embeddings=True,
        )
    )


def stories(path: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[Dataset, Dataset]:
    """Splits the stories: nine of ten for training, the others for the test."""
    texts = [text.strip() for text in path.read_text("utf-8").split("<|endoftext|>")]
    records = Dataset.from_list([{"text": text} for text in texts if text])
    split = limbeck.tokenise(records, tokenizer, max_length=512).train_test_split(0.1, seed=0)
    return split["train"], split["test"]


def trained(
    seed: int,
    teacher: torch.nn.Module,
    objective: limbeck.Objective,
    train: Dataset,
    test: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    steps: int,
) -> dict[str, float]:
    """Trains a new student for `steps` steps and returns its measurements."""
    torch.manual_seed(seed)
    made = student(tokenizer)
    config = limbeck.DistillConfig(
        "runs/stories",
        max_steps=steps,
        per_device_train_batch_size=8,
        learning_rate=4e-3,
        lr_scheduler_type="cosine",
        warmup_steps=50,
        seed=seed,
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    trainer = limbeck.DistillTrainer(made, teacher, objective, config, train_dataset=train)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    found = limbeck.evaluate_language(made, test, teacher=teacher, batch_size=16)["roles"]["student"]
    return {name: (found["to_teacher"] | found)[name]["mean"] for name in MEASURED}


def print_row(name: str, measured: dict[str, float]) -> None:
    perplexity = torch.tensor(measured["nll"]).exp().item()
    print(
        f"{name:24}{measured['nll']:12.3f}{perplexity:12.2f}{measured['forward_kl']:8.3f}"
        f"{measured['acceptance']:12.3f}{measured['agreement']:11.3f}",
        flush=True,
    )


def weights(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


if __name__ == "__main__":
    main()
