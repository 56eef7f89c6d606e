"""Comparing two tokenizers, and the number of classes that they share.

What this file does not know: models, losses.
"""

import hashlib
import json
from typing import Any

from transformers import PreTrainedTokenizerBase

from limbeck.errors import ConfigError, DataError

IN_FAST = ("normalizer", "pre_tokenizer", "model")
"""The parts of a fast tokenizer that decide which ids a text has, apart from special tokens around it."""


def classes_to_cut_to(
    student: PreTrainedTokenizerBase | None, teacher: PreTrainedTokenizerBase | None, option: str
) -> int | None:
    """The number of classes that both output layers are cut to; None where no teacher's tokenizer is given.

    option: the name of the parameter for the student's tokenizer, for messages.
    """
    if teacher is None:
        return None
    if student is None:
        raise ConfigError(f"teacher_tokenizer is compared with the student's; pass that as {option}.")
    return shared_vocabulary(student, teacher)


def shared_vocabulary(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> int:
    """The number of classes of the tokenizer that student and teacher share: its highest id + 1, added tokens included.

    `vocab_size` leaves added tokens out, and an output layer may have more rows than there are tokens. DataError where
    the tokenizers differ in a token or in how they split a text.
    """
    mine: dict[str, int] = student.get_vocab()
    theirs: dict[str, int] = teacher.get_vocab()
    if mine != theirs:
        differing = sorted(set(mine.items()) ^ set(theirs.items()), key=lambda pair: (pair[1], pair[0]))
        token, number = differing[0]
        whose = "student" if mine.get(token) == number else "teacher"
        raise DataError(
            "Student and teacher must have the same tokenizer, but theirs differ in "
            f"{len({token for token, _ in differing})} tokens: id {number} is {token!r} for the {whose} only. Their "
            "distributions have different classes; choose a student of the teacher's family, or train it on text that "
            "the teacher generated."
        )
    if hasattr(student, "backend_tokenizer") and hasattr(teacher, "backend_tokenizer"):
        parts = [json.loads(tokenizer.backend_tokenizer.to_str()) for tokenizer in (student, teacher)]
        for name in IN_FAST:
            if parts[0].get(name) != parts[1].get(name):
                raise DataError(
                    f"Student and teacher have the same tokens, but their tokenizers differ in their {name}, so a text "
                    "is split differently; pass the same tokenizer for both."
                )
    return max(mine.values()) + 1


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of everything that `shared_vocabulary` compares: each token with its id, and how texts are split."""
    parts: list[Any] = [sorted(tokenizer.get_vocab().items())]
    if hasattr(tokenizer, "backend_tokenizer"):
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        parts += [backend.get(name) for name in IN_FAST]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def template_hash(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """SHA-256 of the tokenizer's chat template, or None where it has none."""
    template = getattr(tokenizer, "chat_template", None)
    return None if not template else hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()
