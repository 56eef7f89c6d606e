"""Evaluation of language models on every token of a test set: students, baselines and a teacher.

    rows = limbeck.tokenise(records, tokenizer)
    results = limbeck.evaluate_language(student, rows, teacher=teacher, baseline=baseline, tokenizer=tokenizer)
    print(results["verdict"]["sentence"])

Logits exist a few rows at a time. The fields of the results: docs/results.md.

What this file does not know: how the models were trained, how results are drawn.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from limbeck.errors import ConfigError, DataError, ModelError
from limbeck.evaluation.class_verdict import EXAMPLES_SHOWN
from limbeck.evaluation.generation import ends_of, prompts_of, reason_of, speed_of_draft, written
from limbeck.evaluation.intervals import json_ready
from limbeck.evaluation.roles import Curves, Models, by_role, joined, objective_of_all, require_complete
from limbeck.evaluation.token_verdict import Tokens, judge_tokens, role_results
from limbeck.losses.divergences import forward_kl
from limbeck.losses.metrics import position_statistics
from limbeck.losses.objective import Objective
from limbeck.losses.targets import SoftTargets
from limbeck.networks.asking import TEACHER_PREFIX, Batch, device_of, networks_of, networks_of_all
from limbeck.networks.causal import require_causal
from limbeck.networks.checks import check_rows
from limbeck.networks.cost import size_of
from limbeck.networks.decoding import DECODED, is_encoder_decoder, require_pairs, with_decoder_inputs
from limbeck.networks.halves import ROWS, base_of, is_language_model
from limbeck.networks.modes import restored
from limbeck.networks.positions import next_token_positions, next_tokens
from limbeck.networks.tasks import require_supported_tasks
from limbeck.results import RESULTS, header
from limbeck.teachers import BaseTeacher, ModelTeacher, as_teacher, fingerprint_of
from limbeck.teachers.protocol import TeacherLike
from limbeck.transfer.text.collate import Pad
from limbeck.transfer.text.pairs import PadPairs
from limbeck.transfer.text.vocabulary import classes_to_cut_to

KEPT = {"nll": "nll", "correct": "accuracy", "entropy": "entropy", "confidence": "confidence"}
KEPT |= {name: name for name in ("forward_kl", "reverse_kl", "agreement", "acceptance")}
"""Statistic -> its name in the results."""

BEFORE = 24
"""The number of tokens shown before one on which teacher and student differ."""
LIKELIEST = 5

Teachers = dict[str, list[BaseTeacher]]
"""Role -> its models, each as a teacher, which gives the distributions of a batch's tokens."""


