"""`limbeck demo --language`: a language model distilled, on text that every Python ships: its own reference.

The teacher, a small Llama that reads bytes, has learned from the text. Two students half as deep and half as wide,
from the same initial weights and in the same steps: the baseline learns from the text, the distilled one from the
teacher's soft targets. Both are measured on topics that no model was trained on; several seeds.

Written to the folder: the student, results.json, report.html (the same as a page) and log.jsonl.

What this file does not know: how the command is called, how results are printed.
"""

import copy
import gc
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import torch
from datasets import Dataset
from torch import nn
from transformers import ByT5Tokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from limbeck.commands.console import LogFile, quiet, say, say_plan
from limbeck.commands.progress import Training
from limbeck.errors import DataError
from limbeck.evaluation.tokens import evaluate_language
from limbeck.losses.objective import Objective
from limbeck.networks.folder import save
from limbeck.report import write_report
from limbeck.results import Json, JsonView, write_results
from limbeck.training.config import DistillConfig
from limbeck.training.trainer import DistillTrainer
from limbeck.transfer.text.examples import tokenise

TEACHER = {
    "num_hidden_layers": 4,
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
STUDENT = {name: size // 2 for name, size in TEACHER.items()}
LENGTH, BATCH = 128, 8
TEACHER_STEPS, STUDENT_STEPS = 800, 300
TEACHER_RATE, STUDENT_RATE = 4e-3, 5e-3
ON_TEXT = Objective(soft_weight=0.0, hard_weight=1.0)
DISTILLED = Objective(temperature=1.0)


def demonstrate_language(folder: Path, seeds: int) -> Json:
    """Trains a teacher, and per seed both students; returns the results, and writes the files listed above."""
    torch.set_num_threads(1)  # as for the other demo: the nets are small
    gc.freeze()  # Trainer collects garbage at every start, and need not look at the libraries each time
    tokenizer = ByT5Tokenizer(extra_ids=0)  # a token is a byte: it needs no file
    rows = topics(tokenizer)
    torch.manual_seed(1000)
    teacher = _llama(TEACHER, tokenizer)
    say(f"Teacher: {sum(p.numel() for p in teacher.parameters()):,} parameters, {TEACHER_STEPS} steps on the text.")
    _fit("teacher", teacher, None, ON_TEXT, rows, _config(folder, TEACHER_STEPS, TEACHER_RATE, seed=1000))
    students, baselines = [], []
    log: list[Json] = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        distilled = _llama(STUDENT, tokenizer)
        baseline = copy.deepcopy(distilled)
        config = _config(folder, STUDENT_STEPS, STUDENT_RATE, seed)
        if seed == 0:
            say_plan(distilled, teacher, DISTILLED, rows, config)
        name = f"seed {seed + 1} of {seeds}"
        logged = folder / "log.jsonl" if seed == 0 else None
        curve = _fit(f"distilled, {name}", distilled, teacher, DISTILLED, rows, config, logged)
        log = log or curve
        _fit(f"text alone, {name}", baseline, None, ON_TEXT, rows, config)
        students.append(distilled)
        baselines.append(baseline)
    save(students[0], folder / "student", tokenizer=tokenizer)
    results = evaluate_language(
        students,
        rows["test"],
        teacher=teacher,
        baseline=baselines,
        tokenizer=tokenizer,
        curves={"student": log},
        batch_size=32,
    )
    results["settings"] = {"temperature": DISTILLED.temperature, "hard_weight": DISTILLED.hard_weight} | {
        "seeds": seeds,
        "teacher_steps": TEACHER_STEPS,
        "steps": STUDENT_STEPS,
    }
    write_results(results, folder / "results.json")
    write_report(folder, folder / "report.html")
    return results


def topics(tokenizer: PreTrainedTokenizerBase) -> dict[str, datasets.Dataset]:
    """ "train" and "test": rows of Python's reference, a tenth of its topics for the test.

    Topics repeat each other's paragraphs; each paragraph is used once, so that no test paragraph was trained on.
    """
    try:
        from pydoc_data.topics import topics as texts
    except ImportError as error:
        raise DataError(
            "The text of this demo is pydoc_data.topics, which this Python lacks; use a Python with the whole "
            "standard library, or run `limbeck demo`."
        ) from error
    seen: set[str] = set()
    paragraphs: dict[str, list[str]] = {}
    for name in sorted(texts):
        paragraphs[name] = []
        for paragraph in texts[name].split("\n\n"):
            words = " ".join(paragraph.split())  # however it is indented there
            if words and words not in seen:
                paragraphs[name].append(paragraph)
                seen.add(words)
    names = list(paragraphs)
    random.Random(0).shuffle(names)
    tested = -(-len(names) // 10)
    rows = {}
    for part, topics_of_part in (("train", names[tested:]), ("test", names[:tested])):
        records = [{"text": text} for name in topics_of_part for text in _records(paragraphs[name])]
        rows[part] = tokenise(Dataset.from_list(records), tokenizer, max_length=LENGTH)
    return rows


def _records(paragraphs: list[str]) -> list[str]:
    """Texts of whole paragraphs, at most LENGTH tokens with the end token; longer ones are split between words."""
    records = [""]
    for paragraph in (f"{text}\n\n" for text in paragraphs):
        fits = len(paragraph.encode()) < LENGTH
        for part in [paragraph] if fits else re.split(r"(?<=\s)(?=\S)", paragraph):
            if len((records[-1] + part).encode()) >= LENGTH:
                records.append("")
            records[-1] += part
    return [text for record in records if (text := record.strip("\n"))]


def _llama(sizes: Mapping[str, int], tokenizer: Any) -> LlamaForCausalLM:
    config = LlamaConfig(
        **sizes,
        vocab_size=len(tokenizer),
        max_position_embeddings=LENGTH,
        tie_word_embeddings=True,
        initializer_range=0.1,  # for models this narrow: with the usual 0.02 they take hundreds of steps to wake up
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def _config(folder: Path, steps: int, rate: float, seed: int) -> DistillConfig:
    return DistillConfig(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        learning_rate=rate,
        lr_scheduler_type="cosine",
        warmup_steps=steps // 10,
        seed=seed,
        logging_steps=10,
        save_strategy="no",
        disable_tqdm=True,
    )


def _fit(
    what: str,
    student: nn.Module,
    teacher: Any,
    objective: Objective,
    rows: JsonView,
    config: DistillConfig,
    logged: Path | None = None,
) -> list[Json]:
    """Trains; returns the log, and writes it where it is to be kept."""
    callbacks = [Training(what), *([LogFile(logged)] if logged else [])]
    trainer = DistillTrainer(student, teacher, objective, config, train_dataset=rows["train"], callbacks=callbacks)
    quiet(trainer).train()
    history: list[Json] = trainer.state.log_history
    return history
