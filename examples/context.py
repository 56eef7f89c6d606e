"""Context distillation: a model learns to follow an instruction from its context without that context.

    python context.py --seeds 3

A small Llama first learns from labels to follow the instruction in its context: to translate words into one of four
languages, forwards or backwards; without an instruction, to repeat them. Then it teaches itself: the teacher reads
"answer in French and backwards : cat sun milk =", the student "cat sun milk =" alone. Both are measured on every phrase
of five words that distillation has not used: a student that has memorised its examples, and not learned the
instruction, fails there. Two students are trained: one in every weight, one in a LoRA adapter (peft) of the queries and
values of attention. The results are in docs/language.md.
"""

import argparse
import copy
import itertools
import random
from collections.abc import Sequence
from typing import Any

import peft
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, PrinterCallback

import limbeck

WORDS = {
    "English": "red blue green black white cat dog bird fish horse sun moon star water fire bread milk salt house tree",
    "French": "rouge bleu vert noir blanc chat chien oiseau poisson cheval soleil lune étoile eau feu pain lait sel "
    "maison arbre",
    "German": "rot blau grün schwarz weiß Katze Hund Vogel Fisch Pferd Sonne Mond Stern Wasser Feuer Brot Milch Salz "
    "Haus Baum",
    "Spanish": "rojo azul verde negro blanco gato perro pájaro pez caballo sol luna estrella agua fuego pan leche sal "
    "casa árbol",
    "Italian": "rosso blu verde nero bianco gatto cane uccello pesce cavallo sole luna stella acqua fuoco pane latte "
    "sale casa albero",
}
ENGLISH = WORDS["English"].split()
INSTRUCTIONS = [
    f"answer in {language} and {order} : " for language in list(WORDS)[1:] for order in ("forwards", "backwards")
]
LABELS = limbeck.Objective(soft_weight=0.0, hard_weight=1.0)
SOFT = limbeck.Objective(temperature=1.0)


def main() -> None:
    """Prints four lines per seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seeds", type=int, default=1, help="how often the whole experiment runs, including the teacher"
    )
    parser.add_argument("--teacher_steps", type=int, default=1500, help="of 32 phrases each")
    parser.add_argument("--steps", type=int, default=600, help="of distillation, of 32 phrases each")
    chosen = parser.parse_args()
    print(f"{'':40}{'exact answers':>14}{'KL':>8}")
    for seed in range(chosen.seeds):
        for name, (right, kl) in one_seed(seed, chosen.teacher_steps, chosen.steps).items():
            print(f"seed {seed}, {name:32}{right:14.3f}{kl:8.3f}", flush=True)


def one_seed(seed: int, teacher_steps: int, steps: int) -> dict[str, tuple[float, float]]:
    """For each model: the share of phrases that it answers exactly, and KL(teacher‖student) in nats per token."""
    drawn, tokenizer = random.Random(seed), make_tokenizer()
    torch.manual_seed(seed)
    teacher = llama(len(tokenizer))
    every = [record(phrase(ENGLISH, drawn), drawn.choice([*INSTRUCTIONS, "", ""])) for _ in range(32 * teacher_steps)]
    answers = Dataset.from_list(every).remove_columns("prompt").rename_column("teacher_prompt", "prompt")
    train(teacher, None, LABELS, limbeck.tokenise(answers, tokenizer), steps=teacher_steps, seed=seed, rate=3e-3)

    instruction, used = drawn.choice(INSTRUCTIONS), drawn.sample(ENGLISH, 15)
    unused = [word for word in ENGLISH if word not in used]
    taught = Dataset.from_list([record(phrase(used, drawn), instruction) for _ in range(3000)])
    rows = limbeck.tokenise(taught, tokenizer)
    phrases = (words for length in (2, 3, 4) for words in itertools.permutations(unused, length))
    test = Dataset.from_list([record(words, instruction) for words in phrases])
    found = {"teacher with the instruction": (exact(teacher, tokenizer, test["teacher_prompt"], test), 0.0)}
    student = copy.deepcopy(teacher)
    lora = peft.LoraConfig(r=16, lora_alpha=32, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(copy.deepcopy(teacher), lora)
    for name, learner, its_teacher, number, rate in (
        ("student before", student, teacher, 0, 0.0),
        ("every weight after", student, teacher, steps, 1e-3),
        ("adapter after", adapted, limbeck.WithoutAdapter(adapted), steps, 5e-3),
    ):
        if number:
            train(learner, its_teacher, SOFT, rows, steps=number, seed=seed, rate=rate)
        found[name] = exact(learner, tokenizer, test["prompt"], test), divergence(learner, its_teacher, test, tokenizer)
    return found


def phrase(words: list[str], drawn: random.Random) -> list[str]:
    return drawn.sample(words, drawn.randint(2, 4))


def record(words: Sequence[str], instruction: str) -> dict[str, str]:
    """The student's prompt, the teacher's prompt, and the answer that follows the instruction."""
    prompt, answer = " ".join([*words, "="]), list(words)
    for language, translated in WORDS.items():
        if language in instruction:
            answer = [translated.split()[ENGLISH.index(word)] for word in words]
    if "backwards" in instruction:
        answer.reverse()
    return {"prompt": prompt, "teacher_prompt": instruction + prompt, "completion": " ".join(answer)}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one token per word, and one that ends an answer."""
    words = dict.fromkeys(" ".join(["<end> =", *WORDS.values(), *INSTRUCTIONS]).split())
    splits = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<end>"))
    splits.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=splits, eos_token="<end>", pad_token="<end>", padding_side="left")


def llama(words: int) -> LlamaForCausalLM:
    """A new Llama of two layers and 64 channels."""
    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0}
    return LlamaForCausalLM(LlamaConfig(vocab_size=words, tie_word_embeddings=True, **size, **ends))


def train(student: Any, teacher: Any, objective: Any, rows: Dataset, steps: int, seed: int, rate: float) -> None:
    """Trains the student for `steps` steps of 32 rows."""
    config = limbeck.DistillConfig(
        "runs/context",
        max_steps=steps,
        per_device_train_batch_size=32,
        learning_rate=rate,
        lr_scheduler_type="cosine",
        warmup_steps=50,
        seed=seed,
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    trainer = limbeck.DistillTrainer(student, teacher, objective, config, train_dataset=rows)
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def divergence(student: Any, teacher: Any, test: Dataset, tokenizer: PreTrainedTokenizerFast) -> float:
    """KL(teacher‖student) over the tokens of the answers, in nats; teacher and student each read their prompt."""
    config = limbeck.DistillConfig("runs/context", per_device_eval_batch_size=100, disable_tqdm=True)
    judge = limbeck.DistillTrainer(student, teacher, SOFT, config, eval_dataset=limbeck.tokenise(test, tokenizer))
    judge.remove_callback(PrinterCallback)
    return float(judge.evaluate()["eval_forward_kl"])


def exact(model: Any, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str], test: Dataset) -> float:
    """The share of prompts whose greedy answer is right in every word and in its end."""
    inputs = tokenizer(list(prompts), return_tensors="pt", padding=True, return_token_type_ids=False).to(model.device)
    written = model.eval().generate(**inputs, max_new_tokens=6, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    answers = tokenizer.batch_decode(written, skip_special_tokens=True)
    return sum(one == other for one, other in zip(answers, test["completion"], strict=True)) / len(answers)


if __name__ == "__main__":
    main()