def evaluate_language(
    student: Models,
    test: datasets.Dataset,
    *,
    teacher: TeacherLike | None = None,
    baseline: Models | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    teacher_tokenizer: PreTrainedTokenizerBase | None = None,
    objective: Objective | None = None,
    curves: Curves | None = None,
    completions: int = 4,
    max_new_tokens: int = 64,
    batch_size: int = 8,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Returns the results of language models on a test set, as plain JSON-ready values (docs/results.md).

    student: a causal language model of transformers, or a list of them, one per seed. baseline: as many, each paired
        with the student at its place. teacher: as DistillTrainer takes it, or None.
    test: rows of `tokenise` (a datasets.Dataset) that no model was trained on; every token with a label is measured:
        NLL and perplexity, top-1 accuracy, entropy, and against the teacher KL both ways (nats), top-1 agreement and
        acceptance: the chance that a token drawn from the student is accepted by speculative decoding, 1 - TVD.
    tokenizer: shows tokens and completions, which are left out without it. teacher_tokenizer: as for DistillTrainer.
    objective: what the students were trained with, shown in the results; by default what DistillTrainer noted on them.
    curves: name -> a trainer's log history, passed on.
    completions: of so many rows, the greedy completions of up to max_new_tokens by all roles, side by side; on the same
        prompts the teacher is timed alone and with the student as its draft. 0 leaves both out.

    Models run on their devices, in eval mode and without gradient, and are restored afterwards. LimbeckErrors where
    models and rows do not match.
    """
    models = by_role(student, baseline, teacher)
    _check(models, test)
    classes = classes_to_cut_to(tokenizer, teacher_tokenizer, option="tokenizer")
    with restored(m for members in models.values() for m in members), torch.no_grad():
        teachers = {role: [_teacher_of(role, m, classes) for m in members] for role, members in models.items()}
        tokens, size = _measure(teachers, test, batch_size)
        worst = _worst_tokens(teachers, test, tokens, tokenizer) if "teacher" in teachers else []
        places = _evenly(len(test), completions if tokenizer is not None else 0)
        failed: dict[str, str] = {}
        wrote = [_completion(models, test[place], tokenizer, max_new_tokens, failed) for place in places]
        draft = None
        if places and "teacher" in models:
            ends = ends_of(teacher, tokenizer)
            encodes = is_encoder_decoder(models["student"][0])
            prompts = [prompts_of(test[place], encodes)[1] for place in places]
            draft = speed_of_draft(teacher, models["student"][0], prompts, max_new_tokens, ends)
    roles = {role: role_results(tokens, role) | size_of(members[0]) for role, members in models.items()}
    roles["student"]["fingerprints"] = [fingerprint_of(m) for m in models["student"]]
    results = {
        **header(RESULTS),
        "task": "language",
        "objective": objective_of_all(models["student"], objective),
        "test": {"examples": tokens.examples, "tokens": len(tokens.label), "classes": size},
        "verdict": judge_tokens(tokens, resamples, seed),
        "roles": roles,
        "draft": draft,
        "completions": wrote,
        "completions_failed": failed,
        "tokens": worst,
        "curves": {name: list(points) for name, points in (curves or {}).items()},
    }
    ready: dict[str, Any] = json_ready(results)
    return ready


def _check(models: Mapping[str, Sequence[Any]], test: Any) -> None:
    for role, members in models.items():
        require_supported_tasks(networks_of_all(members) or [], role)
    kinds = {is_encoder_decoder(n) for members in models.values() for n in networks_of_all(members) or []}
    if len(kinds) > 1:
        raise ModelError(
            "Encoder-decoders and causal models read other rows, and cannot be compared on one test; pass models of "
            "one kind."
        )
    for role in ("student", "baseline"):
        for model in models.get(role, ()):
            if not is_language_model(model):
                raise ModelError(
                    f"A {role} must be a language model of transformers, but got {type(model).__name__}; use "
                    "limbeck.evaluate for classifiers."
                )
    if len(models.get("teacher", ())) > 1:
        raise ConfigError("An evaluation compares with one teacher; combine several: Ensemble([...]).")
    if len(test) == 0:
        raise DataError("The test is empty; an evaluation needs at least one example.")
    teacher = next(iter(models.get("teacher", ())), None)
    for model in (*models["student"], *models.get("baseline", ())):
        check_rows(model, teacher, test, len(base_of(model).get_output_embeddings().weight))
    for role, members in models.items():
        column = "teacher_labels" if role == "teacher" and "teacher_labels" in test[0] else "labels"
        for model in members:
            require_causal(model, torch.as_tensor(test[0][column]), role)
    if "position_ids" in test[0]:
        raise DataError("The rows of the test are packed, but its examples are counted; pass the rows of tokenise.")


def _measure(teachers: Teachers, test: Any, batch_size: int) -> tuple[Tokens, int]:
    """The statistics of every token of the test, and the number of classes."""
    device = _device_of(teachers)
    parts: dict[str, list[list[dict[str, Tensor]]]] = {role: [[] for _ in each] for role, each in teachers.items()}
    rows: list[tuple[Tensor, Tensor]] = []
    classes = 0
    for start in range(0, len(test), batch_size):
        count = min(batch_size, len(test) - start)
        batch = _batch(teachers, [test[start + i] for i in range(count)], device)
        positions = next_token_positions(batch)
        at, labels = positions.rows, positions.labels
        assert at is not None  # a language model's positions have both
        assert labels is not None
        rows.append((start + at // batch["labels"].shape[1], labels))
        answers = {
            role: [teacher(_view(role, teacher, batch), positions) for teacher in each]
            for role, each in teachers.items()
        }
        classes = _one_size(answers, labels)
        for some in (slice(i, i + ROWS) for i in range(0, len(labels), ROWS)):
            log_p = _log_probs(answers["teacher"][0][some], "teacher") if "teacher" in answers else None
            for role, each in answers.items():
                for seed, targets in enumerate(each):
                    log_q = log_p if role == "teacher" and log_p is not None else _log_probs(targets[some], role)
                    found = position_statistics(log_q, None if role == "teacher" else log_p, labels[some])
                    parts[role][seed].append({name: found[name].cpu() for name in KEPT})
    statistics = {
        role: {called: np.stack([joined(one, name) for one in seeds]) for name, called in KEPT.items()}
        for role, seeds in parts.items()
    }
    example, label = (torch.cat([row[i] for row in rows]).cpu().numpy() for i in (0, 1))
    before = np.bincount(example, minlength=len(test)).cumsum()
    place = np.arange(len(example)) - np.concatenate([[0], before[:-1]])[example]
    return Tokens(statistics, example, place, label, len(test)), classes


def _worst_tokens(teachers: Teachers, test: Any, tokens: Tokens, tokenizer: Any) -> list[dict[str, Any]]:
    """The tokens of the highest KL(teacher‖student), the text before them, and each role's most probable tokens."""
    kl = tokens.statistics["student"]["forward_kl"][0]
    device, found = _device_of(teachers), []
    for token in np.argsort(-kl, kind="stable")[:EXAMPLES_SHOWN]:
        row = test[int(tokens.example[token])]
        batch = _batch(teachers, [row], device)
        place = int(tokens.place[token])
        source = row["labels"] if DECODED in batch else row["input_ids"]
        ids = source[: int(next_tokens(batch).places[place])]
        expected = {}
        for role, each in teachers.items():
            log_probs = _log_probs(each[0](_view(role, each[0], batch))[place : place + 1], role)[0]
            top = log_probs.topk(min(LIKELIEST, len(log_probs)))
            expected[role] = [
                {"token": _shown(tokenizer, [int(i)]), "id": int(i), "log_prob": float(value)}
                for i, value in zip(top.indices, top.values, strict=True)
            ]
        found.append(
            {
                "row_id": int(row["row_id"]) if "row_id" in row else int(tokens.example[token]),
                "place": place,
                "before": _shown(tokenizer, ids[-BEFORE:]),
                "token": _shown(tokenizer, [int(tokens.label[token])]),
                "id": int(tokens.label[token]),
                "forward_kl": float(kl[token]),
                "expected": expected,
            }
        )
    return found


def _completion(
    models: Mapping[str, Sequence[Any]], row: Any, tokenizer: Any, most: int, failed: dict[str, str]
) -> dict[str, Any]:
    """The completion of a row's prompt by each role, beside the reference in the row.

    failed: the roles whose model cannot write, with the reason; they are not asked again.
    """
    mine, theirs, reference = prompts_of(row, is_encoder_decoder(models["student"][0]))
    wrote: dict[str, str | None] = {}
    for role, members in models.items():
        wrote[role] = None
        if role in failed or len(networks_of(members[0]) or []) != 1:  # an ensemble has no one network that could write
            continue
        prompt = theirs if role == "teacher" else mine
        try:
            ids = written(members[0], prompt, most, ends_of(members[0], tokenizer))
        except Exception as error:  # whatever generate raises, the measurements are not lost
            failed[role] = reason_of(error)
        else:
            wrote[role] = tokenizer.decode(ids, skip_special_tokens=True)
    return {
        "row_id": int(row["row_id"]) if "row_id" in row else None,
        "prompt": tokenizer.decode(mine, skip_special_tokens=True),
        "teacher_prompt": tokenizer.decode(theirs, skip_special_tokens=True) if theirs != mine else None,
        "reference": tokenizer.decode(reference[:most], skip_special_tokens=True),
        **wrote,
    }


def _teacher_of(role: str, model: Any, classes: int | None) -> BaseTeacher:
    """The model of any role as a teacher, which gives the distributions of a batch's tokens."""
    teacher = as_teacher(model) if role == "teacher" else ModelTeacher(model)
    return teacher if classes is None else teacher.cut(classes)


def _batch(teachers: Teachers, rows: Sequence[Mapping[str, Any]], device: torch.device) -> Batch:
    """The rows as a batch for the first student's kind of model, causal or encoder-decoder."""
    network = next(iter(networks_of(teachers["student"][0]) or []), None)
    encodes = is_encoder_decoder(network)
    batch = {name: values.to(device) for name, values in (PadPairs(0) if encodes else Pad(0))(rows).items()}
    if encodes:
        require_pairs(type(base_of(network)).__name__, batch)
    return with_decoder_inputs(network, batch)


def _view(role: str, teacher: BaseTeacher, batch: Batch) -> Batch:
    """The columns that a model reads: all for the teacher, all but the `teacher_*` ones for others.

    An encoder-decoder has decoder inputs as it makes them itself.
    """
    network = next(iter(networks_of(teacher) or []), None)
    if is_encoder_decoder(network):
        batch = with_decoder_inputs(network, {n: v for n, v in batch.items() if not n.endswith(DECODED)})
    if role == "teacher":
        return batch
    return {name: values for name, values in batch.items() if not name.startswith(TEACHER_PREFIX)}


def _log_probs(targets: SoftTargets, role: str) -> Tensor:
    """`[n, C]` at T = 1, float32."""
    require_complete(targets)
    bad = targets.bad_rows(forward_kl)
    log_probs = targets.all_log_probs(1.0).float()
    if bool(bad.any() | log_probs.isnan().any()):
        raise ModelError(
            f"The {role} gave nan or infinity for a token of the test; look at its weights, or at its dtype."
        )
    return log_probs


def _one_size(answers: Mapping[str, Sequence[SoftTargets]], labels: Tensor) -> int:
    """The number of classes; DataError unless all models have as many and every label is one of them."""
    sizes = {role: each[0].num_classes for role, each in answers.items()}
    if len(set(sizes.values())) > 1:
        raise DataError(
            f"The output layers must have the same classes, but have {sizes}. If they are padded and the tokenizer is "
            "one, give it (--tokenizer; in Python tokenizer and teacher_tokenizer): the layers are cut to its tokens."
        )
    classes = next(iter(sizes.values()))
    if len(labels) and int(labels.max()) >= classes:
        raise DataError(f"The test has the label {int(labels.max())}, but the models have {classes}.")
    return classes


def _shown(tokenizer: Any, ids: Sequence[int]) -> str | None:
    return None if tokenizer is None else str(tokenizer.decode(ids))


def _evenly(rows: int, some: int) -> list[int]:
    """`some` places among `rows`, as far apart as they can be."""
    some = min(some, rows)
    return [(2 * i + 1) * rows // (2 * some) for i in range(some)]


def _device_of(teachers: Teachers) -> torch.device:
    networks = networks_of(teachers["student"][0]) or []
    return next(filter(None, map(device_of, networks)), torch.device("cpu"))
